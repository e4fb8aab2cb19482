"""Missing pixels of a raster, and how they stay missing.

The rule: a pixel is missing in the result if and only if it is missing in the source.

A pixel is missing if

* every colour *as stored* is the declared no-data value (before inversion, scaling or palette look-up, as the declaration
  refers to stored values);
* a colour is NaN or infinite, or a float as large as only fill values are (`is_extreme`);
* the mask (a page of a TIFF, or a file OUTPUT.msk) is 0 there;
* alpha is 0.

A result declares the converted value. If a conversion merges values (palette, CMYK, YCbCr, Lab), no value can mark missing
pixels, and the raster has a mask instead (`Raster.has_mask`).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXTREME = 1e30
"""Floats of at least this magnitude are fill values (-1e37, 9.97e36, -3.4e38, …), whatever is declared."""

_WINDOWS_NAN = ("1.#qnan", "1.#ind", "1.#snan")


def declared(path: Path, value: Any, where: str) -> float | None:
    """Parse a declared no-data value: a text or a number (or several, of which the first is used).

    Args:
        where: name of the declaration, for the warning if it is not a number.
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
    """`value` as a pixel of type `dtype` holds it; None if the type cannot hold it.

    Args:
        bits: bits per sample, if an unsigned value does not use all of `dtype`.
    """
    if np.issubdtype(dtype, np.floating):
        with np.errstate(over="ignore"):
            held = float(np.asarray(value).astype(dtype))
        return None if np.isinf(held) and not np.isinf(value) else held
    limits = np.iinfo(dtype)
    highest = limits.max if bits is None or dtype.kind != "u" else 2**bits - 1
    return float(value) if value == np.floor(value) and limits.min <= value <= highest else None


def equals(pixels: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    """Bool array: where stored pixels, of any shape, equal the no-data value; NaN equals NaN."""
    if np.isnan(nodata):
        return np.isnan(pixels) if pixels.dtype.kind == "f" else np.zeros(pixels.shape, bool)
    return pixels == np.asarray(nodata).astype(pixels.dtype)


def is_extreme(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Bool array: where floats, of any shape, are finite and as large as fill values; for float16, only its lowest value."""
    if values.dtype.kind != "f":
        return np.zeros(values.shape, bool)
    if values.dtype.itemsize == 2:
        return values == np.finfo(np.float16).min
    return np.isfinite(values) & (np.abs(values) >= EXTREME)


def not_missing(values: NDArray[Any], nodata: float | None) -> NDArray[Any]:
    """Replace result values, of any shape, that happen to equal the no-data value by an adjacent value."""
    if nodata is None or np.isnan(nodata):
        return values
    held = values.dtype.type(nodata)
    if values.dtype.kind == "f":
        neighbour = np.nextafter(held, values.dtype.type(0 if held else 1))
    else:
        neighbour = held - 1 if held == np.iinfo(values.dtype).max else held + 1
    return np.where(values == held, neighbour, values).astype(values.dtype)
