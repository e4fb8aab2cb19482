"""One report about colourised videos: beside the true videos, how colours drift, and whether segments can be seen.

These are the measures of LongAnimation (arXiv 2507.01945): PSNR, SSIM, LPIPS, FID and FVD. Its evaluation code is not published, so
the report names what was used. Colour drift and seams need no network: the first is what a memory of colours is for, the second
shows where a video was made in segments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from visionzoo.console import counted
from visionzoo.errors import InputError, check_items, check_kind

from .color import Color, Regions, ciede2000, srgb_to_lab
from .drift import ColorDrift, color_drift
from .features import FeatureExtractor
from .frames import Pixels, mean_of_known, video_planes
from .frechet import Frechet, fid, fvd
from .generated import Video
from .lpips import Lpips
from .restoration import psnr, ssim
from .temporal import Seam, frame_change, seam_of_changes

FIRST, STRIDE = 72, 65
"""Frames that the first segment of LongAnimation's published plan writes, and every other one."""

CELLS = 8
"""Without regions, the mean colours of as many cells along each side are compared."""


@dataclass(frozen=True)
class KnownRegions:
    """Regions whose true colours are known.

    Attributes:
        maps: opens them: for each frame of the true video ids (H, W), or a mapping from names to masks; see `color_drift`.
        colors: id or name -> true colour.
    """

    maps: Callable[[], Iterable[Regions]]
    colors: Mapping[Hashable, Color]


@dataclass(frozen=True)
class ColorizedVideo:
    """Measures of one video; None where they were not asked for or do not exist.

    Attributes:
        frames: its length.
        psnr, ssim, lpips: means over the frames, against the true video. SSIM is that of torchmetrics.
        drift: colours of regions, or of cells, against their true colours.
        borders: first frames of its segments after the first.
        seam, true_seam: changes across these borders and inside segments, and those of the true video; None with one segment, or
            where nothing changes inside of segments.
    """

    frames: int
    psnr: float
    ssim: float
    drift: ColorDrift
    lpips: float | None = None
    borders: tuple[int, ...] = ()
    seam: Seam | None = None
    true_seam: Seam | None = None

    @property
    def by_segment(self) -> NDArray[np.float64]:
        """(S,): mean colour distance in each segment; NaN where no region is visible."""
        bounds = [0, *self.borders, self.frames]
        return np.array([float(mean_of_known(self.drift.distances[one:end].ravel())) for one, end in pairwise(bounds)])


