"""`visionzoo reconstruct`: a moving scene from images with cameras."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from visionzoo import options as shared
from visionzoo.options import MODEL, OUTPUT, Checkpoint, Device, Overwrite, Reporting

from .options import ReconstructOptions

app = shared.command_app(
    "reconstruct",
    [
        "visionzoo reconstruct samples -o scene",
        "visionzoo reconstruct scene -o scene.vzgs --preview",
        "visionzoo reconstruct video.mp4 -o video.vzgs",
        "visionzoo reconstruct scene -o static.vzgs --static",
        "visionzoo reconstruct hypernerf/misc/espresso -o espresso.vzgs --preset published --device cuda",
    ],
    usage="visionzoo reconstruct SCENE -o OUTPUT [OPTIONS]",
)


@app.default
def reconstruct(
    scene: Annotated[
        Path,
        shared.inputs(
            "Folder of a scene: images with cameras in the layout of Nerfies, HyperNeRF, DyCheck, COLMAP, Nvidia, D-NeRF or DyNeRF. "
            "Or a video by a moving camera: COLMAP then finds its cameras (needs the extra colmap)."
        ),
    ],
    /,
    *,
    output: Annotated[Path, shared.output("Scene to write (.vzgs).")],
    preset: Annotated[
        Literal["auto", "quick", "published", "tiny"],
        shared.option(
            MODEL,
            "Size of the model and length of the training: quick takes minutes on a CPU; published is the paper's and needs a "
            "GPU; tiny is for small tests; auto is published on CUDA, and quick elsewhere.",
        ),
    ] = "auto",
    model: Annotated[str | None, shared.model("reconstruct", "modecgs by default")] = None,
    checkpoint: Checkpoint = None,
    options: ReconstructOptions = ReconstructOptions(),  # noqa: B008 (frozen)
    preview: Annotated[
        bool, shared.option(OUTPUT, "Show the scene in the browser while it is trained (needs the extra gs).")
    ] = False,
    port: Annotated[int, shared.option(OUTPUT, "Port of the preview.")] = 8080,
    device: Device = "auto",
    overwrite: Overwrite = False,
    reporting: Reporting = Reporting(),  # noqa: B008 (frozen)
) -> None:
    """Make a moving 3D scene from a video with camera poses. An interrupted training resumes with the same command."""
    from contextlib import ExitStack

    from visionzoo.console import emit, note

    from .files import check_files, preview_of, reconstruct_file

    check_files(scene, output, overwrite=overwrite)  # before torch is loaded
    from .pipeline import ReconstructPipeline

    pipe = ReconstructPipeline.create(model, device, "auto", checkpoint, preset=preset)
    with ExitStack() as stack:
        watch = None
        if preview:
            from .preview import previewing

            watch = stack.enter_context(previewing(port=port, quiet=reporting.silent))
        result = reconstruct_file(
            pipe, scene, output, options, progress=not reporting.silent, overwrite=overwrite, watch=watch
        )
    if reporting.json:
        emit(result)
    shown = ", ".join(f"{value:.2f} dB on {name.partition('/')[0]} views" for name, value in result["scores"].items())
    note(
        f"saved to {output} ({result['bytes'] / 1e6:.2f} MB, {shown}, {result['seconds']:.0f} s); compare with the views in "
        f"{preview_of(output)}",
        quiet=reporting.silent,
    )
    note(
        f"now try: visionzoo view {output}, or visionzoo render {output} -o {output.with_suffix('.mp4')}",
        quiet=reporting.silent,
    )


shared.samples_command(
    app,
    "reconstruct",
    f"{__package__}.samples:write_samples",
    folder="scene",
    help="Write a scene to try: a running fox, rendered from an animated model, as images with cameras and times.",
    then="visionzoo reconstruct scene -o scene.vzgs",
)


__all__ = ["app"]
