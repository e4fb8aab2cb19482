"""Segments of a clip, and frames at the size of the network.

The network generates 81 frames at a time. The published plan starts a segment every 65 frames and writes frames 1 to 72 of the
first segment and 8 to 72 of every other one, so that the first frame of the clip and its end are lost. Frame f of a segment is in
its latent 1 for f = 0 and 2 + (f - 1) // 4 otherwise; latent 0 is padding. (Other autoencoders may compress time less.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from visionzoo.errors import InputError

__all__ = ["ClipSegment", "check_size", "plan_segments", "prepare_frames", "written_frames"]

LENGTH, OVERLAP = 81, 16
MARGIN = 8
"""Frames at the end of a segment that are not written, as the next segment has them, too."""
LATENT_FRAMES = 4
"""Frames per latent, after the first latent, which has one."""
_AT_ONCE = 8
"""Frames that are resized at a time, as floats take four times the memory of bytes."""


@dataclass(frozen=True)
class ClipSegment:
    """Frames of the clip that are generated together.

    Attributes:
        start, stop: its frames in the clip, counted from 0; `stop` is not included.
        first, last: the frames of the clip that it writes; `last` is not included.
        shared: number of its frames that the segment before has, too; 0 for the first segment.
        length: number of frames to generate. If the clip is shorter, its last frame is repeated.
    """

    start: int
    stop: int
    first: int
    last: int
    shared: int = 0
    length: int = LENGTH

    @property
    def written(self) -> slice:
        """The frames that it writes, as indices of its own frames."""
        return slice(self.first - self.start, self.last - self.start)

    def fused_latent(self, count: int = 4, latent_frames: int = LATENT_FRAMES) -> int:
        """Index of its first latent that is fused, where `count` latents are those that best match the last of the segment before.

        Args:
            count: number of latents that are fused.
            latent_frames: frames per latent of the autoencoder.
        """
        return 2 + round((self.shared - count * latent_frames - 1) / latent_frames)


def plan_segments(
    total: int,
    *,
    length: int = LENGTH,
    overlap: int = OVERLAP,
    aligned_overlap: bool = False,
    drop_remainder: bool = True,
) -> tuple[ClipSegment, ...]:
    """Divide a clip of `total` frames into segments of `length` frames. The defaults are those of the published code.

    Args:
        total: number of frames of the clip.
        length: 8 k + 1 frames, as the autoencoder returns other numbers of frames than it gets otherwise.
        overlap: frames that neighbouring segments share. In the published plan, latents that are fused differ by one frame: those
            of the segment before begin at its frame 65, those of the next one at its frame 1, which is frame 66.
        aligned_overlap: let segments share one frame more, so that fused latents are of the same frames.
        drop_remainder: leave out frames after the last whole segment, the very first and the very last frames; a clip shorter than
            `length` then has no segment. With False, every frame is written: a last segment ends with the clip, and a short clip
            is extended by its last frame.

    Raises:
        InputError: numbers that allow no plan.
    """
    if length < 9 or (length - 1) % 8:
        raise InputError(f"the length of a segment must be 8 k + 1 frames, e.g. {LENGTH}, got {length}")
    if total < 0 or not MARGIN < overlap < length - 1:
        raise InputError(
            f"a plan needs a number of frames from 0 and an overlap from {MARGIN + 1} to {length - 2}, got {total} and {overlap}"
        )
    stride = length - overlap - aligned_overlap
    starts = list(range(0, total - length + 1, stride))
    if not drop_remainder and total:
        if not starts:
            starts = [0]
        elif starts[-1] + length < total:
            starts.append(total - length)
    segments: list[ClipSegment] = []
    for number, start in enumerate(starts):
        first, final = (segments[-1].last if segments else int(drop_remainder)), start == starts[-1]
        last = min(total, start + length) if final and not drop_remainder else start + length - MARGIN
        shared = starts[number - 1] + length - start if number else 0
        segments.append(ClipSegment(start, min(total, start + length), first, last, shared, length))
    return tuple(segments)


def written_frames(segments: tuple[ClipSegment, ...]) -> range:
    """The frames of the clip that a plan writes; empty without segments."""
    return range(segments[0].first, segments[-1].last) if segments else range(0)


def check_size(height: int, width: int) -> None:
    """Raise `InputError` unless both sides of a video, in pixels, are multiples of 16."""
    if height < 16 or width < 16 or height % 16 or width % 16:
        near = [max(16, 16 * round(side / 16)) for side in (height, width)]
        raise InputError(
            f"height and width must be multiples of 16, got {height} x {width}; the nearest are {near[0]} x {near[1]}"
        )


def prepare_frames(frames: NDArray[np.uint8] | Tensor, height: int, width: int) -> Tensor:
    """Frames (F, H, W, 3) uint8 -> (F, 3, height, width) uint8: resized to cover the size, then cropped around the centre.

    Resizing is bicubic with antialiasing, in float32. (torchvision's v2 `resize` computes with bytes, which cuts off what
    overshoots between its two passes.)

    Raises:
        InputError: other frames, or a size that is no multiple of 16.
    """
    check_size(height, width)
    tensor = frames if isinstance(frames, Tensor) else torch.from_numpy(np.require(frames, requirements=["C", "W"]))
    if tensor.ndim != 4 or tensor.shape[-1] != 3 or tensor.dtype != torch.uint8 or not len(tensor):
        raise InputError(f"frames must be (F, H, W, 3) uint8, got {tuple(tensor.shape)} {tensor.dtype}")
    old_height, old_width = tensor.shape[1:3]
    scale = max(height / old_height, width / old_width)
    size = [max(height, int(old_height * scale)), max(width, int(old_width * scale))]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    made = []
    for part in tensor.split(_AT_ONCE):
        resized = F.interpolate(part.movedim(-1, 1).float(), size, mode="bicubic", antialias=True)
        cropped = resized[:, :, top : top + height, left : left + width]
        made.append(cropped.clamp(0, 255).round().to(torch.uint8))
    return torch.cat(made)
