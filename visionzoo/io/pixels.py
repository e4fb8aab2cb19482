"""Conversion of pixels between integer arrays (…, H, W, C) and float tensors (…, C, H, W) in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_AT_ONCE = 1 << 20
"""Number of values that are converted at a time."""


def to_float(pixels: NDArray[np.uint8] | torch.Tensor, *, device: torch.device | str | None = None) -> torch.Tensor:
    """(…, H, W, C) uint8 -> (…, C, H, W) float32 in [0, 1], on `device` (that of `pixels` by default).

    The memory layout stays channels-last; `.contiguous()` makes it channels-first.
    """
    import torch

    if not isinstance(pixels, torch.Tensor):
        pixels = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
    # bytes are moved, a quarter of the size of floats
    return pixels.to(device).movedim(-1, -3).to(torch.float32) / 255


def to_uint8(image: torch.Tensor) -> NDArray[np.uint8]:
    """(…, C, H, W) float -> (…, H, W, C) uint8: clipped to [0, 1], rounded to the nearest level."""
    import torch

    return (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).contiguous().cpu().numpy()


@overload
def quantize(image: torch.Tensor) -> torch.Tensor: ...
@overload
def quantize(image: NDArray[Any]) -> NDArray[Any]: ...
def quantize(image: Any) -> Any:
    """Round floats of any shape as an 8-bit file would: clipped to [0, 1], rounded to the nearest of 256 levels."""
    clipped = image.clip(0, 1) * 255
    return (clipped.round()) / 255


def floats_to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Floats of any shape -> uint8 of the same shape: clipped to [0, 1], rounded to the nearest level."""
    return by_rows(lambda part: np.round(np.clip(part, 0, 1) * 255).astype(np.uint8), values)


def words_to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Integers from 0 to 65535, of any shape, type and byte order -> uint8: v / 257, rounded, so that 257 v becomes v."""
    return by_rows(lambda part: ((part.astype(np.uint32) + 128) // 257).astype(np.uint8), values)


def by_rows(convert: Callable[[NDArray[Any]], NDArray[np.uint8]], values: NDArray[Any]) -> NDArray[np.uint8]:
    """Apply the elementwise function `convert` to a few rows at a time, so that its temporary arrays stay small."""
    if values.size <= _AT_ONCE or values.ndim == 0:
        return convert(values)
    made = np.empty(values.shape, np.uint8)
    rows = max(1, _AT_ONCE * len(values) // values.size)
    for row in range(0, len(values), rows):
        made[row : row + rows] = convert(values[row : row + rows])
    return made


def on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, C + 1) uint8 with straight alpha as the last band -> (H, W, C), composited on white."""
    alpha = pixels[..., -1:].astype(np.uint16)
    return ((pixels[..., :-1] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
