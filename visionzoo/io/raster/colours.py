"""Stored values to plain ones, pixel by pixel: palette, CMYK, inverted grey, few bits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from ..icc import srgb_transform

Convert = Callable[[NDArray[Any]], NDArray[Any]]


def palette(table: NDArray[np.uint8]) -> Convert:
    """(h, w, 1) numbers of colours -> (h, w, c) by a table (n, c); numbers beyond the table take its last colour."""
    return lambda pixels: table[np.minimum(pixels[..., 0], len(table) - 1)]


def grey(bits: int, dtype: np.dtype, *, inverted: bool) -> Convert | None:
    """(h, w, bands) grey: fewer than 8 bits are spread over 0 to 255; inverted means that 0 is white."""
    top = 2**bits - 1
    if bits < 8:
        table = (np.arange(top + 1) * 255 // top).astype(np.uint8)
        table = table[::-1] if inverted else table
        return lambda pixels: table[np.minimum(pixels.astype(np.uint8), top)]
    if inverted and dtype.kind == "u":
        return lambda pixels: dtype.type(top) - pixels
    return None


def cmyk(icc: bytes | None) -> Convert:
    """(h, w, 4 or more) uint8 or uint16 CMYK -> (h, w, 3 or more) uint8 RGB by the ICC profile; further bands follow."""
    transform = _to_srgb(icc) if icc else None

    def convert(pixels: NDArray[Any]) -> NDArray[np.uint8]:
        if pixels.dtype != np.uint8:
            pixels = (pixels // 257).astype(np.uint8)
        inks = np.ascontiguousarray(pixels[..., :4])
        image = Image.frombuffer("CMYK", (inks.shape[1], inks.shape[0]), inks.tobytes(), "raw", "CMYK", 0, 1)
        rgb = image.convert("RGB") if transform is None else ImageCms.applyTransform(image, transform)
        return np.concatenate([np.asarray(rgb), pixels[..., 4:]], axis=2)

    return convert


def _to_srgb(icc: bytes) -> ImageCms.ImageCmsTransform | None:
    try:
        return srgb_transform(icc, "CMYK")
    except (ImageCms.PyCMSError, OSError):
        warnings.warn("an ICC profile is damaged; colours are converted without it", stacklevel=2)
        return None
