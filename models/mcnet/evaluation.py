"""Quality of reenacted frames beside the true ones, and the published numbers (VoxCeleb1, same identity)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from visionzoo.metrics.lpips import Lpips
from visionzoo.metrics.restoration import psnr, ssim

PUBLISHED = {
    "MCNet": {"l1": 0.0331, "psnr": 31.942, "ssim": 0.825, "lpips": 0.174, "akd": 1.203, "aed": 0.1065},
    "without memory": {"l1": 0.0356, "psnr": 31.701, "ssim": 0.811, "lpips": 0.182, "akd": 1.303, "aed": 0.1236},
}
"""Of the authors' plotting script. Their PSNR and L1 do not fit a range of 1 together (an image with that L1 has at most 29.6 dB), so
their PSNR is not of the protocol here; their LPIPS is probably VGG's."""
DIGITS = {"l1": 4, "psnr": 2, "ssim": 4, "lpips": 4, "akd": 3, "aed": 4}


@dataclass(frozen=True)
class PairScore:
    """One frame against the true one, images in [0, 1].

    Attributes:
        name: of the clip.
        l1: mean absolute difference.
        psnr: dB; ssim: Gaussian window of 11, sigma 1.5, per channel.
        lpips: if it was asked for.
        akd: average keypoint distance: mean absolute difference of facial landmarks' coordinates in pixels.
        aed: average Euclidean distance: of identity descriptors, squared.
    """

    name: str
    l1: float
    psnr: float
    ssim: float
    lpips: float | None = None
    akd: float | None = None
    aed: float | None = None


def score_pair(name: str, image: Tensor, truth: Tensor, lpips: Lpips | None = None) -> PairScore:
    """Images (3, H, W) in [0, 1]."""
    distance = None if lpips is None else float(lpips(image[None], truth[None]))
    return PairScore(name, float((image - truth).abs().mean()), psnr(image, truth), ssim(image, truth), distance)


@dataclass
class Report:
    """Scores of a test, as a table with the published numbers (same identity)."""

    scores: list[PairScore] = field(default_factory=list)

    def means(self) -> dict[str, float | None]:
        """By measure, over pairs that have it; None if none has."""
        found: dict[str, float | None] = {}
        for name in DIGITS:
            values = [getattr(score, name) for score in self.scores]
            values = [value for value in values if value is not None]
            found[name] = float(np.mean(values)) if values else None
        return found

    def as_dict(self) -> dict[str, Any]:
        return {
            "pairs": [asdict(score) for score in self.scores],
            "mean": self.means(),
            "published": PUBLISHED,
        }

    def __str__(self) -> str:
        clips: dict[str, list[PairScore]] = {}
        for score in self.scores:
            clips.setdefault(score.name, []).append(score)
        rows: list[tuple[str, ...]] = [("", *(name.upper() for name in DIGITS))]
        if 1 < len(clips) <= 20:
            rows += [_row(name, Report(scores).means()) for name, scores in clips.items()]
        rows.append(_row(f"mean of {len(self.scores)} frames", self.means()))
        rows += [_row(f"published, VoxCeleb1, {name}", dict(values)) for name, values in PUBLISHED.items()]
        width = max(len(row[0]) for row in rows)
        return "\n".join(f"{row[0]:<{width}}" + "".join(f"{cell:>9}" for cell in row[1:]) for row in rows)


def _row(name: str, values: dict[str, float | None]) -> tuple[str, ...]:
    cells = []
    for measure, digits in DIGITS.items():
        value = values.get(measure)
        cells.append("-" if value is None else f"{value:.{digits}f}")
    return name, *cells
