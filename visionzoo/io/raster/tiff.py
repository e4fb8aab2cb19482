"""Read TIFF, BigTIFF, GeoTIFF and COG by windows; only the tiles or strips that a window touches are decoded."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import require
from .base import BlockRaster, Layout, Raster, RasterError, UnreadableError, one_line, size_words
from .raw import RawPixels, RawRaster
from .sidecars import NONE, Sidecars
from .tiff_header import Header, NotByWindowsError

LARGEST_TILE = 512 << 20
"""Maximum size of a decoded tile in bytes."""
LARGEST_STRIP = 64 << 20
"""Maximum size of a decoded strip in bytes; files with larger strips are unpacked on disk."""

_REDUCED, _MASK = 1, 4


def open_tiff(
    path: Path,
    unpack: Callable[[Layout], RawPixels] | None = None,
    *,
    sidecars: Sidecars = NONE,
    at_least: int | None = None,
    mask: int | None = None,
) -> Raster:
    """Open a TIFF of any kind.

    Args:
        unpack: called for files without random access; returns their pixels unpacked on disk.
        sidecars: sidecar files of the image.
        at_least: of a pyramid, open the smallest page whose longer side is at least this many pixels.
        mask: offset of a mask page to open, as stored.

    Raises:
        RasterError: damaged, or of an unsupported kind.
        NotByWindowsError: of a kind that cannot be read by windows.
    """
    tifffile = require("tifffile", extra="raster", purpose="reading TIFF")
    try:
        with _quiet(), tifffile.TiffFile(path) as file:
            page, mask_page = _full_page(path, file)
            if mask is not None:
                page = next(page for page in file.pages if page.offset == mask)
            elif at_least is not None:
                page = _reduced(file, page, at_least)
            header = Header(path, page)
            opens = None
            if mask is None and mask_page is not None:
                opens = partial(open_tiff, path, mask=int(mask_page.offset))
            elif mask is None and sidecars.mask is not None:
                opens = partial(open_mask, sidecars.mask, header.height, header.width)
            layout = header.layout(file, sidecars, opens)
            if mask is not None:
                layout = replace(layout, orientation=1)
            if not header.plain_rows:
                try:
                    header.check_codec()
                except NotByWindowsError as error:
                    error.layout = layout
                    raise
    except RasterError:
        raise
    except Exception as error:  # a damaged header can raise anything
        raise NotByWindowsError(
            f"{path}: cannot be read as TIFF: truncated or damaged ({one_line(error) or type(error).__name__}); copy it again"
        ) from error
    if header.plain_rows:
        return RawRaster(path, layout, header.rows(layout))
    block_bytes = layout.block[0] * layout.block[1] * layout.bands * layout.dtype.itemsize
    if not header.tiled and block_bytes > LARGEST_STRIP:
        if layout.convert is not None or header.planes > 1 or unpack is None:
            raise RasterError(
                f"{path}: is stored in strips of {size_words(block_bytes)}, too large to read by windows; "
                "convert it to tiles, e.g. with gdal_translate -co TILED=YES"
            )
        return RawRaster(path, layout, unpack(layout))
    if block_bytes > LARGEST_TILE:
        raise RasterError(
            f"{path}: has tiles of {layout.block[1]} x {layout.block[0]} pixels ({size_words(block_bytes)}); the limit is "
            f"{size_words(LARGEST_TILE)}; convert it to smaller tiles, e.g. with gdal_translate -co TILED=YES"
        )
    return _TiffRaster(path, layout, header)


def open_mask(path: Path, height: int, width: int) -> Raster:
    """Open a mask file OUTPUT.msk, a TIFF of the same size as its raster. Raises `RasterError`."""
    raster = open_tiff(path)
    if (raster.height, raster.width) != (height, width):
        size = f"{raster.width} x {raster.height}"
        raster.close()
        raise RasterError(
            f"{path}: is a mask of {size} pixels, the raster beside it has {width} x {height}; rename or replace the mask"
        )
    return raster


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence tifffile's log messages about odd tags; real problems are raised as one-line errors."""
    logger = logging.getLogger("tifffile")

    def drop(_: logging.LogRecord) -> bool:
        return False

    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def _full_page(path: Path, file: Any) -> tuple[Any, Any]:
    """The first full-resolution page, and its mask page (or None)."""
    if not len(file.pages):
        raise RasterError(f"{path}: holds no image; the file is truncated or damaged: copy it again")
    page, mask = file.pages[0], None
    if page.subfiletype & (_REDUCED | _MASK):  # the image is on another page, e.g. after a thumbnail
        full = [p for p in _all_pages(file) if not p.subfiletype & (_REDUCED | _MASK)]
        return max(full, key=lambda p: p.imagewidth * p.imagelength, default=page), None
    for other in file.pages[1:] if len(file.pages) > 1 else ():
        same = (other.imagelength, other.imagewidth) == (page.imagelength, page.imagewidth)
        if other.subfiletype & _MASK and not other.subfiletype & _REDUCED and same:
            mask = other
            break
        if not other.subfiletype & (_REDUCED | _MASK):
            warnings.warn(f"{path}: holds {len(file.pages)} pages; the first one is used", stacklevel=5)
            break
    if int(page.imagedepth) > 1:
        warnings.warn(f"{path}: holds {page.imagedepth} slices; the first one is used", stacklevel=5)
    return page, mask


