"""Does a place look the same when the camera comes back to it?

Without a network: PSNR and SSIM between the frames of the first and of each later visit. With one: scene-return consistency, SRC,
of SlowFast-VGen (arXiv 2410.23277, section 5), the cosine similarity of the features of these frames, times 100.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.errors import InputError, described

from .features import FeatureExtractor, extract, extractor_name
from .frames import Pixels, as_numbers, bool_mask, in_step, mean_of_known, video_planes
from .masked import masked_psnr, masked_ssim
from .restoration import psnr, ssim

Item = TypeVar("Item")

Pairs = Sequence[tuple[int, int]]
"""(frame at the first visit, frame at a later visit) for every later visit, counted from 0."""


def find_revisits(
    cameras: Tensor | NDArray[np.floating],
    tolerance: float | Sequence[float] = 1e-6,
    away: float | Sequence[float] | None = None,
) -> list[tuple[int, int]]:
    """Find the visits to places where the camera has been before.

    A frame is at a place if every component of its camera state is within `tolerance` of the place's. The first frame that is at no
    known place begins a new one, so places are at least `tolerance` apart. A visit is a later one only if the camera was farther
    than `away` from the place in between; waiting there is one visit. Each visit is represented by the frame that is nearest to the
    place, the earliest of several.

    Args:
        cameras: (T, k) camera states, e.g. position and zoom, in any units. Unwrap angles first.
        tolerance: one number, or one for each of the k components, at least 0.
        away: the same, at least `tolerance`; None is twice the tolerance.

    Returns:
        Pairs (first, later) of frame numbers, ordered by the later frame.

    Raises:
        InputError: wrong shapes, states that are not finite, or tolerances that are negative or above `away`.
    """
    states = as_numbers(cameras, "cameras", "numbers (T, k)")
    if states.ndim != 2 or not states.size or not np.isfinite(states).all():
        raise InputError(f"cameras have shape {states.shape}, expected finite numbers (T, k), one row for each frame")
    near = _components("tolerance", tolerance, states.shape[1])
    far = 2 * near if away is None else _components("away", away, states.shape[1])
    if (far < near).any():
        raise InputError(f"away must be at least the tolerance, got {far.tolist()} and {near.tolist()}")
    places: list[int] = []  # the first frame of each place
    known = np.empty_like(states)  # the states of these frames
    present = np.zeros(
        len(states), dtype=bool
    )  # for each place, whether the camera has not left it since its last visit
    best: dict[int, tuple[float, int]] = {}  # for each place, distance and frame of the later visit that is under way
    found = []
    scale = np.where(near > 0, near, 1.0)
    for frame, state in enumerate(states):
        offsets = np.abs(known[: len(places)] - state)
        for place in np.flatnonzero(present[: len(places)] & (offsets > far).any(1)).tolist():
            present[place] = False
            if place in best:
                found.append((places[place], best.pop(place)[1]))
        at = np.flatnonzero((offsets <= near).all(1)).tolist()
        for place in at:
            distance = float((offsets[place] / scale).max())
            if not present[place]:
                present[place] = True
                best[place] = (distance, frame)
            elif place in best and distance < best[place][0]:
                best[place] = (distance, frame)
        if not at:
            known[len(places)] = state
            present[len(places)] = True
            places.append(frame)
    found += [(places[place], frame) for place, (_, frame) in best.items()]
    return sorted(found, key=lambda pair: (pair[1], pair[0]))


@dataclass(frozen=True)
class Revisit:
    """Similarity of the frames at first and later visits.

    Attributes:
        pairs: N pairs (first, later) of frame numbers.
        psnr: (N,) in dB, infinite for equal frames. NaN if masks leave no pixel to compare.
        ssim: (N,), at most 1, or NaN.
    """

    pairs: tuple[tuple[int, int], ...]
    psnr: NDArray[np.float64]
    ssim: NDArray[np.float64]

    @property
    def mean_psnr(self) -> float:
        """In dB, over the pairs that are not NaN; infinite if the frames of any pair are equal."""
        return float(mean_of_known(self.psnr))

    @property
    def mean_ssim(self) -> float:
        """At most 1, over the pairs that are not NaN."""
        return float(mean_of_known(self.ssim))


def revisit(
    frames: Iterable[Pixels],
    cameras: Tensor | NDArray[np.floating],
    *,
    tolerance: float | Sequence[float] = 1e-6,
    away: float | Sequence[float] | None = None,
    masks: Iterable[Tensor | NDArray[np.bool_]] | None = None,
) -> Revisit:
    """Compare the frames at later visits with those at the first visit. Only first frames that are still needed stay in memory.

    Args:
        frames: T images (H, W, 3) or tensors (3, H, W), uint8 or float in [0, 1], or the frames of `read_frames`.
        cameras: (T, k) camera states; see `find_revisits`.
        tolerance: see `find_revisits`.
        away: see `find_revisits`.
        masks: T masks (H, W) bool of the pixels to compare, e.g. those without characters, which move between visits. A pair is
            compared where both masks are True, with `masked_psnr` and `masked_ssim`; it is NaN where there is no such pixel.

    Raises:
        InputError: the camera comes back to no place, a frame is missing or below 11 x 11 pixels, or wrong shapes, types or values.
    """
    pairs = find_revisits(cameras, tolerance, away)
    if not pairs:
        raise InputError("the camera comes back to no place; use a path that returns, or a larger tolerance")
    scores: dict[tuple[int, int], tuple[float, float]] = {}
    if masks is None:
        for pair, first, later in _paired(video_planes(frames), pairs):
            scores[pair] = (psnr(later, first), ssim(later, first))
    else:
        for pair, (first, one), (later, other) in _paired(_masked(frames, masks), pairs):
            both = one & other
            known = bool(both.any())
            scores[pair] = (
                (masked_psnr(later, first, both), masked_ssim(later, first, both)) if known else (math.nan, math.nan)
            )
    table = np.array([scores[pair] for pair in pairs])
    return Revisit(tuple(pairs), table[:, 0], table[:, 1])


@dataclass(frozen=True)
class SceneReturnConsistency:
    """Similarity of the features at first and later visits.

    Attributes:
        score: 100 times the mean cosine similarity; 100 for equal features.
        pairs: N pairs (first, later) of frame numbers.
        cosines: (N,), cosine similarity of each pair.
        extractor: name of the extractor; scores of different extractors cannot be compared.
    """

    score: float
    pairs: tuple[tuple[int, int], ...]
    cosines: NDArray[np.float64]
    extractor: str


def scene_return_consistency(
    frames: Iterable[Pixels], pairs: Pairs, extractor: FeatureExtractor, *, batch: int = 16
) -> SceneReturnConsistency:
    """SRC of SlowFast-VGen: the mean cosine similarity of features at first and later visits, times 100.

    The paper uses ResNet-18 (`resnet18_features`). That the mean is taken over all pairs, and how frames are resized and
    normalised, is not stated there.

    Args:
        frames: T images (H, W, 3) or tensors (3, H, W), uint8 or float in [0, 1], or the frames of `read_frames`.
        pairs: (first, later) frame numbers, such as those of `find_revisits`.
        extractor: maps images to features; see `FeatureExtractor`.
        batch: number of images per call of the extractor.

    Raises:
        InputError: no pairs, a frame is missing, features are all 0 or not finite, or wrong shapes, types or values.
    """
    try:
        pairs = [(int(first), int(later)) for first, later in pairs]
    except (TypeError, ValueError) as error:
        raise InputError(f"pairs must be pairs (first, later) of frame numbers, got {described(pairs)}") from error
    if not pairs:
        raise InputError("there are no pairs of visits to compare; find them with find_revisits")
    needed = sorted({number for pair in pairs for number in pair})
    if needed[0] < 0:
        raise InputError(f"frame numbers are counted from 0, got {needed[0]}")
    features = extract(_picked(video_planes(frames), needed), extractor, batch=batch)
    lengths = features.norm(dim=1)
    if bool((lengths == 0).any()):
        raise InputError(f"the features of frame {needed[int(lengths.argmin())]} are all 0 and have no direction")
    unit = dict(zip(needed, features / lengths[:, None], strict=True))
    cosines = np.array([float(unit[first] @ unit[later]) for first, later in pairs])
    return SceneReturnConsistency(
        100 * math.fsum(cosines) / len(cosines), tuple(pairs), cosines, extractor_name(extractor)
    )


def _masked(frames: Iterable[Pixels], masks: Iterable[Tensor | NDArray[np.bool_]]) -> Iterator[tuple[Tensor, Tensor]]:
    for number, (planes, mask) in enumerate(in_step(video_planes(frames), masks, ("frames", "masks"))):
        yield planes, bool_mask(mask, planes, f"mask {number}")


def _picked(frames: Iterable[Item], needed: Sequence[int]) -> Iterator[Item]:
    """The frames with these increasing numbers."""
    wanted, count = set(needed), 0
    for count, frame in enumerate(frames, start=1):
        if count - 1 in wanted:
            yield frame
        if count > needed[-1]:
            return
    raise InputError(f"the video has {count} frames, but frame {needed[-1]} is needed; frames are counted from 0")


def _paired(frames: Iterable[Item], pairs: Pairs) -> Iterator[tuple[tuple[int, int], Item, Item]]:
    """Each pair with its two frames, in order of the later one."""
    last: dict[int, int] = {}
    firsts: dict[int, list[int]] = {}
    for first, later in pairs:
        last[first] = max(later, last.get(first, later))
        firsts.setdefault(later, []).append(first)
    needed = sorted(last.keys() | firsts.keys())
    held: dict[int, Item] = {}
    for number, frame in zip(needed, _picked(frames, needed), strict=True):
        for first in firsts.get(number, ()):
            yield (first, number), held[first], frame
            if last[first] == number:
                del held[first]
        if number in last:
            held[number] = frame


def _components(name: str, value: float | Sequence[float], count: int) -> NDArray[np.float64]:
    values = np.asarray(value, dtype=np.float64)
    if values.shape not in ((), (count,)) or not (values >= 0).all() or not np.isfinite(values).all():
        raise InputError(f"{name} must be a number, or {count} of them, at least 0, got {value!r}")
    return np.broadcast_to(values, (count,))


__all__ = [
    "Revisit",
    "SceneReturnConsistency",
    "find_revisits",
    "revisit",
    "scene_return_consistency",
]
