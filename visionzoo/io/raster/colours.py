"""Conversion of stored values, pixel by pixel: palette, CMYK, YCbCr, Lab, inverted grey, fewer than 8 bits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from ..icc import srgb_transform
from ..pixels import floats_to_bytes

Convert = Callable[[NDArray[Any]], NDArray[Any]]


def palette(table: NDArray[np.uint8]) -> Convert:
    """Look up (h, w, 1 or more) colour indices in a table (n, c) -> (h, w, c or more). Indices beyond the table get its last
    colour; further bands are appended unchanged."""

    def convert(pixels: NDArray[Any]) -> NDArray[Any]:
        found = table[np.clip(pixels[..., 0], 0, len(table) - 1)]
        return np.concatenate([found, pixels[..., 1:].astype(np.uint8)], axis=2) if pixels.shape[2] > 1 else found

    return convert


def spread(bits: int, dtype: np.dtype, *, inverted: bool) -> Convert | None:
    """Scale (h, w, bands) of fewer than 8 bits to 0 to 255; `inverted` means that 0 is white.

    Only the colours are inverted, which for grey is the first band. Signed integers are inverted, too; floats are not, as their
    white is unknown.
    """
    top = 2**bits - 1
    if bits < 8:
        table = (np.arange(top + 1) * 255 // top).astype(np.uint8)
        first = table[::-1] if inverted else table

        def look_up(pixels: NDArray[Any]) -> NDArray[Any]:
            stored = np.minimum(pixels.astype(np.uint8), top)
            shown = table[stored]
            shown[..., 0] = first[stored[..., 0]]
            return shown

        return look_up
    if not inverted or dtype.kind == "f":
        return None

    def invert(pixels: NDArray[Any]) -> NDArray[Any]:
        shown = pixels.copy()
        # for signed integers, the lowest becomes the highest
        shown[..., 0] = dtype.type(top) - pixels[..., 0] if dtype.kind == "u" else ~pixels[..., 0]
        return shown

    return invert


def to_8_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Unsigned integers of full range, or floats in [0, 1], to uint8."""
    if pixels.dtype.kind == "f":
        return floats_to_bytes(np.nan_to_num(pixels))
    return (pixels >> 8 * (pixels.dtype.itemsize - 1)).astype(np.uint8)


def cmyk(icc: bytes | None) -> Convert:
    """(h, w, 4 or more) CMYK -> (h, w, 3 or more) uint8 RGB by the ICC profile; further bands are appended."""
    return _through_pillow("CMYK", _to_srgb(icc) if icc else None)


def lab(signed: bool) -> Convert:
    """(h, w, 3 or more) L*a*b* under D50 -> (h, w, 3 or more) uint8 sRGB.

    Args:
        signed: a* and b* are signed (CIELab); otherwise they have an offset of half their range (ICCLab).
    """
    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    through = _through_pillow("LAB", ImageCms.buildTransform(*profiles, "LAB", "RGB"))

    def convert(pixels: NDArray[Any]) -> NDArray[Any]:
        pixels = to_8_bits(pixels)
        if not signed:  # Pillow reads bytes of a* and b* as signed, but expects an offset itself
            pixels = pixels.copy()
            pixels[..., 1:3] ^= 0x80
        return through(pixels)

    return convert


def ycbcr(weights: tuple[float, float, float], black_white: tuple[float, ...]) -> Convert:
    """(h, w, 3 or more) uint8 YCbCr -> (h, w, 3 or more) uint8 RGB; further bands are appended.

    Args:
        weights: weights of red, green and blue in Y (tag YCbCrCoefficients).
        black_white: values of black and white of Y, Cb and Cr (tag ReferenceBlackWhite).
    """
    red, green, blue = weights

    def convert(pixels: NDArray[Any]) -> NDArray[np.uint8]:
        y, cb, cr = (
            (pixels[..., i].astype(np.float32) - black_white[2 * i])
            * ((255 if i == 0 else 127) / max(black_white[2 * i + 1] - black_white[2 * i], 1))
            for i in range(3)
        )
        r = y + cr * (2 - 2 * red)
        b = y + cb * (2 - 2 * blue)
        g = (y - blue * b - red * r) / green
        rgb = np.round(np.clip(np.stack([r, g, b], -1), 0, 255)).astype(np.uint8)
        return np.concatenate([rgb, pixels[..., 3:]], axis=2)

    return convert


def _through_pillow(mode: str, transform: ImageCms.ImageCmsTransform | None) -> Convert:
    count = len(Image.new(mode, (1, 1)).getbands())

    def convert(pixels: NDArray[Any]) -> NDArray[np.uint8]:
        pixels = pixels if pixels.dtype == np.uint8 else to_8_bits(pixels)
        stored = np.ascontiguousarray(pixels[..., :count])
        image = Image.frombuffer(mode, (stored.shape[1], stored.shape[0]), stored.tobytes(), "raw", mode, 0, 1)
        rgb = image.convert("RGB") if transform is None else ImageCms.applyTransform(image, transform)
        return np.concatenate([np.asarray(rgb), pixels[..., count:]], axis=2)

    return convert


def _to_srgb(icc: bytes) -> ImageCms.ImageCmsTransform | None:
    try:
        return srgb_transform(icc, "CMYK")
    except (ImageCms.PyCMSError, OSError):
        warnings.warn("an ICC profile is damaged; colours are converted without it", stacklevel=2)
        return None
