"""The command `measure colorized`: colourised videos beside the true ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from visionzoo import options
from visionzoo.errors import InputError
from visionzoo.options import INPUT, MODEL, Device, Reporting

from .video_files import frames_of, is_truth, matching, toy_clip, video_files

if TYPE_CHECKING:
    from visionzoo.data.toy_world import StoredClip

    from .colorized import KnownRegions


def colorized(
    videos: Annotated[list[Path], options.inputs("Colorized videos, or a folder of them.")],
    /,
    *,
    true: Annotated[
        Path,
        options.option(
            INPUT,
            "True video, folder of a clip of the toy world, or a folder with one of either for each colorized video, of the same "
            "name. If the clips hold regions (data toy-world --truth), color drift is that of these.",
        ),
    ],
    first_frame: Annotated[
        int | None,
        options.option(
            INPUT,
            "Frame of the true video that the first frame of a colorized one shows, if these are shorter: 1 with the published "
            "plan of LongAnimation.",
        ),
    ] = None,
    borders: Annotated[
        str,
        options.option(
            INPUT,
            "Frames of the colorized videos that begin a segment, after the first, such as 73,138; published: 72,137,202 and so on; "
            "none: made in one piece.",
        ),
    ] = "published",
    erode: Annotated[
        int, options.option(INPUT, "Pixels at the borders of regions that do not count, as lines can blur there.")
    ] = 1,
    lpips: Annotated[Path | None, options.option(MODEL, "Weights of torchvision's AlexNet, for LPIPS.")] = None,
    inception: Annotated[
        Path | None,
        options.option(MODEL, "Weights of Inception-v3, such as pt_inception-2015-12-05-6726825d.pth, for FID."),
    ] = None,
    i3d: Annotated[Path | None, options.option(MODEL, "Weights of I3D, such as rgb_imagenet.pt, for FVD.")] = None,
    random_features: Annotated[
        bool,
        options.option(
            MODEL,
            "Where no weights are given, use a seeded random network for FID and FVD; the values mean nothing elsewhere.",
        ),
    ] = False,
    clip_length: Annotated[int, options.option(MODEL, "Frames of the clips of FVD.")] = 16,
    clip_stride: Annotated[int, options.option(MODEL, "Frames from one clip to the next.")] = 8,
    device: Device = "auto",
    reporting: Reporting = Reporting(),  # noqa: B008 (frozen)
) -> None:
    """Measure colorized videos beside the true ones: PSNR, SSIM, LPIPS, FID, FVD, color drift by segment, and seams.

    Examples: visionzoo measure colorized colored.mp4 --true original.mp4 --first-frame 1;
    visionzoo measure colorized colored --true clips --inception pt_inception-2015-12-05-6726825d.pth --i3d rgb_imagenet.pt
    """
    from visionzoo.console import emit
    from visionzoo.jobs.progress import Counter

    places = _places(borders)
    found = video_files(videos)
    truths = [matching(true, video, len(found), is_truth) for video in found]
    clips = [toy_clip(path) for path in truths]
    known = [_regions(clip) for clip in clips if clip is not None and clip.has_truth]
    from visionzoo.devices import pick_device

    from . import RandomFeatures, colorization_report, i3d_features, inception_features
    from .lpips import Lpips

    place = pick_device(device)
    chance: Any = RandomFeatures() if random_features else None
    with Counter(len(found), "measuring", "video", shown=not reporting.silent) as bar:
        report = colorization_report(
            [partial(frames_of, video) for video in found],
            [
                partial(frames_of, path) if clip is None else clip.video
                for path, clip in zip(truths, clips, strict=True)
            ],
            first_frame=first_frame,
            regions=known if len(known) == len(found) else None,
            erode=erode,
            borders=places,
            lpips=None if lpips is None else Lpips(backbone=lpips),
            images=chance if inception is None else inception_features(inception, device=place),
            clips=chance if i3d is None else i3d_features(i3d, device=place),
            clip_length=clip_length,
            clip_stride=clip_stride,
            progress=lambda _: bar.update(),
        )
    if reporting.json:
        emit({"files": [str(video) for video in found], **report.as_dict()})
    else:
        print(report)


def _places(borders: str) -> list[int] | Literal["published"]:
    """The first frames of segments."""
    if borders == "published":
        return "published"
    if borders == "none":
        return []
    with contextlib.suppress(ValueError):
        return [int(each) for each in borders.split(",")]
    raise InputError(f"--borders must be numbers of frames such as 73,138, published, or none, got {borders!r}")


def _regions(clip: StoredClip) -> KnownRegions:
    """The regions of a clip of the toy world; lines count to none."""
    from .colorized import KnownRegions

    def maps() -> Iterator[Any]:
        import numpy as np

        for truth, ink in zip(clip.truths(), clip.lines(), strict=True):
            yield np.where(ink > 250, truth.regions, np.uint16(len(clip.regions)))

    return KnownRegions(maps, {region.number: region.rgb for region in clip.regions})


__all__ = ["colorized"]
