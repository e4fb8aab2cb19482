"""`visionzoo generate`: continue an image or a video by actions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from visionzoo import options as shared
from visionzoo.errors import InputError
from visionzoo.options import INPUT, MODEL, SPEED, Processing

from .file_options import GenerateFileOptions
from .options import GenerateOptions
from .samples import SAMPLES

EXAMPLE = "visionzoo generate park.png --actions actions.txt -o out.mp4"
app = shared.command_app(
    "generate",
    [
        "visionzoo generate samples -o toy",
        EXAMPLE,
        'visionzoo generate park.png --action "go left x4" --action "go right x4" --memory park -o walk.mp4',
        'visionzoo generate --memory park --action "go left" -o later.mp4',
        'visionzoo generate street.jpg --action "the car drives on" --checkpoint text-to-video-ms-1.7b -o drive.mp4',
    ],
    usage="visionzoo generate IMAGE_OR_VIDEO --actions FILE -o OUTPUT [OPTIONS]",
)


@app.default
def generate(
    sources: Annotated[
        list[Path] | None,
        shared.inputs(
            "Images or videos to continue: files, folders (searched recursively) or glob patterns; none with --memory."
        ),
    ] = None,
    /,
    *,
    actions: Annotated[
        Path | None,
        shared.option(INPUT, "Text file with an action on each line; `go left x3` stands for three times `go left`."),
    ] = None,
    action: Annotated[
        list[str] | None,
        shared.option(INPUT, "An action, instead of a file; may be given several times."),
    ] = None,
    output: Annotated[
        Path | None, shared.output("Video to write (.mp4, .mkv, .webm, …), or a folder for several inputs.")
    ] = None,
    model: Annotated[
        str | None,
        shared.model("generate", "by default the checkpoint's, or slowfastvgen_nano, which knows the toy world only"),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        Parameter(
            group=MODEL,
            help="Folder of ModelScope's text-to-video model or of one of its kind, as diffusers writes it.",
        ),
    ] = None,
    scheduler: Annotated[
        Literal["ddim", "dpm++"] | None,
        shared.option(MODEL, "How to sample; by default the model's: DDIM. dpm++ needs fewer steps."),
    ] = None,
    options: Annotated[GenerateOptions | None, Parameter(name="*")] = None,
    files: GenerateFileOptions = GenerateFileOptions(),  # noqa: B008 (frozen)
    offload: Annotated[
        Literal["none", "model", "sequential"],
        shared.option(SPEED, "Keep networks in main memory while they do not run, on GPUs with little memory."),
    ] = "none",
    processing: Processing = Processing(),  # noqa: B008 (frozen)
) -> None:
    """Continue an image or a video by actions such as go left, chunk by chunk; a memory in weights learns on the way."""
    from visionzoo.jobs import run_and_report

    from .planning import plan_of, taken_actions

    plan = plan_of(sources or [], output, files, EXAMPLE)
    taken = taken_actions(actions, action)
    plan.check(processing.overwrite)  # before torch and the weights are loaded
    if files.memory is not None and len(plan.pairs) > 1:
        raise InputError(f"--memory: is of one video, but there are {len(plan.pairs)}; continue them one by one")

    from .files import GenerateJob
    from .pipeline import SlowFastVGenPipeline

    pipe = SlowFastVGenPipeline.create(
        model, processing.device, processing.dtype, checkpoint, scheduler=scheduler, offload=offload
    )
    run_and_report(GenerateJob(pipe, taken, options, files), plan, processing)


shared.samples_command(
    app,
    "generate",
    f"{__package__}.samples:write_samples",
    folder="toy",
    help="Write images of the toy world to try, files of actions that return to where they began, and commands.txt with a command "
    "line for each.",
    then=SAMPLES[0].command(Path("toy")),
)


__all__ = ["app"]
