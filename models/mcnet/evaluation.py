"""Quality of reenacted frames compared with true frames and the published numbers (VoxCeleb1, same identity), or across identities."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.faces import IdentityNetwork, LandmarkFinder
from visionzoo.io.pixels import to_uint8
from visionzoo.metrics.lpips import Lpips
from visionzoo.metrics.restoration import psnr, ssim

PUBLISHED = {
    "MCNet": {"l1": 0.0331, "psnr": 31.942, "ssim": 0.825, "lpips": 0.174, "akd": 1.203, "aed": 0.1065},
    "without memory": {"l1": 0.0356, "psnr": 31.701, "ssim": 0.811, "lpips": 0.182, "akd": 1.303, "aed": 0.1236},
}
"""Numbers from the authors' plotting script. Their PSNR and L1 do not fit a range of 1 together (an image with that L1 has at most
29.6 dB), so their PSNR follows another protocol; their LPIPS is probably VGG's; their AKD uses face-alignment's 2DFAN4, their AED
OpenFace's nn4.small2. Their table across identities could not be read."""
DIGITS = {"l1": 4, "psnr": 2, "ssim": 4, "lpips": 4, "akd": 3, "aed": 4}
CROSS_DIGITS = {"aed": 4, "csim": 4}
ACROSS = (
    "Source and driver are two people, so there are no true frames; AED and CSIM are between result and source.\n"
    "The authors' numbers across identities could not be read, so none are shown."
)
OTHER_NETWORKS = (
    "AKD is in pixels of 256 x 256. The published one uses face-alignment's FAN, the published AED OpenFace's nn4.small2:\n"
    "values from other networks cannot be compared with them."
)
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PairScore:
    """Scores of a frame compared with the true one or, if source and driver are two people, with the source.

    Attributes:
        name: name of the driver's clip; "A driven by B" for two people.
        cross: whether source and driver are two people.
        l1: mean absolute difference of images in [0, 1].
        psnr: dB; ssim: Gaussian window of 11, sigma 1.5, per channel.
        lpips: LPIPS, if requested.
        akd: average keypoint distance: mean absolute difference of the coordinates of 68 facial landmarks, in pixels of 256 x 256.
        aed: average Euclidean distance of identity descriptors, squared as published; to the source if `cross`.
        csim: cosine of the descriptors of result and source, if `cross`.
        no_face: whether landmarks or descriptors were requested and no face was found.
    """

    name: str
    cross: bool = False
    l1: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    akd: float | None = None
    aed: float | None = None
    csim: float | None = None
    no_face: bool = False


@dataclass(frozen=True)
class Measures:
    """Networks that compare frames, in addition to L1, PSNR and SSIM.

    Attributes:
        lpips: perceptual distance.
        landmarks: landmark network, for AKD.
        identity: identity network, for AED and CSIM.
    """

    lpips: Lpips | None = None
    landmarks: LandmarkFinder | None = None
    identity: IdentityNetwork | None = None

    def names(self) -> dict[str, str]:
        """Names of the networks, for records."""
        found = {"landmarks": self.landmarks, "identity": self.identity}
        return {what: network.name for what, network in found.items() if network is not None}

    def score(self, name: str, image: Tensor, truth: Tensor, source: Tensor, *, cross: bool = False) -> PairScore:
        """Images (3, H, W) in [0, 1]; `truth` is the driving frame."""
        ours = to_uint8(image)
        if cross:
            found, no_face = self._distances(ours, to_uint8(source))
            return PairScore(name, True, aed=found.get("aed"), csim=found.get("csim"), no_face=no_face)
        distance = None if self.lpips is None else float(self.lpips(image[None], truth[None]))
        theirs = to_uint8(truth)
        found, no_face = self._distances(ours, theirs)
        akd = None
        if self.landmarks is not None:
            points = self.landmarks(ours), self.landmarks(theirs)
            if points[0] is None or points[1] is None:
                no_face = True
            else:
                apart = np.abs(points[0] - points[1]) * (256 / np.array([ours.shape[1], ours.shape[0]]))
                akd = float(apart.mean())
        l1 = float((image - truth).abs().mean())
        return PairScore(
            name, False, l1, psnr(image, truth), ssim(image, truth), distance, akd, found.get("aed"), no_face=no_face
        )

    def _distances(self, image: Pixels, other: Pixels) -> tuple[dict[str, float], bool]:
        """AED and CSIM of two images, and whether one shows no face."""
        if self.identity is None:
            return {}, False
        one, two = self.identity(image), self.identity(other)
        if one is None or two is None:
            return {}, True
        one, two = one.astype(np.float64), two.astype(np.float64)
        lengths = float(np.linalg.norm(one) * np.linalg.norm(two))
        return {"aed": float(np.square(one - two).sum()), "csim": float(one @ two) / max(lengths, 1e-12)}, False


