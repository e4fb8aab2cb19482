"""What every raster has: windows, the profile that a writer keeps, reading upright, a cache of decoded blocks."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, VisionZooError, writing

CACHE_BYTES = (32 << 20, 512 << 20)
"""Least and most that decoded blocks may take: enough for two rows of windows of 256 pixels, within these."""
MOST_BANDS = 16
"""An array of three axes has its bands on an axis of at most this many."""


class RasterError(InputError):
    """A picture file that cannot be read or written. The message names the file, and the window where there is one."""


class UnreadableError(Exception):
    """Inside a reader: why a window cannot be read. `Raster.read` adds the file and the window."""


@dataclass(frozen=True)
class Window:
    """A part of a picture, in pixels from its upper left corner."""

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
class RasterProfile:
    """What belongs to a picture beside its pixels, for `RasterWriter` to keep as far as the format can hold it.

    Attributes:
        tags: TIFF tags as they stand (georeference, GDAL metadata, description, …): (code, type, count, value).
        icc: ICC profile.
        xmp: XMP packet.
        exif: EXIF data, beginning with "Exif"; its orientation is taken out, as the pixels are upright.
        resolution: pixels per unit: across, down, and the unit (1 none, 2 inch, 3 centimetre).
        compression: of the source, e.g. "deflate", "none", "jpeg".
        tile: (height, width) of the tiles, if the source has tiles.
        photometric: "rgb" or "grey".
        premultiplied: the alpha band is multiplied into the colours already.
        nodata: as declared, even where the pixels' type cannot hold it.
        attributes: of a zarr array.
    """

    tags: tuple[tuple[int, int, int, Any], ...] = ()
    icc: bytes | None = None
    xmp: bytes | None = None
    exif: bytes | None = None
    resolution: tuple[float, float, int] | None = None
    compression: str | None = None
    tile: tuple[int, int] | None = None
    photometric: str | None = None
    premultiplied: bool = False
    nodata: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """How pixels are stored, and what becomes of them.

    Attributes:
        height, width, bands, dtype: as stored (dtype in the machine's byte order).
        block: (height, width) of what is read at once.
        nodata: as declared.
        alpha: index of the alpha band after `convert`.
        profile: for a writer.
        orientation: 1 to 8, as EXIF counts.
        convert: (h, w, stored bands) -> (h, w, bands), pixel by pixel.
    """

    height: int
    width: int
    bands: int
    dtype: np.dtype
    block: tuple[int, int]
    nodata: float | None = None
    alpha: int | None = None
    profile: RasterProfile = RasterProfile()
    orientation: int = 1
    convert: Callable[[NDArray[Any]], NDArray[Any]] | None = None


class Raster(ABC):
    """A picture file that is open for reading by windows; a context manager. Windows may be read from several threads.

    Attributes:
        path: the file.
        height, width, bands: of the upright picture.
        dtype: of the values, in the machine's byte order.
        block: (height, width) of the storage; whole blocks read fastest.
        nodata: the value that stands for "no data here", if one is declared that the dtype can hold.
        alpha: index of the band that is alpha, or None.
        profile: what a writer keeps.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self._layout = path, layout
        self._turned = layout.orientation >= 5  # rows and columns change places
        self.height, self.width = layout.height, layout.width
        self.block = layout.block
        if self._turned:
            self.height, self.width, self.block = self.width, self.height, (self.block[1], self.block[0])
        shown = np.empty((1, 1, layout.bands), layout.dtype)
        shown[:] = 0
        if layout.convert is not None:
            shown = layout.convert(shown)
        self.bands, self.dtype = shown.shape[2], shown.dtype
        self.nodata = None if layout.nodata is None else as_held(layout.nodata, self.dtype)
        self.alpha = layout.alpha
        self.profile = layout.profile

    def read(self, window: Window) -> NDArray[Any]:
        """(h, w, bands), C-contiguous, of type `dtype`; the caller may change it.

        Raises:
            RasterError: the window is empty or reaches beyond the picture; the file is cut off or damaged there.
        """
        check_inside(self.path, window, self.height, self.width)
        down, across = self._layout.orientation in (3, 4, 7, 8), self._layout.orientation in (2, 3, 6, 7)
        top = self.height - window.top - window.height if down else window.top
        left = self.width - window.left - window.width if across else window.left
        try:
            if self._turned:
                pixels = self._read(Window(left, top, window.width, window.height)).swapaxes(0, 1)
            else:
                pixels = self._read(Window(top, left, window.height, window.width))
        except (UnreadableError, OSError, MemoryError) as error:
            why = one_line(error) or "out of memory"
            raise RasterError(f"{self.path}: {window} cannot be read: {why}") from error
        if self._layout.convert is not None:
            pixels = self._layout.convert(pixels)
        return np.ascontiguousarray(pixels[:: -1 if down else 1, :: -1 if across else 1])

    @abstractmethod
    def _read(self, window: Window) -> NDArray[Any]:
        """A fresh (h, w, stored bands) of a window of the picture as stored. Raises `UnreadableError`."""

    @abstractmethod
    def close(self) -> None:
        """Close the file, and delete what was unpacked."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BlockRaster(Raster):
    """A raster of blocks (tiles, strips, chunks). Those used last are kept, as far as a row of windows needs them."""

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
        """Block (row, column) of the grid, (h, w, stored bands), without what lies beyond the picture."""

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
        self._kept.clear()
        self._kept_bytes = 0


def check_inside(path: Path, window: Window, height: int, width: int) -> None:
    """Raises `RasterError` if the window is empty or not wholly within the picture."""
    inside = 0 <= window.top <= window.top + window.height <= height
    inside &= 0 <= window.left <= window.left + window.width <= width
    if not inside or window.height == 0 or window.width == 0:
        raise RasterError(f"{path}: {window} is not within the picture of {height} rows and {width} columns")


def as_held(value: float, dtype: np.dtype) -> float | None:
    """`value` as a pixel of type `dtype` holds it; None if it cannot."""
    if np.issubdtype(dtype, np.floating):
        with np.errstate(over="ignore"):
            held = float(np.asarray(value).astype(dtype))
        return None if np.isinf(held) and not np.isinf(value) else held
    limits = np.iinfo(dtype)
    return float(value) if value == np.floor(value) and limits.min <= value <= limits.max else None


def plain_dtype(path: Path, dtype: Any) -> np.dtype:
    """The dtype in the machine's byte order, if it is one of numbers that a picture may have.

    Raises:
        RasterError: complex, text, records, …
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
    """What an error says, on one line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()).rstrip(".")


def size_words(size: float) -> str:
    """Bytes for people, e.g. "3.2 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


@contextlib.contextmanager
def writing_raster(path: Path, keeps: str = "") -> Iterator[None]:
    """`visionzoo.errors.writing` with `RasterError`."""
    try:
        with writing(path, keeps):
            yield
    except RasterError:
        raise
    except VisionZooError as error:
        raise RasterError(str(error)) from error
