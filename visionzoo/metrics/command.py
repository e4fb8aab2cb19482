"""The command `measure`: an edited video beside its source; its subcommands are in modules of their own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat, tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from visionzoo import options
from visionzoo.errors import InputError
from visionzoo.options import INPUT, MODEL, Device, Reporting

from .colorized_command import colorized
from .generated_command import generated

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from visionzoo.data.toy_world import StoredClip

app = options.command_app(
    "measure",
    [
        "visionzoo measure source.mp4 edited.mp4 --mask mask.png",
        "visionzoo measure source.mp4 edited.mp4 --clip clip-vit-large-patch14 --prompt 'a red car' --source-prompt 'a blue car'",
        "visionzoo measure source.mp4 edited.mp4 --raft raft_large_C_T_SKHT_V2-ff5fadd5.pth --json",
        "visionzoo measure clips/000000 edited.mp4 --mask shirt",
        "visionzoo measure generated walks --true clips --i3d rgb_imagenet.pt",
        "visionzoo measure colorized colored.mp4 --true original.mp4 --first-frame 1",
    ],
    help="Measure an edited video beside its source: what changed outside the mask, seams, motion, and text by CLIP. The subcommands "
    "generated and colorized measure generated and colorized videos.",
    usage="visionzoo measure SOURCE EDITED [OPTIONS]",
)

options.subcommand(app)(generated)
options.subcommand(app)(colorized)


@app.default
def measure(
    source: Annotated[
        Path,
        options.inputs(
            "Source video, or the folder of a clip of the toy world, whose true flow is used if it is stored."
        ),
    ],
    edited: Annotated[Path, options.inputs("Edited video, with as many frames of the same size.")],
    /,
    *,
    mask: Annotated[
        str | None,
        options.option(
            INPUT,
            "What may change, in white: an image, a video, or the name of a mask of the clip, such as shirt.",
        ),
    ] = None,
    prompt: Annotated[str | None, options.option(INPUT, "Prompt of the edited video (needs --clip).")] = None,
    source_prompt: Annotated[str | None, options.option(INPUT, "Prompt of the source (needs --prompt).")] = None,
    windows: Annotated[
        int, options.option(INPUT, "Length of the windows in which the video was edited, for its seams; 0 for none.")
    ] = 8,
    clip: Annotated[
        Path | None,
        options.option(MODEL, "Folder of a CLIP model of transformers with its processor (needs the extra diffusion)."),
    ] = None,
    raft: Annotated[
        Path | None,
        options.option(MODEL, "Weights of torchvision's RAFT, large or small, for the warp error of real videos."),
    ] = None,
    device: Device = "auto",
    reporting: Reporting = Reporting(),  # noqa: B008 (frozen)
) -> None:
    """Measure an edited video beside its source, in one pass: PSNR outside the mask, seams, warp error, and text by CLIP."""
    from visionzoo.console import emit
    from visionzoo.io.video import probe, read_frames
    from visionzoo.jobs.progress import Counter

    for path in (source, edited):
        if not path.exists():
            raise InputError(f"{path}: no such file; expected a video")
    if windows < 0 or windows == 1:
        raise InputError(f"--windows must be 0 or at least 2, got {windows}")
    if prompt is not None and clip is None:
        raise InputError("--prompt is compared by a CLIP model; add --clip FOLDER")
    if source_prompt is not None and prompt is None:
        raise InputError("--source-prompt is compared with the target prompt; add --prompt")
    stored = _stored(source)
    if stored is not None and raft is not None and stored.has_truth:
        raise InputError(f"{source}: holds the true flow, which is used; omit --raft")
    masks = None if mask is None else _masks(mask, stored, source)
    total = stored.frames if stored is not None else probe(source).frames
    from visionzoo.devices import pick_device

    from . import ClipModel, RaftFlow, edit_report

    place = pick_device(device)
    truth: dict[str, Any] = {}
    if stored is not None and stored.has_truth:
        first, second = tee(stored.truths())
        truth = {"flow": (each.flow for each in first), "valid": (each.valid for each in second)}
    elif raft is not None:
        truth = {"flow": RaftFlow(raft, device=place)}
    model = None if clip is None else ClipModel(clip, device=place)
    with Counter(total, "measuring", "frame", shown=not reporting.silent) as bar:
        report = edit_report(
            read_frames(source) if stored is None else stored.video(),
            read_frames(edited),
            mask=masks,
            **truth,
            windows=windows or None,
            clip=model,
            prompt=prompt,
            source_prompt=source_prompt,
            progress=lambda _: bar.update(),
        )
    if reporting.json:
        emit(report.as_dict())
    else:
        print(report)


def _stored(source: Path) -> StoredClip | None:
    """The clip of the toy world, if the source is a folder."""
    if not source.is_dir():
        return None
    from visionzoo.data.toy_world import read_clip

    return read_clip(source)


def _masks(mask: str, stored: StoredClip | None, source: Path) -> Iterator[NDArray[np.bool_]]:
    """A mask (H, W) for each frame."""
    from visionzoo.io.extensions import is_video
    from visionzoo.io.image import load_image
    from visionzoo.io.video import read_frames

    path = Path(mask)
    if not path.exists():
        if stored is None:
            raise InputError(
                f"{mask}: no such file; expected an image or a video that is white where the video may change {source}"
            )
        return stored.mask(mask)
    if is_video(path):
        return (frame.pixels.mean(axis=-1) > 127 for frame in read_frames(path))
    return repeat(load_image(path).mean(axis=-1) > 127)


__all__ = ["app"]