def _all_pages(file: Any) -> list[Any]:
    """The pages, and the subpages (SubIFDs) of the first one."""
    below = file.pages[0].pages
    return [*file.pages, *(below or ())]


def _reduced(file: Any, page: Any, at_least: int) -> Any:
    """The smallest overview of a page whose longer side is at least `at_least` pixels."""

    def kind(p: Any) -> tuple[Any, ...]:
        return p.samplesperpixel, p.bitspersample, p.photometric, p.sampleformat

    longer = max(page.imagewidth, page.imagelength)
    fits = [page]
    for other in _all_pages(file):
        scale = max(other.imagewidth, other.imagelength) / longer
        shape = (
            abs(other.imagewidth - page.imagewidth * scale) < 2,
            abs(other.imagelength - page.imagelength * scale) < 2,
        )
        if other.subfiletype & _REDUCED and not other.subfiletype & _MASK and kind(other) == kind(page) and all(shape):
            fits += [other] if scale * longer >= at_least else []
    return min(fits, key=lambda p: p.imagewidth)


class _TiffRaster(BlockRaster):
    """A TIFF of tiles or compressed strips."""

    def __init__(self, path: Path, layout: Layout, header: Header) -> None:
        super().__init__(path, layout)
        self._header = header
        self._fill = layout.held_nodata[0] or 0
        self._file = path.open("rb", buffering=0)
        self._reading = threading.Lock()

    def _decode(self, row: int, column: int) -> NDArray[Any]:
        header = self._header
        columns = header.grid[1]
        high = min(header.block[0], header.height - row * header.block[0])
        wide = min(header.block[1], header.width - column * header.block[1])
        number = row * columns + column
        planes = [self._segment(number + plane * header.plane_blocks, high, wide) for plane in range(header.planes)]
        block = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        if block.shape != (high, wide, header.samples):
            raise UnreadableError(f"{header.unit} {number} is damaged (shape {block.shape}); copy the file again")
        return block.astype(header.dtype, copy=False)

    def _segment(self, number: int, high: int, wide: int) -> NDArray[Any]:
        header = self._header
        offset, size = int(header.offsets[number]), int(header.sizes[number])
        if size == 0:  # in a sparse file, a block that is not stored has no data
            return np.full((high, wide, header.samples // header.planes), self._fill, header.dtype)
        with self._reading:
            end = self._file.seek(0, 2)
            if offset + size > end:
                raise UnreadableError(
                    f"the file is truncated: {header.unit} {number} ends at byte {offset + size}, the file at {end}; "
                    "copy it again"
                )
            self._file.seek(offset)
            data = self._file.read(size)
        try:
            segment = header.decoder(data, number, jpegtables=header.jpeg_tables)[0]
        except Exception as error:  # every codec raises its own errors
            raise UnreadableError(
                f"{header.unit} {number} is damaged ({one_line(error) or type(error).__name__}); copy the file again"
            ) from error
        return segment[0, :high, :wide]

    def close(self) -> None:
        super().close()
        self._file.close()
