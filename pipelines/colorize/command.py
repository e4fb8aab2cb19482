"""`visionzoo colorize`: colour line art, or the lines of a video, from one reference image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from visionzoo import options as shared
from visionzoo.errors import InputError
from visionzoo.options import INPUT, MODEL, SPEED, Processing

from .file_options import ColorizeFileOptions
from .options import ColorizeOptions
from .samples import SAMPLES

EXAMPLE = 'visionzoo colorize lines.mp4 --reference girl.png --prompt "a girl with a red shirt" -o out.mp4'
app = shared.command_app(
    "colorize",
    [
        "visionzoo colorize samples -o toy",
        EXAMPLE,
        'visionzoo colorize lines.mp4 --reference girl.png --prompt "a girl with a red shirt" --checkpoint longanimation --preview '
        "-o look.mp4",
        'visionzoo colorize FRAMES --fps 12 --reference girl.png --prompt "a girl with a red shirt" -o out.mp4',
        'visionzoo colorize CLIPS --reference girl.png --prompt "a girl with a red shirt" --no-drop-remainder -o COLORED',
    ],
    usage="visionzoo colorize LINEART_OR_VIDEO --reference IMAGE --prompt TEXT -o OUTPUT [OPTIONS]",
)


@app.default
def colorize(
    videos: Annotated[
        list[Path],
        shared.inputs(
            "Videos of line art, or in colour, whose lines are then extracted: files, folders (searched recursively) or glob "
            "patterns; or folders of images, each of which is a clip."
        ),
    ],
    /,
    *,
    reference: Annotated[
        Path | None,
        shared.option(INPUT, "Image in the colours that the video gets, e.g. its first frame, coloured by hand."),
    ] = None,
    output: Annotated[
        Path | None, shared.output("Video to write (.mp4, .mkv, .webm, …), or a folder for several videos.")
    ] = None,
    model: Annotated[
        str | None,
        shared.model("colorize", "by default the checkpoint's, or longanimation_nano, which knows the toy world only"),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        Parameter(
            group=MODEL,
            help="Folder with the published files (control_module.safetensors, glm_module.safetensors, CogVideoX1.5-5B-I2V, "
            "VideoXL_weight_8, sk_model.pth), or one that was saved by visionzoo.",
        ),
    ] = None,
    options: Annotated[ColorizeOptions | None, Parameter(name="*")] = None,
    files: ColorizeFileOptions = ColorizeFileOptions(),  # noqa: B008 (frozen)
    offload: Annotated[
        Literal["none", "model", "group", "sequential"],
        shared.option(SPEED, "Keep networks in main memory while they do not run, on GPUs with little memory."),
    ] = "none",
    memory_placement: Annotated[
        Literal["device", "moved", "host"],
        shared.option(
            SPEED,
            "Where the network is that watches coloured frames: on the device, there between segments, or in main memory.",
        ),
    ] = "device",
    processing: Processing = Processing(),  # noqa: B008 (frozen)
) -> None:
    """Colour line art from one reference image, segment by segment; a memory of all frames so far keeps the colours constant."""
    from visionzoo.jobs import make_plan, run_and_report, split_output

    from .kinds import KINDS

    paths, where = split_output(videos, output, EXAMPLE)
    plan = make_plan(paths, where, KINDS)
    plan.check(processing.overwrite)  # before torch and the weights are loaded
    if reference is None:
        raise InputError(f"--reference is missing: an image in the colours that the video gets, e.g. {EXAMPLE}")

    from .files import ColorizeJob, check_files
    from .pipeline import LongAnimationPipeline

    check_files(reference, plan, files)
    pipe = LongAnimationPipeline.create(
        model,
        processing.device,
        processing.dtype,
        checkpoint,
        offload=offload,
        memory_placement=memory_placement,
    )
    run_and_report(ColorizeJob(pipe, reference, options, files), plan, processing)


shared.samples_command(
    app,
    "colorize",
    f"{__package__}.samples:write_samples",
    folder="toy",
    help="Write clips of the toy world to try, 341 frames of 128 x 128 each: line art, a reference image, the true colours to compare "
    "with, and commands.txt with a command line for each.",
    then=SAMPLES[0].command(Path("toy")),
)


__all__ = ["app"]
