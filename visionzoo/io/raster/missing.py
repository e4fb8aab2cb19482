"""What is missing in a raster, and how it stays missing.

The rule: what is missing in the source is missing in the result, and nothing else is.

A pixel is missing where

* every colour *as stored* is the declared no-data value (before inverting, spreading or looking up a palette, as the
  declaration is about stored values);
* a colour is NaN or infinite, or a float of a size that only fill values have (`is_extreme`);
* the mask (a page of a TIFF, or a file OUTPUT.msk) is 0 there;
* alpha is 0.

The value that a result declares is the converted one. Where a conversion merges values (palette, CMYK, YCbCr, Lab) no value
can say it, and the raster has a mask instead (`Raster.has_mask`).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXTREME = 1e30
"""Floats of this size or more are fill values (-1e37, 9.97e36, -3.4e38, …), whatever is declared."""

_WINDOWS_NAN = ("1.#qnan", "1.#ind", "1.#snan")


def declared(path: Path, value: Any, where: str) -> float | None:
    """A no-data value as a file declares it: a text or a number (or several, of which the first counts).

    Args:
        where: names the declaration in the warning that is given if it is no number.
    """
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value).decode("latin-1")
    if isinstance(value, (tuple, list, np.ndarray)):
        value = value[0] if len(value) else ""
    if isinstance(value, (int, float, np.number)):
        return float(value)
    text = str(value).strip("\0 \t\r\n").lower()
    if text.lstrip("+-") in _WINDOWS_NAN:
        return float("nan")
    for candidate in (text, text.replace(",", "."), *text.split()[:1]):  # a decimal comma; one value per band
        try:
            return float(candidate)
        except ValueError:
            continue
    if text:
        warnings.warn(
            f"{path}: {where} declares {text!r} as no-data, which is not a number; it is ignored", stacklevel=3
        )
    return None


def as_held(value: float, dtype: np.dtype, bits: int | None = None) -> float | None:
    """`value` as a pixel of type `dtype` holds it; None if it cannot.

    Args:
        bits: of an unsigned value that does not use all of `dtype`.
    """
    if np.issubdtype(dtype, np.floating):
        with np.errstate(over="ignore"):
            held = float(np.asarray(value).astype(dtype))
        return None if np.isinf(held) and not np.isinf(value) else held
    limits = np.iinfo(dtype)
    highest = limits.max if bits is None or dtype.kind != "u" else 2**bits - 1
    return float(value) if value == np.floor(value) and limits.min <= value <= highest else None


def equals(pixels: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    """Where stored pixels are the no-data value, of any shape; NaN equals NaN."""
    if np.isnan(nodata):
        return np.isnan(pixels) if pixels.dtype.kind == "f" else np.zeros(pixels.shape, bool)
    return pixels == np.asarray(nodata).astype(pixels.dtype)


def is_extreme(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where floats are finite and of the size of fill values, of any shape. float16 has only its lowest value as such."""
    if values.dtype.kind != "f":
        return np.zeros(values.shape, bool)
    if values.dtype.itemsize == 2:
        return values == np.finfo(np.float16).min
    return np.isfinite(values) & (np.abs(values) >= EXTREME)


def not_missing(values: NDArray[Any], nodata: float | None) -> NDArray[Any]:
    """Values of a result, of any shape: one that happens to be the no-data value becomes the value next to it."""
    if nodata is None or np.isnan(nodata):
        return values
    held = values.dtype.type(nodata)
    if values.dtype.kind == "f":
        beside = np.nextafter(held, values.dtype.type(0 if held else 1))
    else:
        beside = held - 1 if held == np.iinfo(values.dtype).max else held + 1
    return np.where(values == held, beside, values).astype(values.dtype)
