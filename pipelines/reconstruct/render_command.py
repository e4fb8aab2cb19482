"""`visionzoo render`: a video, or an image, of a reconstructed scene."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from visionzoo import options as shared
from visionzoo.options import OUTPUT, Device, Overwrite, Reporting

app = shared.command_app(
    "render",
    [
        "visionzoo render scene.vzgs -o out.mp4",
        "visionzoo render scene.vzgs -o frozen.mp4 --path orbit --time 0.5",
        "visionzoo render scene.vzgs -o depth.mp4 --path input --show depth",
        "visionzoo render scene.vzgs -o frame.png --view 12 --resolution 512x512",
    ],
    usage="visionzoo render SCENE -o OUTPUT [OPTIONS]",
)


@app.default
def render(
    scene: Annotated[
        Path,
        shared.inputs(
            "Scene (.vzgs), an output folder of the published code of MoDec-GS, Scaffold-GS or 4DGaussians, or a file of "
            "Gaussians (.ply, .compressed.ply, .spz, .splat)."
        ),
    ],
    /,
    *,
    output: Annotated[
        Path, shared.output("Video to write (.mp4, .mkv, .webm, …), or an image of one moment (.png, .jpg, …).")
    ],
    path: Annotated[
        Literal["orbit", "input", "still"],
        shared.option(
            OUTPUT,
            "How the camera moves: orbit goes around the scene, or stays in front of it where only one side was filmed; input "
            "repeats the recording; still stays at one view.",
        ),
    ] = "orbit",
    time: Annotated[
        float | None,
        shared.option(OUTPUT, "Stop the scene at this time, from 0 (start) to 1 (end); by default it plays."),
    ] = None,
    view: Annotated[
        int, shared.option(OUTPUT, "Number of the training view, from 0, for --path still and for an image.")
    ] = 0,
    show: Annotated[
        Literal["color", "depth", "opacity"], shared.option(OUTPUT, "What to show; in depth, near is bright.")
    ] = "color",
    resolution: Annotated[
        str | None,
        shared.option(
            OUTPUT, "Size in pixels, e.g. 640x360 or 512 for the longer side; by default that of the training."
        ),
    ] = None,
    seconds: Annotated[
        float | None, shared.option(OUTPUT, "Length of the video; by default 5, and that of the recording for input.")
    ] = None,
    fps: Annotated[float, shared.option(OUTPUT, "Frames per second.")] = 24.0,
    turns: Annotated[float, shared.option(OUTPUT, "How often an orbit goes round.")] = 1.0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    reporting: Reporting = Reporting(),  # noqa: B008 (frozen)
) -> None:
    """Make a video, or an image of one moment, of a reconstructed scene."""
    from visionzoo.console import emit
    from visionzoo.jobs import summary

    from .render_options import RenderOptions, check_render

    options = RenderOptions(path, time, view, show, resolution, seconds, fps, turns)
    check_render(scene, output, overwrite=overwrite)  # before torch is loaded
    from .render import render_file
    from .scene import Scene

    result = render_file(
        Scene.open(scene, device), output, options, source=scene, progress=not reporting.silent, overwrite=overwrite
    )
    if reporting.json:
        emit(result.to_dict())
    from visionzoo.console import note

    for text in summary([result], "rendered"):
        note(text, quiet=reporting.silent)


__all__ = ["app"]
