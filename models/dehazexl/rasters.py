"""Images of any type as DehazeXL's source and sink: 8 and 16 bits, floats, grey, extra bands, alpha, missing parts."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.errors import InputError
from visionzoo.io.raster import Raster, RasterWriter, Window
from visionzoo.io.raster.missing import is_extreme, not_missing

_SAMPLES = 256
"""Number of windows from which the limits of a large image are estimated."""
_TAIL = 0.0005
"""Share of values that lie beyond each of the estimated limits."""


@dataclass(frozen=True)
class Scaling:
    """Maps stored values to [0, 1] and back: `low` is 0 and `high` is 1. Values outside are kept as far as the type allows."""

    low: float
    high: float
    dtype: np.dtype

    def to_unit(self, values: NDArray[Any]) -> Tensor:
        scaled = (values.astype(self._exact) - self._exact(self.low)) / self._exact(self.high - self.low)
        return torch.from_numpy(scaled.astype(np.float32))

    def from_unit(self, values: NDArray[np.float32]) -> NDArray[Any]:
        exact = values.astype(self._exact) * self._exact(self.high - self.low) + self._exact(self.low)
        if np.issubdtype(self.dtype, np.floating):
            return np.clip(exact, *_ends(self.dtype)).astype(self.dtype)
        # the largest 64-bit integers are not representable as floats: use the nearest ones
        return np.round(np.clip(exact, *_ends(self.dtype))).astype(self.dtype)

    @property
    def _exact(self) -> type[np.floating]:
        """float32 suffices for 8 and 16 bits; larger types use float64 and may differ in their last digits."""
        return np.float32 if self.dtype.itemsize <= 2 else np.float64


def _ends(dtype: np.dtype) -> tuple[float, float]:
    """The smallest and the largest float that `dtype` can hold."""
    if np.issubdtype(dtype, np.floating):
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    limits = np.iinfo(dtype)
    high = float(limits.max)
    return float(limits.min), high if high <= limits.max else float(np.nextafter(high, 0))


def find_scaling(image: RasterImage, limits: tuple[float, float] | None = None) -> Scaling:
    """The scaling of an image: 0 to 255 for 8 bits, else a range that contains nearly all values, estimated from up to 256
    windows; floats within [0, 1] stay unchanged.

    Args:
        limits: the values to take for black and white instead.

    Raises:
        InputError: the limits are not valid.
    """
    raster = image.raster
    if limits is not None:
        check_limits(limits)
        return Scaling(*limits, raster.dtype)
    if raster.dtype == np.uint8:
        return Scaling(0, 255, raster.dtype)
    found = [values for window in sample_windows(raster) if len(values := image.valid_values(window))]
    if not found:  # hardly any valid pixels: search all windows
        found = [values for window in all_windows(raster) if len(values := image.valid_values(window, every=1))]
    values = np.concatenate(found) if found else np.zeros(1)
    _check_one_alone(raster, values)
    low, high = (float(v) for v in np.quantile(values, (_TAIL, 1 - _TAIL)))
    if np.issubdtype(raster.dtype, np.floating) and values.min() >= 0 and 0.05 < high <= 1:
        low, high = 0.0, 1.0
    if not low < high:
        half = max(0.5, abs(low) / 2**20)
        low, high = low - half, low + half  # a constant image: any scale is fine
    return Scaling(low, high, raster.dtype)


def _check_one_alone(raster: Raster, values: NDArray[np.float64]) -> None:
    """Warn if one lowest or highest value of many pixels is far from all others: it may mean "no data".

    Raises:
        InputError: it is so far away that the differences between the others would be lost.
    """
    for sign in (1, -1):
        signed = sign * values
        alone = signed.min()
        others = signed[signed != alone]
        if len(others) < 64 or len(values) - len(others) <= _TAIL * len(values) or len(np.unique(others[:4096])) < 16:
            continue
        near, far = others.min(), np.quantile(others, 1 - _TAIL)
        if near - alone <= 2 * (far - near):
            continue
        share = f"{100 * (1 - len(others) / len(values)):.2g}% of the sampled values are {sign * alone:.9g}"
        between = f"all others are from {min(sign * near, sign * others.max()):.9g} to {max(sign * near, sign * others.max()):.9g}"
        fix = f"declare it if it means no data (gdal_edit.py -a_nodata {sign * alone:.9g}), or give --limits"
        if near - alone > 1e4 * (far - near):
            raise InputError(f"{raster.path}: {share}, {between}: their differences would be lost; {fix}")
        warnings.warn(f"{raster.path}: {share}, {between}; {fix}", stacklevel=5)


def check_limits(limits: tuple[float, float]) -> None:
    """Raise `InputError` unless these are the values of black and of white."""
    if not (np.isfinite(limits).all() and limits[0] < limits[1]):
        raise InputError(
            f"limits must be the values of black and white, the lower first; got {limits[0]:g}, {limits[1]:g}"
        )


def all_windows(raster: Raster, numbers: Iterable[int] | None = None) -> Iterator[Window]:
    """The windows of 256 x 256 pixels (smaller at the edges), row by row; or only those with these numbers."""
    rows, columns = -(-raster.height // 256), -(-raster.width // 256)
    for number in range(rows * columns) if numbers is None else numbers:
        top, left = 256 * (number // columns), 256 * (number % columns)
        yield Window(top, left, min(256, raster.height - top), min(256, raster.width - left))


def sample_windows(raster: Raster) -> Iterator[Window]:
    """All windows; for a large image, a fixed random choice of 256 (evenly spaced windows could all be in one column)."""
    count = -(-raster.height // 256) * -(-raster.width // 256)
    chosen = np.random.RandomState(0).permutation(count)[:_SAMPLES]
    yield from all_windows(raster, sorted(chosen.tolist()))


class RasterImage:
    """A raster as a source. One or two bands are grey (and alpha); with more bands, three are the colours.

    Args:
        raster: an open raster.
        bands: indices from 0 of the bands for red, green and blue (or of one for grey); others stay unchanged. None: the first
            three that are not alpha, or the first.
        limits: see `find_scaling`.
    """

    def __init__(self, raster: Raster, bands: tuple[int, ...] | None = None, limits: tuple[float, float] | None = None):
        self.raster, self.height, self.width = raster, raster.height, raster.width
        plain = [band for band in range(raster.bands) if band != raster.alpha]
        if bands is None:
            bands = tuple(plain[:3] if len(plain) >= 3 else plain[:1])
        if len(bands) not in (1, 3) or len({*bands} & {*plain}) != len(bands):
            raise InputError(
                f"{raster.path}: has {len(plain)} bands of colours; name three of them as red, green and blue, or one as grey; "
                f"got (counted from 1) {', '.join(str(band + 1) for band in bands) or 'none'}"
            )
        self.bands = list(bands)
        self.partial = raster.nodata is not None or raster.has_mask or raster.alpha is not None
        self.partial |= np.issubdtype(raster.dtype, np.floating)
        self._told = False
        self.scaling = find_scaling(self, limits)

    def read_valid(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The values of the file (h, w, bands), and a mask (h, w) of valid pixels.

        A pixel is missing if it has the file's no-data value in every colour, if a colour is NaN or
        as large as a fill value, or if it is transparent; see `visionzoo.io.raster.missing`.
        """
        pixels, missing = self.raster.read_with_missing(window)
        colours = pixels[..., self.bands]
        there = np.array(~missing[..., self.bands].all(-1))
        if np.issubdtype(pixels.dtype, np.floating):
            there &= np.isfinite(colours).all(-1)
            extreme = is_extreme(colours)
            if extreme.any():
                there &= ~extreme.any(-1)
                self._warn_of_fill(colours[extreme])
        if self.raster.alpha is not None:
            there &= pixels[..., self.raster.alpha] > 0
        return pixels, there

    def _warn_of_fill(self, values: NDArray[Any]) -> None:
        """Warn once about fill values that are not the declared no-data value."""
        nodata = self.raster.nodata
        others = values if nodata is None else values[values != np.asarray(nodata).astype(values.dtype)]
        if len(others) and not self._told:
            self._told = True
            declares = "declares no no-data value" if nodata is None else f"declares {nodata:.9g} as no-data"
            warnings.warn(
                f"{self.raster.path}: {declares}, but holds {float(others[0]):.9g}; values of this size are taken for missing "
                "and stay unchanged",
                stacklevel=4,
            )

    def shows_something(self) -> bool:
        """Whether there is a valid pixel at all."""
        return not self.partial or any(self.read_valid(window)[1].any() for window in all_windows(self.raster))

    def valid_values(self, window: Window, every: int = 4) -> NDArray[np.float64]:
        """Colour values of a window, of every `every`th row and column, without missing ones."""
        pixels, there = self.read_valid(window)
        return pixels[::every, ::every][there[::every, ::every]][:, self.bands].astype(np.float64).ravel()

    def read(self, top: int, left: int, height: int, width: int) -> Tensor | None:
        window = Window(top, left, height, width)
        pixels, valid = self.read_valid(window) if self.partial else (self.raster.read(window), None)
        colours = self.scaling.to_unit(np.ascontiguousarray(pixels[..., self.bands].transpose(2, 0, 1)))
        if valid is not None:
            there = torch.from_numpy(valid)
            if not there.any():
                return None
            if not there.all():  # the network sees the mean there
                mean = colours[:, there].mean(1)
                colours = torch.where(there, colours, mean[:, None, None])
        return colours.expand(3, -1, -1) if len(self.bands) == 1 else colours