@dataclass(frozen=True)
class ColorizationReport:
    """Measures of colourised videos; `str` is a table.

    Attributes:
        videos: the measures of each.
        regions: whether the drift is that of regions whose colours are known; otherwise it is that of cells of the frame.
        fid, fvd: Fréchet distances of all frames and of all clips, or None.
        lpips_network: name of the network of LPIPS, or None.
    """

    videos: tuple[ColorizedVideo, ...]
    regions: bool
    fid: Frechet | None = None
    fvd: Frechet | None = None
    lpips_network: str | None = None

    @property
    def rows(self) -> list[tuple[str, str, float | None, str]]:
        """(key, measure, value, how it was measured) of everything that was measured."""
        against = (
            "regions against their true colors" if self.regions else f"{CELLS} x {CELLS} cells against the true video"
        )
        seams = [video.seam.ratio for video in self.videos if video.seam is not None]
        truth = [video.true_seam.ratio for video in self.videos if video.true_seam is not None]
        beside = f"change across borders / inside segments; true videos: {_mean(truth):.2f}" if truth else ""
        found: list[tuple[str, str, float | None, str]] = [
            ("psnr", "PSNR, dB", _mean([video.psnr for video in self.videos]), "against the true frames"),
            ("ssim", "SSIM x 100", 100 * _mean([video.ssim for video in self.videos]), "torchmetrics' borders"),
        ]
        if self.lpips_network is not None:
            values = [100 * video.lpips for video in self.videos if video.lpips is not None]
            found.append(("lpips", "LPIPS x 100", _mean(values), self.lpips_network))
        for key, name, distance, what in (("fid", "FID", self.fid, "frames"), ("fvd", "FVD", self.fvd, "clips")):
            if distance is not None:
                how = f"{distance.extractor}; {distance.samples[0]} and {distance.samples[1]} {what}"
                found.append((key, name, distance.distance, how))
        slopes = [100 * video.drift.slope for video in self.videos]
        found += [
            ("color_distance", "CIEDE2000", _mean([video.drift.mean for video in self.videos]), against),
            (
                "color_slope",
                "CIEDE2000 per 100 frames",
                _mean(slopes),
                "common slope of all regions" if self.regions else "slope",
            ),
        ]
        if seams:
            found.append(("seam", "seams", _mean(seams), beside))
        return found

    @property
    def by_segment(self) -> NDArray[np.float64]:
        """(S,): mean colour distance by number of segment, over the videos that have it."""
        longest = max(len(video.borders) + 1 for video in self.videos)
        table = np.full((len(self.videos), longest), math.nan)
        for row, video in zip(table, self.videos, strict=True):
            row[: len(video.borders) + 1] = video.by_segment
        return mean_of_known(table)

    def as_dict(self) -> dict[str, Any]:
        """JSON values: the means, how they were measured, and the measures of each video; None for what is not finite."""
        return {
            "videos": len(self.videos),
            "frames": sum(video.frames for video in self.videos),
            "measures": {key: {"value": _finite(value), "how": how} for key, _, value, how in self.rows},
            "color_distance_by_segment": [_finite(value) for value in self.by_segment],
            "by_video": [
                {
                    "frames": video.frames,
                    **{name: _finite(getattr(video, name)) for name in ("psnr", "ssim", "lpips")},
                    "color_distance": _finite(video.drift.mean),
                    "color_slope": _finite(100 * video.drift.slope),
                    "color_distance_by_segment": [_finite(value) for value in video.by_segment],
                    "borders": list(video.borders),
                    "seam": None if video.seam is None else _finite(video.seam.ratio),
                    "true_seam": None if video.true_seam is None else _finite(video.true_seam.ratio),
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
        lines += [f"| {text} | {value:.2f} | {how} |" for _, text, value, how in self.rows]
        parts = self.by_segment
        if len(parts) > 1:
            heads = " | ".join(str(number) for number in range(1, len(parts) + 1))
            lines += ["", f"| segment | {heads} |", f"|---{'|---' * len(parts)}|"]
            lines.append(f"| CIEDE2000 | {' | '.join(f'{value:.2f}' for value in parts)} |")
        return "\n".join(lines)


def colorization_report(
    videos: Sequence[Video],
    true: Sequence[Video],
    *,
    first_frame: int | None = None,
    regions: Sequence[KnownRegions] | None = None,
    erode: int = 1,
    borders: Sequence[int] | Literal["published"] = "published",
    lpips: Lpips | None = None,
    images: FeatureExtractor | None = None,
    clips: FeatureExtractor | None = None,
    clip_length: int = 16,
    clip_stride: int = 8,
    progress: Callable[[int], object] | None = None,
) -> ColorizationReport:
    """Measure colourised videos beside the true ones. Videos are read up to three times; few frames are in memory.

    Args:
        videos: the colourised videos.
        true: as many true videos, of the same sizes.
        first_frame: the frame of the true video that the first frame of a colourised one shows, if these are shorter: 1 with the
            published plan of LongAnimation, which leaves out the first and the last frames. None: they have equal lengths.
        regions: for each video, regions with known colours, e.g. of the toy world. Their maps are those of all true frames.
            None: the mean colours of 8 x 8 cells are compared with those of the true frames.
        erode: see `region_color`.
        borders: numbers of the frames of the colourised videos that begin a segment after the first; what is beyond a video's end is
            ignored. "published": 72, 137, 202 and so on.
        lpips: for LPIPS; `Lpips(backbone=…)` reads the network from a file.
        images: describes images for FID, e.g. `inception_features(path)`.
        clips: describes clips for FVD, e.g. `i3d_features(path)`.
        clip_length, clip_stride: of the clips of FVD, in frames.
        progress: called with the number of videos that are done.

    Raises:
        InputError: no videos, unequal numbers or lengths, or wrong shapes, types or values.
    """
    for name, given in (("videos", videos), ("true", true)):
        check_items(name, given, "a list of videos")
    for name, given in (("true videos", true), ("sets of regions", regions)):
        if given is not None and len(given) != len(videos):
            raise InputError(f"there are {len(videos)} videos but {len(given)} {name}; give one for each video")
    if not videos:
        raise InputError("there are no videos to measure")
    if first_frame is not None and first_frame < 0:
        raise InputError(f"first_frame must be at least 0, got {first_frame}")
    if lpips is not None:
        check_kind("lpips", lpips, "a visionzoo.metrics.lpips.Lpips", "spatial")
    found, truths = [], []
    for number, video in enumerate(videos):
        truth = partial(_from, true[number], first_frame or 0)
        known = None if regions is None else regions[number]
        found.append(_measured(video, truth, first_frame, known, erode, borders, lpips, number))
        truths.append(partial(_first, truth, found[-1].frames))
        if progress is not None:
            progress(number + 1)
    ours = [partial(_from, video, 0) for video in videos]
    return ColorizationReport(
        tuple(found),
        regions is not None,
        None if images is None else fid(_frames(ours), _frames(truths), images),
        None if clips is None else fvd(_opened(ours), _opened(truths), clips, length=clip_length, stride=clip_stride),
        None if lpips is None else lpips.name,
    )


Open = Callable[[], Iterator[Pixels]]


def _from(video: Video, start: int) -> Iterator[Pixels]:
    return islice(video() if callable(video) else video, start, None)


def _first(video: Open, count: int) -> Iterator[Pixels]:
    return islice(video(), count)


def _opened(videos: Sequence[Open]) -> list[Iterator[Pixels]]:
    return [video() for video in videos]


def _frames(videos: Sequence[Open]) -> Iterator[Pixels]:
    return chain.from_iterable(video() for video in videos)


def _measured(
    video: Video,
    truth: Open,
    start: int | None,
    known: KnownRegions | None,
    erode: int,
    borders: Sequence[int] | Literal["published"],
    lpips: Lpips | None,
    number: int,
) -> ColorizedVideo:
    """The measures of one pass through a video and the true one, and of one more for regions."""
    scores: dict[str, list[float]] = {"psnr": [], "ssim": [], "lpips": []}
    changes: list[tuple[float, float]] = []
    cells, before, count = [], None, 0
    true_planes = video_planes(truth(), f"true video {number}: frame")
    for count, ours in enumerate(video_planes(_from(video, 0), f"video {number}: frame"), start=1):
        if (theirs := next(true_planes, None)) is None:
            raise InputError(
                f"video {number} has more than {count - 1} frames, but its true video has only {count - 1} from frame {start or 0} on"
            )
        if ours.shape != theirs.shape:
            raise InputError(
                f"video {number} has {ours.shape[2]} x {ours.shape[1]} pixels and its true video {theirs.shape[2]} x "
                f"{theirs.shape[1]}; resize one of them"
            )
        scores["psnr"].append(psnr(ours, theirs))
        scores["ssim"].append(ssim(ours, theirs, borders="reflected"))
        if lpips is not None:
            scores["lpips"].append(float(lpips(ours[None].float(), theirs[None].float())))
        if before is not None:
            changes.append((frame_change(before[0], ours), frame_change(before[1], theirs)))
        if known is None:
            cells.append(_cells(ours, theirs))
        before = ours, theirs
    if not count:
        raise InputError(f"video {number} has no frames")
    if start is None and next(true_planes, None) is not None:
        raise InputError(
            f"video {number} has {count} frames, fewer than its true video; pass first_frame=, the first that was colorized "
            "(1 with the published plan of LongAnimation)"
        )
    means = {name: math.fsum(values) / len(values) for name, values in scores.items() if values}
    places = _borders(borders, count)
    ours_seam, true_seam = (_seam([pair[kind] for pair in changes], places) for kind in (0, 1))
    return ColorizedVideo(
        count,
        drift=_drift_of_cells(cells) if known is None else _drift_of_regions(video, known, start or 0, count, erode),
        borders=places,
        seam=ours_seam,
        true_seam=true_seam,
        **means,
    )


def _borders(borders: Sequence[int] | Literal["published"], count: int) -> tuple[int, ...]:
    every = range(FIRST, count, STRIDE) if borders == "published" else borders
    if any(place < 1 for place in every):
        raise InputError(f"borders must be numbers of frames from 1 on, got {min(every)}")
    return tuple(sorted({place for place in every if place < count}))


def _seam(changes: Sequence[float], borders: tuple[int, ...]) -> Seam | None:
    if not borders or len(borders) == len(changes):
        return None
    found = seam_of_changes(changes, borders)
    return found if found.inside > 0 else None


def _cells(ours: Tensor, theirs: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean colours of cells (64, 3), and their distances (64,) from those of the true frame."""
    colors = [F.adaptive_avg_pool2d(planes, CELLS).flatten(1).T.clamp(0, 1) for planes in (ours, theirs)]
    distances = ciede2000(srgb_to_lab(colors[0]), srgb_to_lab(colors[1]))
    return colors[0].cpu().numpy(), distances.cpu().numpy()


def _drift_of_cells(cells: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> ColorDrift:
    measured, distances = (np.stack(each) for each in zip(*cells, strict=True))
    return ColorDrift(tuple(range(CELLS * CELLS)), measured, distances)


def _drift_of_regions(video: Video, known: KnownRegions, start: int, count: int, erode: int) -> ColorDrift:
    maps = islice(known.maps(), start, start + count)
    return color_drift(_from(video, 0), maps, known.colors, erode=erode)


def _mean(values: Sequence[float]) -> float:
    return float(mean_of_known(np.array(values, dtype=np.float64)))


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


__all__ = ["ColorizationReport", "ColorizedVideo", "KnownRegions", "colorization_report"]
