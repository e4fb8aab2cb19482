"""One report about an edited video beside its source: what a CLIP model sees, what changed outside the mask, seams, and motion.

Both videos are read once, in step; two frames of each and one batch for CLIP are in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.errors import InputError, check_items, described

from .clip import ClipModel, ClipScores, ClipStream
from .flow import FlowEstimator, consistent
from .frames import Pixels, as_tensor, bool_mask, in_step, mean_of_known, video_planes
from .masked import masked_psnr
from .temporal import Seam, WarpError, checked_flow, frame_change, pair_warp_error, seam_of_changes

Flows = Iterable[Tensor | NDArray[np.floating]]
Masks = Iterable[Tensor | NDArray[np.bool_]]


@dataclass(frozen=True)
class EditReport:
    """Measures of an edited video and, for comparison, of its source; `str` is a table. What was not asked for is None.

    Attributes:
        frames: T, the number of frames.
        clip: scores of the edited frames by CLIP.
        source_clip: the same for the source frames, with the same prompts.
        psnr_outside: (T,), PSNR in dB between edited and source frames outside the mask, infinite if nothing changed there, NaN if
            the mask covers the whole frame.
        seam: changes at the borders of windows, in the edited video.
        source_seam: the same in the source.
        warp: warp error of the edited video along the motion of the source.
        source_warp: the same for the source itself: what rounding and interpolation alone cost.
        motion: where the flow comes from.
    """

    frames: int
    clip: ClipScores | None
    source_clip: ClipScores | None
    psnr_outside: NDArray[np.float64] | None
    seam: Seam | None
    source_seam: Seam | None
    warp: WarpError | None
    source_warp: WarpError | None
    motion: str | None

    @property
    def mean_psnr_outside(self) -> float | None:
        """In dB, over the frames in which the mask leaves pixels; infinite if one of them did not change there."""
        return None if self.psnr_outside is None else float(mean_of_known(self.psnr_outside))

    @property
    def seam_of_warp(self) -> tuple[float | None, float | None]:
        """The seam ratio of the warp error, which does not contain the motion: of the edited video and of the source."""
        borders = None if self.seam is None else self.seam.borders
        return _warp_ratio(self.warp, borders), _warp_ratio(self.source_warp, borders)

    @property
    def rows(self) -> list[tuple[str, str, float | None, float | None]]:
        """(key, description, edited, source) of every measure that was asked for."""
        seam_of_warp = self.seam_of_warp
        found = [
            *(
                (
                    f"clip_{name}",
                    f"{text} ({self.clip.model})",
                    getattr(self.clip, name),
                    getattr(self.source_clip, name),
                )
                for name, text in (
                    ("frame_consistency", "frame consistency"),
                    ("textual_alignment", "textual alignment"),
                    ("frame_accuracy", "frame accuracy"),
                )
                if self.clip is not None
            ),
            ("psnr_outside", "PSNR outside the mask, dB", self.mean_psnr_outside, None),
            ("seam", "seam at window borders, 1 without", _ratio(self.seam), _ratio(self.source_seam)),
            ("seam_of_warp", "the same of the warp error", *seam_of_warp),
            ("warp_error", f"warp error ({self.motion})", _mean(self.warp), _mean(self.source_warp)),
        ]
        return [row for row in found if row[2] is not None]

    def as_dict(self) -> dict[str, Any]:
        """JSON values: each measure with "edited" and "source", and PSNR by frame; None for what is infinite or not a number."""
        return {
            "frames": self.frames,
            "clip_model": None if self.clip is None else self.clip.model,
            "motion": self.motion,
            "borders": None if self.seam is None else list(self.seam.borders),
            "measures": {
                key: {"edited": _finite(edited), "source": _finite(source)} for key, _, edited, source in self.rows
            },
            "psnr_outside": None
            if self.psnr_outside is None
            else [_finite(value) for value in self.psnr_outside.tolist()],
        }

    def __str__(self) -> str:
        lines = [f"{self.frames} frames", "", "| measure | edited | source |", "|---|---|---|"]
        for key, text, *values in self.rows:
            digits = {"psnr_outside": ".2f", "warp_error": ".6f"}.get(key, ".3f")
            cells = ["" if value is None else format(value, digits) for value in values]
            lines.append(f"| {text} | {' | '.join(cells)} |")
        return "\n".join(lines)


def edit_report(
    source: Iterable[Pixels],
    edited: Iterable[Pixels],
    *,
    mask: Tensor | NDArray[np.bool_] | Masks | None = None,
    flow: Flows | FlowEstimator | None = None,
    valid: Masks | None = None,
    windows: int | Sequence[int] | None = 8,
    clip: ClipModel | None = None,
    prompt: str | None = None,
    source_prompt: str | None = None,
    batch: int = 16,
    progress: Callable[[int], object] | None = None,
) -> EditReport:
    """Measure an edited video beside its source, in one pass. Memory does not grow with the video, but for some numbers per frame.

    Args:
        source: T images (H, W, 3) or tensors (3, H, W), uint8 or float in [0, 1], or the frames of `read_frames`.
        edited: as many of the same size.
        mask: what the edit may change: (H, W) bool for all frames, or T such masks. PSNR is measured outside of it.
        flow: the motion of the source, along which both videos are compared: T - 1 true flows (H, W, 2) in pixels from each frame to
            the next (one more is ignored), or an estimator such as `RaftFlow`, which is applied to the source in both directions; then
            pixels that become hidden do not count (`consistent`).
        valid: with true flows, as many masks (H, W) bool of the pixels that stay visible.
        windows: length of the windows in which the video was edited, or the numbers of the frames that begin a new one; None for no
            windows. Videos of one window have no seam.
        clip: a CLIP model for frame consistency and, with `prompt`, textual alignment and, with `source_prompt`, frame accuracy.
        prompt: target prompt of the edit.
        source_prompt: prompt of the source.
        batch: number of frames per call of the CLIP model.
        progress: called with the number of frames that are done.

    Raises:
        InputError: no frames, unequal numbers or sizes, arguments that need others, or wrong shapes, types or values.
    """
    _check_arguments(flow, valid, windows, clip, prompt, source_prompt)
    streams = None if clip is None else [ClipStream(clip, prompt, source_prompt, batch) for _ in range(2)]
    masks = None if mask is None else _masks(mask)
    motion = None if flow is None else _Motion(flow, valid)
    changes: tuple[list[float], list[float]] = ([], [])
    warps: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    outside: list[float] = []
    last: tuple[Tensor, Tensor] | None = None
    count = 0
    pairs = in_step(
        video_planes(source, "source frame"), video_planes(edited, "edited frame"), ("source frames", "edited frames")
    )
    for count, frames in enumerate(pairs, start=1):
        true, ours = frames
        if true.shape != ours.shape:
            raise InputError(
                f"the edited frames are {ours.shape[2]} x {ours.shape[1]} pixels and the source frames {true.shape[2]} x "
                f"{true.shape[1]}; resize one of the videos"
            )
        for stream, frame in zip(streams or (), (ours, true), strict=bool(streams)):
            stream.add(frame)
        if masks is not None:
            inside = bool_mask(_next(masks, "masks", count - 1), true, f"mask {count - 1}")
            outside.append(math.nan if bool(inside.all()) else masked_psnr(ours, true, ~inside))
        if last is not None:
            for values, before, after in zip(changes, (last[1], last[0]), (ours, true), strict=True):
                values.append(frame_change(before, after))
            if motion is not None:
                along, visible = motion.between(last[0], true, count - 2)
                for found, before, after in zip(warps, (last[1], last[0]), (ours, true), strict=True):
                    found.append(pair_warp_error(before, after, along, visible))
        last = frames
        if progress is not None:
            progress(count)
    if not count:
        raise InputError("the videos have no frames")
    if masks is not None and not isinstance(masks, repeat) and next(masks, None) is not None:
        raise InputError(f"there are {count} frames but more masks; give equal numbers")
    if motion is not None:
        motion.check_end(count)
    scores = (None, None) if streams is None else (streams[0].scores(), streams[1].scores())
    borders = _borders(windows, count)
    seams = (seam_of_changes(changes[0], borders), seam_of_changes(changes[1], borders)) if borders else (None, None)
    errors = (_warp_error(warps[0]), _warp_error(warps[1])) if warps[0] else (None, None)
    return EditReport(
        count,
        *scores,
        np.array(outside) if masks is not None else None,
        *seams,
        *errors,
        None if motion is None else motion.name,
    )


def _check_arguments(flow: Any, valid: Any, windows: Any, clip: Any, prompt: Any, source_prompt: Any) -> None:
    if clip is None and (prompt is not None or source_prompt is not None):
        raise InputError("prompts are compared by a CLIP model; pass clip=ClipModel(folder) with them")
    if source_prompt is not None and prompt is None:
        raise InputError("the source prompt is compared with the target prompt; pass prompt, too")
    if valid is not None and (flow is None or callable(flow)):
        raise InputError("valid belongs to given flows; an estimator of flow finds the visible pixels itself")
    if windows is None or (type(windows) is int and windows >= 2):
        return
    if isinstance(windows, (str, int, float)) or not isinstance(windows, Sequence):
        raise InputError(
            f"windows must be a length of at least 2, or the numbers of the frames that begin a window, got {described(windows)}"
        )


def _borders(windows: int | Sequence[int] | None, count: int) -> list[int]:
    if windows is None:
        return []
    return list(range(windows, count, windows)) if isinstance(windows, int) else list(windows)


def _masks(mask: Any) -> Iterator[Any]:
    """A mask for each frame."""
    check_items("mask", mask, "a mask (H, W) of bool, or one for each frame")
    if isinstance(mask, (Tensor, np.ndarray)) and mask.ndim == 2:
        return repeat(mask)
    return iter(mask)


def _next(values: Iterator[Any], name: str, number: int) -> Any:
    end = object()
    found = next(values, end)
    if found is end:
        raise InputError(f"there are {number} {name} but more frames; give equal numbers")
    return found


class _Motion:
    """The flow from each source frame to the next, and the pixels that stay visible, given or estimated."""

    def __init__(self, flow: Any, valid: Masks | None):
        self._estimate: Any = flow if callable(flow) else None
        name = getattr(flow, "name", None) or getattr(flow, "__qualname__", None) or type(flow).__name__
        self.name = str(name) if self._estimate is not None else "given flow"
        if self._estimate is None:
            check_items("flow", flow, "flows, one for each pair of frames, or an estimator such as RaftFlow")
            self._flows: Iterator[Any] = iter(flow)  # pyright: ignore[reportArgumentType, reportCallIssue]
        if valid is not None:
            check_items("valid", valid, "masks, one for each flow")
        self._valid = None if valid is None else iter(valid)

    def between(self, one: Tensor, two: Tensor, number: int) -> tuple[Tensor, Tensor | None]:
        """(H, W, 2) and (H, W) bool or None."""
        if self._estimate is None:
            along = checked_flow(_next(self._flows, "flows", number), one, f"flow {number}")
            if self._valid is None:
                return along, None
            return along, bool_mask(_next(self._valid, "masks of valid pixels", number), one, f"valid {number}")
        there, back = (
            checked_flow(as_tensor(self._estimate(*images), "the flow", "(H, W, 2)"), one, f"the flow by {self.name}")
            for images in ((one.float(), two.float()), (two.float(), one.float()))
        )
        return there, consistent(there, back)

    def check_end(self, frames: int) -> None:
        """Raise `InputError` if more flows are left than that of the last frame."""
        if self._estimate is None and len(list(zip(range(2), self._flows, strict=False))) == 2:
            raise InputError(
                f"there are {frames} frames but more than {frames} flows; give one for each pair of frames"
            )


def _warp_error(found: Sequence[tuple[float, float]]) -> WarpError:
    errors, shares = zip(*found, strict=True)
    return WarpError(np.array(errors), np.array(shares))


def _ratio(found: Seam | None) -> float | None:
    return None if found is None else found.ratio


def _mean(found: WarpError | None) -> float | None:
    return None if found is None else found.mean


def _warp_ratio(found: WarpError | None, borders: Sequence[int] | None) -> float | None:
    if found is None or borders is None or not np.isfinite(found.per_pair).all():
        return None
    return seam_of_changes(found.per_pair, borders).ratio


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


__all__ = ["EditReport", "edit_report"]
