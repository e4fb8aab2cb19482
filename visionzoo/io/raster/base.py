"""Base of all raster readers: windows, the profile for writers, upright reading, and a cache of decoded blocks."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, VisionZooError, writing
from .metadata import RasterProfile
from .missing import as_held, equals

CACHE_BYTES = (32 << 20, 512 << 20)
"""Minimum and maximum size of the cache in bytes; within these limits it holds two rows of windows of 256 pixels."""
MOST_BANDS = 16
"""Maximum number of bands; it tells which axis of a three-dimensional array holds the bands."""


class RasterError(InputError):
    """An image file that cannot be read or written. The message names the file, and the window where there is one."""


class UnreadableError(Exception):
    """Raised inside readers with the reason that a window cannot be read; `Raster.read` adds the file and the window."""


@dataclass(frozen=True)
class Window:
    """A rectangle of an image, in pixels from its upper left corner."""

    top: int
    left: int
    height: int
    width: int

    def __str__(self) -> str:
        return (
            f"rows {self.top} to {self.top + self.height - 1}, columns {self.left} to {self.left + self.width - 1}"
            if self.height > 0 and self.width > 0
            else f"a window of {self.height} x {self.width} pixels at row {self.top}, column {self.left}"
        )


@dataclass(frozen=True)
class Layout:
    """How pixels are stored and converted.

    Attributes:
        height, width, bands, dtype: as stored (dtype in native byte order).
        block: (height, width) that is read at a time.
        bits: bits per sample, if an unsigned value does not use all of `dtype`.
        nodata: the declared no-data value, in stored values: one for all bands, or one (or None) for each.
        alpha: index of the alpha band after `convert`.
        profile: metadata for a writer.
        orientation: EXIF orientation, 1 to 8.
        convert: (h, w, stored bands) -> (h, w, bands), pixel by pixel.
        mixes: number of stored bands that are converted to colours jointly (palette 1, Lab 3, CMYK 4); 0: every band is
            converted separately, and different values stay different.
        mask: opens the mask, which has the image's stored layout and is not 0 where there is data.
    """

    height: int
    width: int
    bands: int
    dtype: np.dtype
    block: tuple[int, int]
    bits: int | None = None
    nodata: float | tuple[float | None, ...] | None = None
    alpha: int | None = None
    profile: RasterProfile = field(default_factory=RasterProfile)
    orientation: int = 1
    convert: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    mixes: int = 0
    mask: Callable[[], Raster] | None = None

    @property
    def held_nodata(self) -> tuple[float | None, ...]:
        """The no-data value of each band as a stored pixel holds it; None if no pixel can."""
        each = self.nodata if isinstance(self.nodata, tuple) else (self.nodata,) * self.bands
        each = (*each, *(None,) * self.bands)[: self.bands]
        return tuple(None if value is None else as_held(value, self.dtype, self.bits) for value in each)


class Raster(ABC):
    """An image file open for reading by windows; a context manager. Several threads may read windows.

    Attributes:
        path: the file.
        height, width, bands: of the upright image.
        dtype: type of the values, in native byte order.
        block: (height, width) of the storage blocks; whole blocks read fastest.
        nodata: the no-data value in the pixels that `read` returns, or None.
        has_mask: whether there is a mask, or a no-data value that the conversion hides; see `read_mask`.
        alpha: index of the alpha band, or None.
        white: the value of white, e.g. 255, or 4095 for 12 bits; None for signed integers and floats.
        profile: metadata that a writer keeps.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self._layout = path, layout
        self._turned = layout.orientation >= 5  # rows and columns are swapped
        self.height, self.width = layout.height, layout.width
        self.block = layout.block
        if self._turned:
            self.height, self.width, self.block = self.width, self.height, (self.block[1], self.block[0])
        shown = self._shown(np.zeros((1, 1, layout.bands), layout.dtype))
        self.bands, self.dtype = shown.shape[2], shown.dtype
        self._held = layout.held_nodata
        found = [value for value in self._held if value is not None]
        # one value is enough if all bands share it and different stored values stay different
        plain = bool(found) and not layout.mixes and len({str(value) for value in self._held}) == 1
        self.nodata = None
        if plain:
            self.nodata = float(self._shown(np.full((1, 1, layout.bands), found[0], layout.dtype))[0, 0, 0])
        self.alpha = layout.alpha
        self.white = _white(self.dtype, layout)
        self._mask: Raster | None = layout.mask() if layout.mask is not None else None
        self.has_mask = self._mask is not None or (bool(found) and not plain)
        self.profile = layout.profile
        if layout.convert is not None or layout.bits is not None or (found and not plain):
            self.profile = replace(self.profile, nodata=self.nodata)  # the declared value refers to stored values

    def _shown(self, stored: NDArray[Any]) -> NDArray[Any]:
        return stored if self._layout.convert is None else self._layout.convert(stored)

    def read(self, window: Window) -> NDArray[Any]:
        """Read (h, w, bands), C-contiguous, of type `dtype`; the caller may modify it.

        Raises:
            RasterError: the window is empty or not within the image, or the file is truncated or damaged there.
        """
        return self._upright(self._shown(self._stored(window, self._as_stored(window))))

    def read_with_missing(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The result of `read`, and (h, w, bands) bool: True where a band has no data (no-data value or mask, not alpha).

        Raises:
            RasterError: as `read`.
        """
        place = self._as_stored(window)
        stored = self._stored(window, place)
        found = np.zeros((stored.shape[0], stored.shape[1], stored.shape[2]), bool)
        mixes = self._layout.mixes
        for band, value in enumerate(self._held):
            if value is not None:
                found[..., band] = equals(stored[..., band], value)
        if mixes:
            together = found[..., :mixes].all(-1, keepdims=True)
            found = np.concatenate([together.repeat(self.bands - found.shape[2] + mixes, -1), found[..., mixes:]], -1)
        if self._mask is not None:
            found |= (self._mask.read(place) == 0).all(-1, keepdims=True)
        return self._upright(self._shown(stored)), self._upright(found)

    def read_mask(self, window: Window) -> NDArray[np.bool_]:
        """(h, w) bool: True where there is data according to the mask and hidden no-data values. Raises `RasterError`."""
        colours = [band for band in range(self.bands) if band != self.alpha]
        return np.logical_not(self.read_with_missing(window)[1][..., colours].all(axis=-1))

    def _as_stored(self, window: Window) -> Window:
        """The window in the rows and columns of the file."""
        check_inside(self.path, window, self.height, self.width)
        down, across = self._flips
        top = self.height - window.top - window.height if down else window.top
        left = self.width - window.left - window.width if across else window.left
        return (
            Window(left, top, window.width, window.height)
            if self._turned
            else Window(top, left, window.height, window.width)
        )

    @property
    def _flips(self) -> tuple[bool, bool]:
        """Whether the stored image is flipped vertically, and horizontally."""
        return self._layout.orientation in (3, 4, 7, 8), self._layout.orientation in (2, 3, 6, 7)

    def _stored(self, window: Window, place: Window) -> NDArray[Any]:
        try:
            return self._read(place)
        except (UnreadableError, OSError, MemoryError) as error:
            why = one_line(error) or "out of memory"
            raise RasterError(f"{self.path}: {window} cannot be read: {why}") from error

    def _upright(self, pixels: NDArray[Any]) -> NDArray[Any]:
        down, across = self._flips
        pixels = pixels.swapaxes(0, 1) if self._turned else pixels
        return np.ascontiguousarray(pixels[:: -1 if down else 1, :: -1 if across else 1])

    @abstractmethod
    def _read(self, window: Window) -> NDArray[Any]:
        """Read a window of the stored image as a new array (h, w, stored bands). Raises `UnreadableError`."""

    def close(self) -> None:
        """Close the file and delete unpacked pixels."""
        if self._mask is not None:
            self._mask.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _white(dtype: np.dtype, layout: Layout) -> float | None:
    if dtype.kind != "u":
        return None
    deep = layout.bits is not None and layout.bits > 8 and dtype == layout.dtype
    return 2.0 ** (layout.bits or 0) - 1 if deep else float(np.iinfo(dtype).max)


class BlockRaster(Raster):
    """A raster of blocks (tiles, strips, chunks), with a cache of the blocks used last."""

    def __init__(self, path: Path, layout: Layout) -> None:
        super().__init__(path, layout)
        pixel = layout.bands * layout.dtype.itemsize
        least, most = CACHE_BYTES
        self._budget = min(max(layout.width * (256 + 2 * layout.block[0]) * pixel, least), most)
        self._kept: OrderedDict[tuple[int, int], NDArray[Any]] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    @abstractmethod
    def _decode(self, row: int, column: int) -> NDArray[Any]:
        """Decode block (row, column) of the grid to (h, w, stored bands), cropped to the image."""

    def _read(self, window: Window) -> NDArray[Any]:
        high, wide = self._layout.block
        pixels = np.empty((window.height, window.width, self._layout.bands), self._layout.dtype)
        bottom, right = window.top + window.height, window.left + window.width
        for row in range(window.top // high, -(-bottom // high)):
            y0, y1 = max(window.top, row * high), min(bottom, (row + 1) * high)
            for column in range(window.left // wide, -(-right // wide)):
                x0, x1 = max(window.left, column * wide), min(right, (column + 1) * wide)
                block = self._block(row, column)
                pixels[y0 - window.top : y1 - window.top, x0 - window.left : x1 - window.left] = block[
                    y0 - row * high : y1 - row * high, x0 - column * wide : x1 - column * wide
                ]
        return pixels

    def _block(self, row: int, column: int) -> NDArray[Any]:
        with self._lock:
            block = self._kept.get((row, column))
            if block is not None:
                self._kept.move_to_end((row, column))
                return block
        block = self._decode(row, column)
        with self._lock:
            if (row, column) not in self._kept:
                self._kept[row, column] = block
                self._kept_bytes += block.nbytes
            while self._kept_bytes > self._budget and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return block

    def close(self) -> None:
        super().close()
        self._kept.clear()
        self._kept_bytes = 0


def check_inside(path: Path, window: Window, height: int, width: int) -> None:
    """Raise `RasterError` if the window is empty or not entirely within the image."""
    inside = 0 <= window.top <= window.top + window.height <= height
    inside &= 0 <= window.left <= window.left + window.width <= width
    if not inside or window.height == 0 or window.width == 0:
        raise RasterError(f"{path}: {window} is not within the image of {height} rows and {width} columns")


def plain_dtype(path: Path, dtype: Any) -> np.dtype:
    """The dtype in native byte order, if it is a numeric type that an image can have.

    Raises:
        RasterError: complex numbers, text, records, …
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        raise RasterError(
            f"{path}: holds complex values ({dtype}), expected integers or floats; save the magnitude instead"
        )
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise RasterError(f"{path}: holds values of type {dtype}, expected integers or floats")
    return dtype.newbyteorder("=")


def one_line(error: BaseException) -> str:
    """An error's message on one line."""
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(message.split()).rstrip(".")


def size_words(size: float) -> str:
    """A number of bytes as text, e.g. "3.2 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


@contextlib.contextmanager
def writing_raster(path: Path, keeps: str = "") -> Iterator[None]:
    """Like `visionzoo.errors.writing`, but raises `RasterError`."""
    try:
        with writing(path, keeps):
            yield
    except RasterError:
        raise
    except VisionZooError as error:
        raise RasterError(str(error)) from error