class RasterResult:
    """A raster writer as a sink. Other bands, alpha and missing parts are the source's."""

    def __init__(self, image: RasterImage, writer: RasterWriter):
        self.image, self.writer = image, writer
        self.whole = not image.partial and len(image.bands) == image.raster.bands

    def write(self, top: int, left: int, pixels: Tensor) -> None:
        if not pixels.isfinite().all():
            raise InputError(f"{self.image.raster.path}: the network gives no finite numbers; try --dtype float32")
        colours = pixels.mean(0, keepdim=True) if len(self.image.bands) == 1 else pixels
        values = self.image.scaling.from_unit(colours.permute(1, 2, 0).numpy())
        values = not_missing(values, self.image.raster.nodata)
        if not self.whole:
            held, there = self.image.read_valid(Window(top, left, *values.shape[:2]))
            held[..., self.image.bands] = np.where(there[..., None], values, held[..., self.image.bands])
            values = held
        self.writer.write(top, left, np.ascontiguousarray(values))

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        values = self.writer.read(Window(top, left, height, width))[..., self.image.bands]
        colours = self.image.scaling.to_unit(np.ascontiguousarray(values.transpose(2, 0, 1)))
        return colours.nan_to_num().expand(3, -1, -1)

    def keep(self, top: int, left: int, height: int, width: int) -> None:
        self.writer.write(top, left, self.image.raster.read(Window(top, left, height, width)))

    def keep_all(self) -> None:
        """There is nothing to dehaze: the result is the source."""
        for window in all_windows(self.image.raster):
            self.keep(window.top, window.left, window.height, window.width)
