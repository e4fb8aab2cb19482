"""Changes between consecutive frames: seams at the borders of windows, and warp error with known motion."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.errors import InputError

from .flow import sample_along
from .frames import Pixels, as_numbers, as_tensor, bool_mask, in_step, mean_of_known, video_planes


@dataclass(frozen=True)
class Seam:
    """How visible the borders between windows or segments of a video are.

    Attributes:
        borders: numbers of the frames that begin a new window, increasing; a border is between such a frame and the one before.
        changes: (T - 1,), the change between each frame and the next.
    """

    borders: tuple[int, ...]
    changes: NDArray[np.float64]

    @property
    def across(self) -> NDArray[np.float64]:
        """The change across each border."""
        return self.changes[np.array(self.borders) - 1]

    @property
    def inside(self) -> float:
        """The median change between neighbouring frames of the same window."""
        return float(np.median(np.delete(self.changes, np.array(self.borders) - 1)))

    @property
    def ratio(self) -> float:
        """The mean change across borders over the median change inside: 1 without seams.

        Infinite if only borders change, NaN if nothing does. The median is not affected by cuts inside windows; in animation that
        holds every drawing for two or more frames it is 0.
        """
        across, inside = float(self.across.mean()), self.inside
        return across / inside if inside > 0 else (math.inf if across > 0 else math.nan)


def seam(frames: Iterable[Pixels], borders: Sequence[int]) -> Seam:
    """Compare the change across window borders with the change inside windows. Two frames are in memory at a time.

    The change between two frames is the mean absolute difference over all pixels and channels, in [0, 1].

    Args:
        frames: T images (H, W, 3) or tensors (3, H, W), uint8 or float in [0, 1], or the frames of `read_frames`.
        borders: numbers of the frames that begin a new window, from 1 to T - 1, counted from 0.

    Raises:
        InputError: no borders, borders outside the video, no change inside a window, or wrong shapes, types or values.
    """
    return seam_of_changes([frame_change(one, two) for one, two in pairwise(video_planes(frames))], borders)


def seam_of_changes(changes: Sequence[float] | NDArray[np.floating], borders: Sequence[int]) -> Seam:
    """The same for changes (T - 1,) of another kind, such as `WarpError.per_pair`, which do not contain the motion.

    Raises:
        InputError: as for `seam`, or a change is not finite.
    """
    values = as_numbers(changes, "changes", "numbers (T - 1,)")
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InputError(
            f"changes have shape {values.shape}, expected finite numbers (T - 1,), one for each pair of frames"
        )
    try:
        places = tuple(sorted({operator.index(border) for border in borders}))
    except TypeError as error:
        raise InputError(f"borders must be a list of whole numbers of frames, got {borders!r}") from error
    if not places:
        raise InputError("no borders were given; name the first frame of every window after the first")
    if places[0] < 1 or places[-1] > len(values):
        wrong = places[0] if places[0] < 1 else places[-1]
        raise InputError(
            f"there is no border before frame {wrong} in a video of {len(values) + 1} frames, counted from 0"
        )
    if len(places) == len(values):
        raise InputError("every pair of frames is a border, so there is no change inside a window to compare with")
    return Seam(places, values)


@dataclass(frozen=True)
class WarpError:
    """Difference between frames and their successors brought back along the motion.

    Attributes:
        per_pair: (T - 1,), the error of each frame and the next; NaN if no pixel is valid.
        compared: (T - 1,), the share of pixels that were compared, in [0, 1].
    """

    per_pair: NDArray[np.float64]
    compared: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean over the pairs with valid pixels; NaN without any."""
        return float(mean_of_known(self.per_pair))


def warp_error(
    frames: Iterable[Pixels],
    flows: Iterable[Tensor | NDArray[np.floating]],
    valid: Iterable[Tensor | NDArray[np.bool_]] | None = None,
    *,
    error: Literal["squared", "absolute"] = "squared",
) -> WarpError:
    """Compare each frame with the next one, sampled where its pixels have moved. Two frames are in memory at a time.

    The error of a pair is the mean over the valid pixels x and the channels of |frame[t](x) - frame[t + 1](x + flow[t](x))|,
    squared or not, with bilinear sampling. As in Lai et al., "Learning Blind Video Temporal Consistency" (ECCV 2018, arXiv
    1808.00449), the result is the mean over pairs; there the squares are summed over the channels, which is 3 times as much.

    Args:
        frames: T images (H, W, 3) or tensors (3, H, W), uint8 or float in [0, 1], or the frames of `read_frames`.
        flows: T - 1 flows (H, W, 2) in pixels, x to the right and y down, from frame t to frame t + 1; one more, that of the last
            frame, is ignored.
        valid: as many masks (H, W) bool of the pixels of frame t to compare, those still visible in frame t + 1. Pixels that leave
            the image, or whose flow is not finite, never count; a flow that is finite nowhere is an error.
        error: "squared" or "absolute".

    Raises:
        InputError: fewer than two frames, unequal numbers, a flow without a finite value, or wrong shapes, types or values.
    """
    if error not in ("squared", "absolute"):
        raise InputError(f"the error must be squared or absolute, got {error!r}")
    motions = flows if valid is None else in_step(flows, valid, ("flows", "masks of valid pixels"))
    errors, shares = [], []
    for number, ((one, two), motion) in enumerate(
        in_step(pairwise(video_planes(frames)), motions, ("pairs of frames", "flows"), spare=True)
    ):
        flow, mask = (motion, None) if valid is None else motion
        flow = checked_flow(flow, one, f"flow {number}")
        known = None if valid is None else bool_mask(mask, one, f"mask {number}")  # pyright: ignore[reportArgumentType]
        value, share = pair_warp_error(one, two, flow, known, error)
        errors.append(value)
        shares.append(share)
    if not errors:
        raise InputError("the warp error needs at least two frames")
    return WarpError(np.array(errors), np.array(shares))


def pair_warp_error(
    one: Tensor, two: Tensor, flow: Tensor, valid: Tensor | None, error: Literal["squared", "absolute"] = "squared"
) -> tuple[float, float]:
    """The warp error of two frames (3, H, W), NaN without a valid pixel, and the share of pixels that were compared."""
    sampled, known = sample_along(two, flow)
    known = known if valid is None else known & valid
    difference = (one - sampled)[:, known]
    mean = float((difference.square() if error == "squared" else difference.abs()).mean())
    return mean, float(known.double().mean())


def frame_change(one: Tensor, two: Tensor) -> float:
    """Mean absolute difference of two frames."""
    return float((two - one).abs().mean())


def checked_flow(flow: Tensor | NDArray[np.floating], like: Tensor, name: str) -> Tensor:
    values = as_tensor(flow, name, "an array (H, W, 2)")
    if tuple(values.shape) != (*like.shape[1:], 2) or not values.is_floating_point():
        raise InputError(
            f"{name} has shape {tuple(values.shape)} and type {values.dtype}, expected floats (H, W, 2) = {(*like.shape[1:], 2)}"
        )
    if not bool(values.isfinite().any()):
        raise InputError(
            f"{name} is NaN or infinite at every pixel; leave that pair of frames out, or compute its flow again"
        )
    return values.to(like)


__all__ = [
    "Seam",
    "WarpError",
    "checked_flow",
    "frame_change",
    "pair_warp_error",
    "seam",
    "seam_of_changes",
    "warp_error",
]