@dataclass
class Report:
    """Scores of a test, as a table with the published numbers (same identity)."""

    scores: list[PairScore] = field(default_factory=list)
    networks: dict[str, str] = field(default_factory=dict)
    """Names of the networks for landmarks and identity."""

    def means(self, cross: bool = False) -> dict[str, float | None]:
        """Mean of each score over the pairs of that kind that have it; None if there are none."""
        found: dict[str, float | None] = {}
        for name in CROSS_DIGITS if cross else DIGITS:
            values = [getattr(score, name) for score in self.scores if score.cross == cross]
            values = [value for value in values if value is not None]
            found[name] = float(np.mean(values)) if values else None
        return found

    def as_dict(self) -> dict[str, Any]:
        return {
            "pairs": [asdict(score) for score in self.scores],
            "mean": self.means(),
            "mean_cross_identity": self.means(cross=True),
            "without_face": sum(score.no_face for score in self.scores),
            "networks": self.networks,
            "published": {} if self.scores and all(score.cross for score in self.scores) else PUBLISHED,
        }

    def __str__(self) -> str:
        blocks = []
        same, cross = ([score for score in self.scores if score.cross is kind] for kind in (False, True))
        if same:
            rows = _rows(same, DIGITS, cross=False)
            rows += [_row(f"published, VoxCeleb1, {name}", dict(values), DIGITS) for name, values in PUBLISHED.items()]
            blocks.append(_table(rows))
        if cross:
            blocks.append(f"{ACROSS}\n{_table(_rows(cross, CROSS_DIGITS, cross=True))}")
        without = sum(score.no_face for score in self.scores)
        if without:
            blocks.append(f"{without} of {len(self.scores)} frames left out of AKD, AED or CSIM: no face was found.")
        if self.networks:
            lines = [f"{what}: {name}" for what, name in self.networks.items()]
            if same and {"landmarks", "identity"} & set(self.networks):
                lines.append(OTHER_NETWORKS)
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks)


def _rows(scores: list[PairScore], digits: dict[str, int], *, cross: bool) -> list[tuple[str, ...]]:
    clips: dict[str, list[PairScore]] = {}
    for score in scores:
        clips.setdefault(score.name, []).append(score)
    rows: list[tuple[str, ...]] = [("", *(name.upper() for name in digits))]
    if 1 < len(clips) <= 20:
        rows += [_row(name, Report(of_one).means(cross), digits) for name, of_one in clips.items()]
    return [*rows, _row(f"mean of {len(scores)} frames", Report(scores).means(cross), digits)]


def _table(rows: list[tuple[str, ...]]) -> str:
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{row[0]:<{width}}" + "".join(f"{cell:>9}" for cell in row[1:]) for row in rows)


def _row(name: str, values: dict[str, float | None], digits: dict[str, int]) -> tuple[str, ...]:
    cells = []
    for measure, places in digits.items():
        value = values.get(measure)
        cells.append("-" if value is None else f"{value:.{places}f}")
    return name, *cells
