"""One report about generated videos: against the true videos, cuts, places that the camera returns to, and the Fréchet distance.

These are the measures of the tables of SlowFast-VGen (arXiv 2410.23277, section 4). The paper does not state the detector of cuts,
nor the network, clip length and number of clips of its FVD, so the report names those that were used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.console import counted
from visionzoo.errors import InputError, check_items, check_kind

from .cuts import CutStream, Detector, SceneCuts
from .features import FeatureExtractor, extractor_name
from .frames import Pixels, in_step, mean_of_known, video_planes
from .frechet import Frechet, fvd
from .lpips import Lpips
from .restoration import psnr, ssim
from .revisits import find_revisits, revisit, scene_return_consistency

Video = Callable[[], Iterable[Pixels]] | Sequence[Pixels]
"""The frames of a video in memory, or a function that opens them, since some measures read them again."""


@dataclass(frozen=True)
class GeneratedVideo:
    """Measures of one video; None where they were not asked for.

    Attributes:
        frames: its length.
        psnr, ssim, lpips: means over the frames, against the true video. SSIM is that of torchmetrics.
        cuts: see `scene_cuts`.
        revisit_psnr, revisit_ssim: means over the visits after the first of each place, against the frame of the first.
        src: scene-return consistency.
        revisits: number of these visits.
    """

    frames: int
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    cuts: SceneCuts | None = None
    revisit_psnr: float | None = None
    revisit_ssim: float | None = None
    src: float | None = None
    revisits: int = 0


@dataclass(frozen=True)
class GenerationReport:
    """Measures of generated videos; `str` is a table.

    Attributes:
        videos: the measures of each.
        fvd: Fréchet distance of all clips of the generated and the true videos, or None.
        src_extractor: name of the network that describes frames for SRC, or None.
        lpips_network: name of the network of LPIPS, or None.
        skipped: frames at the beginning of each video that were given, not generated, and not compared with the true ones.
    """

    videos: tuple[GeneratedVideo, ...]
    fvd: Frechet | None = None
    src_extractor: str | None = None
    lpips_network: str | None = None
    skipped: int = 0

    def mean(self, name: str) -> float | None:
        """The mean of a measure over the videos that have it, "cuts" being their number; None if no video has it."""
        values = [getattr(video, name) for video in self.videos]
        known = [value.count if isinstance(value, SceneCuts) else value for value in values if value is not None]
        return float(mean_of_known(np.array(known, dtype=np.float64))) if known else None

    @property
    def rows(self) -> list[tuple[str, str, float | None, str]]:
        """(key, measure, value, how it was measured) of everything that was asked for."""
        cuts = next((video.cuts.settings for video in self.videos if video.cuts is not None), "")
        visits = sum(video.revisits for video in self.videos)
        clips = (
            "" if self.fvd is None else f"{self.fvd.extractor}; {self.fvd.samples[0]} and {self.fvd.samples[1]} clips"
        )
        rows = [
            ("fvd", "FVD", None if self.fvd is None else self.fvd.distance, clips),
            ("psnr", "PSNR, dB", self.mean("psnr"), "against the true frames"),
            ("ssim", "SSIM x 100", _times100(self.mean("ssim")), "torchmetrics' borders"),
            ("lpips", "LPIPS x 100", _times100(self.mean("lpips")), str(self.lpips_network)),
            ("cuts", "scene cuts", self.mean("cuts"), cuts),
            ("src", "SRC", self.mean("src"), str(self.src_extractor)),
            ("revisit_psnr", "PSNR of revisits, dB", self.mean("revisit_psnr"), counted(visits, "visit")),
            ("revisit_ssim", "SSIM of revisits x 100", _times100(self.mean("revisit_ssim")), counted(visits, "visit")),
        ]
        return [row for row in rows if row[2] is not None]

    def as_dict(self) -> dict[str, Any]:
        """JSON values: the means, how they were measured, and the measures of each video; None for what is infinite."""
        return {
            "videos": len(self.videos),
            "frames": sum(video.frames for video in self.videos),
            "skipped": self.skipped,
            "measures": {key: {"value": _finite(value), "how": how} for key, _, value, how in self.rows},
            "by_video": [
                {
                    "frames": video.frames,
                    **{name: _finite(getattr(video, name)) for name in ("psnr", "ssim", "lpips", "src")},
                    "cuts": None if video.cuts is None else list(video.cuts.cuts),
                    "revisit_psnr": _finite(video.revisit_psnr),
                    "revisit_ssim": _finite(video.revisit_ssim),
                }
                for video in self.videos
            ],
        }

    def __str__(self) -> str:
        frames = sum(video.frames for video in self.videos)
        lines = [
            f"{counted(len(self.videos), 'video')}, {counted(frames, 'frame')}",
            "",
            "| measure | | how |",
            "|---|---|---|",
        ]
        digits = {"cuts": ".2f", "fvd": ".1f"}
        lines += [f"| {text} | {value:{digits.get(key, '.2f')}} | {how} |" for key, text, value, how in self.rows]
        return "\n".join(lines)


def generation_report(
    videos: Sequence[Video],
    *,
    true: Sequence[Video] | None = None,
    cameras: Sequence[Tensor | NDArray[np.floating]] | None = None,
    tolerance: float | Sequence[float] = 1e-6,
    away: float | Sequence[float] | None = None,
    skip: int = 0,
    lpips: Lpips | None = None,
    src: FeatureExtractor | None = None,
    clips: FeatureExtractor | None = None,
    clip_length: int = 16,
    clip_stride: int = 8,
    detector: Detector | Literal[False] = "adaptive",
    threshold: float | None = None,
    min_scene_len: int = 15,
    progress: Callable[[int], object] | None = None,
) -> GenerationReport:
    """Measure generated videos. Every video is read up to three times; few frames are in memory.

    Args:
        videos: the generated videos.
        true: as many true videos, each of the length and size of its generated one: for PSNR, SSIM, LPIPS and FVD.
        cameras: for each video the camera states (T, k), such as `StoredClip.cameras`: for revisits. A video whose camera comes
            back to no place has no such measures.
        tolerance, away: see `find_revisits`.
        skip: frames at the beginning of each video that were given and not generated; not compared with the true ones.
        lpips: for LPIPS; `Lpips(backbone=…)` reads the network from a file.
        src: describes frames for SRC, e.g. `resnet18_features(path)`.
        clips: describes clips for FVD, e.g. `i3d_features(path)`. Needs `true`.
        clip_length, clip_stride: of the clips of FVD, in frames.
        detector, threshold, min_scene_len: see `scene_cuts`; the detector False counts no cuts.
        progress: called with the number of videos that are done.

    Raises:
        InputError: no videos, unequal numbers or lengths, arguments that need others, or wrong shapes, types or values.
    """
    check_items("videos", videos, "a list of videos")
    for name, given in (("true videos", true), ("camera paths", cameras)):
        if given is not None and len(given) != len(videos):
            raise InputError(f"there are {len(videos)} videos but {len(given)} {name}; give one for each video")
    if not videos:
        raise InputError("there are no videos to measure")
    if true is None and (lpips is not None or clips is not None):
        raise InputError("LPIPS and FVD compare with true videos; pass true=")
    if src is not None and cameras is None:
        raise InputError("scene-return consistency needs camera paths; pass cameras=")
    if skip < 0:
        raise InputError(f"skip must be at least 0, got {skip}")
    if lpips is not None:
        check_kind("lpips", lpips, "a visionzoo.metrics.lpips.Lpips", "spatial")
    found = []
    for number, video in enumerate(videos):
        stream = None if detector is False else CutStream(detector, threshold, min_scene_len)
        facts = _compared(video, None if true is None else true[number], skip, lpips, stream, number)
        if cameras is not None:
            facts |= _returned(video, cameras[number], tolerance, away, src)
        found.append(GeneratedVideo(**facts))
        if progress is not None:
            progress(number + 1)
    distance = None
    if clips is not None and true is not None:
        ours, theirs = ([_open(video) for video in group] for group in (videos, true))
        distance = fvd(ours, theirs, clips, length=clip_length, stride=clip_stride)
    return GenerationReport(
        tuple(found),
        distance,
        None if src is None else extractor_name(src),
        None if lpips is None else lpips.name,
        skip,
    )


def _open(video: Video) -> Iterable[Pixels]:
    return video() if callable(video) else video


def _compared(
    video: Video, true: Video | None, skip: int, lpips: Lpips | None, cuts: CutStream | None, number: int
) -> dict[str, Any]:
    """The measures of one pass through a video and the true one."""
    scores: dict[str, list[float]] = {"psnr": [], "ssim": [], "lpips": []}
    count = 0
    pairs: Iterator[tuple[Tensor, Tensor | None]]
    planes = video_planes(_open(video), f"video {number}: frame")
    if true is None:
        pairs = ((frame, None) for frame in planes)
    else:
        others = video_planes(_open(true), f"true video {number}: frame")
        pairs = in_step(planes, others, (f"frames in video {number}", f"frames in true video {number}"))
    for count, (ours, theirs) in enumerate(pairs, start=1):
        if cuts is not None:
            cuts.add(ours)
        if theirs is None or count <= skip:
            continue
        if ours.shape != theirs.shape:
            raise InputError(
                f"video {number} has {ours.shape[2]} x {ours.shape[1]} pixels and its true video {theirs.shape[2]} x "
                f"{theirs.shape[1]}; resize one of them"
            )
        scores["psnr"].append(psnr(ours, theirs))
        scores["ssim"].append(ssim(ours, theirs, borders="reflected"))
        if lpips is not None:
            scores["lpips"].append(float(lpips(ours[None].float(), theirs[None].float())))
    if not count:
        raise InputError(f"video {number} has no frames")
    if true is not None and count <= skip:
        raise InputError(f"video {number} has {count} frames, and skip={skip} leaves none to compare")
    means = {name: math.fsum(values) / len(values) for name, values in scores.items() if values}
    return {"frames": count, **means, "cuts": None if cuts is None else cuts.cuts()}


def _returned(
    video: Video,
    cameras: Tensor | NDArray[np.floating],
    tolerance: float | Sequence[float],
    away: float | Sequence[float] | None,
    src: FeatureExtractor | None,
) -> dict[str, Any]:
    pairs = find_revisits(cameras, tolerance, away)
    if not pairs:
        return {}
    again = revisit(_open(video), cameras, tolerance=tolerance, away=away)
    facts: dict[str, Any] = {
        "revisits": len(pairs),
        "revisit_psnr": again.mean_psnr,
        "revisit_ssim": again.mean_ssim,
    }
    if src is not None:
        facts["src"] = scene_return_consistency(_open(video), pairs, src).score
    return facts


def _times100(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


__all__ = ["GeneratedVideo", "GenerationReport", "Video", "generation_report"]
