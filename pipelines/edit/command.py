"""`visionzoo edit`: edit a video by text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from visionzoo import options as shared
from visionzoo.errors import InputError
from visionzoo.options import MODEL, SPEED, Processing

from .file_options import EditFileOptions
from .options import EditOptions
from .presets import preset_names, use_preset
from .samples import SAMPLES

EXAMPLE = 'visionzoo edit girl.mp4 --source-prompt "a girl in a red shirt" --prompt "a girl in a blue shirt" -o out.mp4'
app = shared.command_app(
    "edit",
    [
        "visionzoo edit samples -o toy",
        EXAMPLE,
        'visionzoo edit hat.mp4 --source-prompt "a man with a white hat" --prompt "a man with a pink hat" --phrase hat '
        "--checkpoint stable-diffusion-v1-5 --controlnet sd-controlnet-canny --preview -o look.mp4",
        'visionzoo edit street.mp4 --source-prompt "a street" --prompt "a street, oil painting" --edit style -o out.mp4',
        'visionzoo edit bear.mp4 --source-prompt "a bear" --prompt "a bear, winter" --edit background --mask bear_mask.mp4 '
        "--control hed --controlnet sd-controlnet-hed -o out.mp4",
    ],
    usage="visionzoo edit VIDEOS -o OUTPUT [OPTIONS]",
)
app.config = (shared.refuse_empty_paths, use_preset)


@app.default
def edit(
    videos: Annotated[
        list[Path], shared.inputs("Videos: files, folders (searched recursively) or glob patterns; GIFs, too.")
    ],
    /,
    *,
    output: Annotated[
        Path | None, shared.output("Video to write (.mp4, .mkv, .webm, …), or a folder for several videos.")
    ] = None,
    model: Annotated[
        str | None,
        shared.model("edit", "by default the checkpoint's, or lovecon_nano, which knows the samples' toy world only"),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        Parameter(
            group=MODEL,
            help="Stable Diffusion 1.5 or a model made from it: a folder as diffusers writes it, or a single file with --config.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        shared.option(
            MODEL,
            "Folder with the configuration and the tokenizer of a checkpoint in a single file, e.g. a copy of the folder of "
            "Stable Diffusion 1.5; its weights are not read.",
        ),
    ] = None,
    controlnet: Annotated[
        Path | None,
        shared.option(MODEL, "Folder of a ControlNet for the model, made for the kind of --control."),
    ] = None,
    lora: Annotated[
        list[str] | None,
        shared.option(
            MODEL,
            "File of a LoRA for the model, and after a colon its strength, e.g. pink.safetensors:0.8; can be repeated.",
        ),
    ] = None,
    embedding: Annotated[
        list[Path] | None,
        shared.option(
            MODEL,
            "File of a textual inversion, whose word prompts can use: its own, or the file's name in angle brackets; can be repeated.",
        ),
    ] = None,
    smoother: Annotated[
        str | None,
        shared.option(
            MODEL,
            "Network that smooths: a file with weights of RIFE (flownet.pkl), the name of a model, or none; by default that of the "
            "model, if it has one.",
        ),
    ] = None,
    scheduler: Annotated[
        Literal["ddim", "dpm++"],
        shared.option(MODEL, "ddim as published, or dpm++, which is more exact and has no memory bank."),
    ] = "ddim",
    preset: Annotated[
        str | None,
        shared.option(
            MODEL,
            f"Take the options that are not given from a preset, {', '.join(preset_names())}, or from a YAML file.",
        ),
    ] = None,
    options: Annotated[EditOptions | None, Parameter(name="*")] = None,
    files: EditFileOptions = EditFileOptions(),  # noqa: B008 (frozen)
    offload: Annotated[
        Literal["none", "model", "sequential"],
        shared.option(SPEED, "Keep networks in main memory while they do not run, on GPUs with little memory."),
    ] = "none",
    processing: Processing = Processing(),  # noqa: B008 (frozen)
) -> None:
    """Edit a video by text: the look of a thing, the background, or the style. The motion stays."""
    from visionzoo.jobs import make_plan, run_and_report, split_output

    from .kinds import KINDS

    paths, where = split_output(videos, output, EXAMPLE)
    plan = make_plan(paths, where, KINDS)
    plan.check(processing.overwrite)  # before torch and the weights are loaded
    chosen = options or EditOptions()
    if len(plan.pairs) > 1 and (alone := files.save_mask or files.save_control):
        raise InputError(f"{alone}: is written for one video, but there are {len(plan.pairs)}; edit them one by one")

    from .files import EditJob, check_files
    from .pipeline import LOVEConPipeline

    check_files(files, plan)
    parts = {"controlnet": controlnet, "interpolator": smoother}
    pipe = LOVEConPipeline.create(
        model,
        processing.device,
        processing.dtype,
        checkpoint,
        scheduler=scheduler,
        offload=offload,
        config=config,
        loras=dict(map(lora_and_scale, lora or ())),
        embeddings=embedding or (),
        **{name: part for name, part in parts.items() if part is not None},
    )
    run_and_report(EditJob(pipe, chosen, files), plan, processing)


def lora_and_scale(text: str) -> tuple[str, float]:
    """The file and the strength in FILE[:SCALE].

    Raises:
        InputError: no file, or a strength that is no number.
    """
    if not text:
        raise InputError("--lora: the path is empty; give a file or folder")
    path, colon, scale = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, 1.0
    try:
        return path, float(scale)
    except ValueError:
        if not Path(path).exists():
            return text, 1.0  # the colon belongs to the path, as in C:\\LORA
        raise InputError(f"--lora {text}: the strength after the colon must be a number, got {scale!r}") from None


shared.samples_command(
    app,
    "edit",
    f"{__package__}.samples:write_samples",
    folder="toy",
    help="Write clips of the toy world to try, 200 frames of 128 x 128 each, and commands.txt with a command line for each.",
    then=SAMPLES[0].command(Path("toy")),
)


__all__ = ["app"]
