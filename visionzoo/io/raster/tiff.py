"""TIFF, BigTIFF, GeoTIFF and COG by windows: only the tiles or strips that a window touches are decoded."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import require
from . import colours
from .base import (
    BlockRaster,
    Layout,
    Raster,
    RasterError,
    RasterProfile,
    UnreadableError,
    as_held,
    one_line,
    plain_dtype,
    size_words,
)
from .raw import RawPixels, RawRaster

LARGEST_TILE = 512 << 20
"""Bytes of a decoded tile; a larger one is refused."""
LARGEST_STRIP = 64 << 20
"""Bytes of a decoded strip; a file of larger ones is unpacked on disk, as it has no random access."""

DESCRIPTION, XMP, ICC, NODATA, GDAL_METADATA = 270, 700, 34675, 42113, 42112
GEOREFERENCE = frozenset({33550, 33920, 33922, 34264, 34735, 34736, 34737, 50844})
"""Pixel scale, tie points, transformation, GeoKeys and their values, rational polynomial coefficients."""
_KEPT = GEOREFERENCE | {269, DESCRIPTION, 271, 272, 285, 315, 33432, 33723, GDAL_METADATA, 50909}
"""And names, description, camera, page name, artist, copyright, IPTC, GDAL and Geo metadata."""
_OWN_WORDS = re.compile(rb'\s*(\{"shape"|ImageJ=|<\?xml[^>]*\?>\s*(<!--.*?-->\s*)?<OME)', re.DOTALL)
"""Descriptions by which programs describe the layout of their own files: wrong for another file."""
_COMPRESSION = {1: "none", 5: "lzw", 8: "deflate", 32946: "deflate", 32773: "packbits", 34925: "lzma", 50000: "zstd"}
_JPEG = frozenset({6, 7, 33007, 34892})  # their decoder gives RGB


def open_tiff(path: Path, unpack: Callable[[Layout], RawPixels]) -> Raster:
    """A TIFF of any kind.

    Args:
        unpack: called for files without random access; gives their pixels unpacked on disk.

    Raises:
        RasterError: damaged, or of a kind that cannot be read.
    """
    tifffile = require("tifffile", extra="raster", purpose="reading TIFF by windows")
    try:
        with _quiet(), tifffile.TiffFile(path) as file:
            page = _full_page(path, file)
            header = _Header(path, page)
            layout = header.layout(file)
    except RasterError:
        raise
    except Exception as error:  # a damaged header can fail anywhere
        raise RasterError(
            f"{path}: cannot be read as TIFF: cut off or damaged ({one_line(error) or type(error).__name__}); copy it again"
        ) from error
    if header.plain_rows:
        return RawRaster(path, layout, header.rows(layout))
    block_bytes = layout.block[0] * layout.block[1] * layout.bands * layout.dtype.itemsize
    if not header.tiled and block_bytes > LARGEST_STRIP:
        if layout.convert is not None or header.planes > 1:
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without tifffile's remarks on odd tags: what matters is raised, in one line."""
    logger = logging.getLogger("tifffile")

    def drop(_: logging.LogRecord) -> bool:
        return False

    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def _full_page(path: Path, file: Any) -> Any:
    """The first page of full resolution."""
    if not len(file.pages):
        raise RasterError(f"{path}: holds no picture; the file is cut off or damaged: copy it again")
    page = file.pages[0]
    if page.subfiletype & 5:  # reduced, or a mask
        page = max((p for p in file.pages if not p.subfiletype & 5), key=lambda p: p.imagewidth, default=page)
    elif len(file.pages) > 1:
        second = file.pages[1]
        if second.subfiletype & 4:
            warnings.warn(f"{path}: has a mask on a page of its own, which is not used", stacklevel=4)
        elif not second.subfiletype & 1:
            warnings.warn(f"{path}: holds {len(file.pages)} pages; the first one is used", stacklevel=4)
    return page


class _Header:
    """What is needed of a page to find and decode its pixels.

    Raises:
        RasterError: the page is of a kind that cannot be read.
    """

    def __init__(self, path: Path, page: Any) -> None:
        self.path, self.page = path, page
        self.height, self.width = int(page.imagelength), int(page.imagewidth)
        if self.height < 1 or self.width < 1 or page.imagedepth != 1:
            raise RasterError(
                f"{path}: is {self.width} x {self.height} x {page.imagedepth} pixels, expected a flat picture of at least one"
            )
        if page.dtype is None:
            raise RasterError(
                f"{path}: has {page.bitspersample} bits in a sample (format {page.sampleformat}), which cannot be read; "
                "convert it, e.g. with gdal_translate -ot"
            )
        self.bits = page.bitspersample if isinstance(page.bitspersample, int) else 8
        self.dtype = np.dtype(np.uint8) if self.bits == 1 else plain_dtype(path, page.dtype)
        self.samples = int(page.samplesperpixel)
        self.planes = self.samples if page.planarconfig == 2 else 1
        self.tiled = bool(page.is_tiled)
        if self.tiled:
            self.block = (int(page.tilelength), int(page.tilewidth))
        else:
            self.block = (min(int(page.rowsperstrip), self.height), self.width)
        if min(self.block) < 1:
            raise RasterError(
                f"{path}: cut off or damaged (blocks of {self.block[1]} x {self.block[0]}); copy it again"
            )
        self.grid = (-(-self.height // self.block[0]), -(-self.width // self.block[1]))
        self.offsets = np.array(page.dataoffsets, np.int64)
        self.sizes = np.array(page.databytecounts, np.int64)
        wanted = self.planes * self.grid[0] * self.grid[1]
        if len(self.offsets) < wanted or len(self.sizes) < wanted:
            raise RasterError(
                f"{path}: cut off or damaged: names {min(len(self.offsets), len(self.sizes))} of its {wanted} "
                f"{self.unit}s; copy it again"
            )
        self.plain_rows = (
            not self.tiled
            and page.compression == 1
            and page.predictor == 1
            and page.fillorder == 1
            and self.bits == 8 * self.dtype.itemsize
            and not page.is_subsampled
        )
        if not self.plain_rows:
            self._check_codec()
        # both may look into the file, which is closed soon
        self.jpeg_tables, self.decoder = page.jpegtables, page.decode

    @property
    def unit(self) -> str:
        return "tile" if self.tiled else "strip"

    def _check_codec(self) -> None:
        import tifffile

        page, number = self.page, int(self.page.compression)
        name = getattr(page.compression, "name", str(number))
        try:
            known = number == 1 or tifffile.TIFF.DECOMPRESSORS[number] is not None
        except (KeyError, ImportError, AttributeError):
            known = False
        if not known:
            raise RasterError(
                f"{self.path}: its compression ({name}) is unknown; try pip install -U imagecodecs, or convert the file, "
                "e.g. with gdal_translate -co COMPRESS=DEFLATE"
            )
        if page.is_subsampled and number not in _JPEG:
            raise RasterError(
                f"{self.path}: holds subsampled YCbCr, which cannot be read by windows; convert it to RGB"
            )

    def layout(self, file: Any) -> Layout:
        page = self.page
        tags = {int(tag.code): tag for tag in page.tags}
        orientation = int(tags[274].value) if 274 in tags else 1
        if not 1 <= orientation <= 8 or GEOREFERENCE & tags.keys():
            orientation = 1  # coordinates on the ground count from the stored corner
        icc = bytes(page.iccprofile) if page.iccprofile else None
        convert, shown, photometric = self._colours(icc)
        extra = [int(kind) for kind in page.extrasamples]
        alpha = next((shown - len(extra) + i for i, kind in enumerate(extra) if kind in (1, 2)), None)
        nodata = _number(tags[NODATA].value) if NODATA in tags else None
        compression = int(page.compression)
        profile = RasterProfile(
            tags=tuple(_raw(file, tag) for code, tag in sorted(tags.items()) if code in _KEPT and _foreign(file, tag)),
            icc=None if page.photometric == 5 else icc,
            xmp=_bytes(file, tags[XMP]) if XMP in tags else None,
            resolution=_resolution(tags),
            compression=_COMPRESSION.get(compression, getattr(page.compression, "name", str(compression)).lower()),
            tile=self.block if self.tiled else None,
            photometric=photometric,
            premultiplied=alpha is not None and extra[alpha - shown + len(extra)] == 1,
            nodata=nodata,
        )
        return Layout(
            self.height,
            self.width,
            self.samples,
            self.dtype,
            self.block,
            nodata=nodata,
            alpha=alpha,
            profile=profile,
            orientation=orientation,
            convert=convert,
        )

    def _colours(self, icc: bytes | None) -> tuple[colours.Convert | None, int, str]:
        """What to do with the stored values, the number of bands afterwards, and whether they are "rgb" or "grey"."""
        page, kind = self.page, int(self.page.photometric)
        if page.tags.get(262) is None:  # required, and missing in some files all the same
            kind = 2 if self.samples in (3, 4) else 1
        if kind in (0, 1, 4):  # 0 is white; 0 is black; a mask
            return colours.grey(self.bits, self.dtype, inverted=kind == 0), self.samples, "grey"
        if kind == 2 or (kind == 6 and int(page.compression) in _JPEG and self.samples == 3):
            return None, self.samples, "rgb"
        if kind == 3 and self.samples == 1 and page.colormap is not None:
            table = np.asarray(page.colormap).T
            return colours.palette((table >> 8 if table.max() > 255 else table).astype(np.uint8)), 3, "rgb"
        if kind == 5 and self.samples >= 4 and self.dtype in (np.uint8, np.uint16):
            return colours.cmyk(icc), self.samples - 1, "rgb"
        name = getattr(page.photometric, "name", str(kind))
        raise RasterError(
            f"{self.path}: its colours ({name}, {self.samples} samples) cannot be read; convert it to RGB"
        )

    def rows(self, layout: Layout) -> RawPixels:
        """The pixels of a file of uncompressed strips."""
        row_bytes = self.width * self.samples // self.planes * self.dtype.itemsize
        high, strips = self.block[0], self.grid[0]

        def plane(first: int) -> Callable[[int], int | None]:
            def offset(row: int) -> int | None:
                strip = first + row // high
                return int(self.offsets[strip]) + row % high * row_bytes if self.sizes[strip] else None

            return offset

        fill = None if layout.nodata is None else as_held(layout.nodata, self.dtype)
        return RawPixels(
            self.path,
            width=self.width,
            bands=self.samples,
            dtype=self.dtype.newbyteorder(self.page.parent.byteorder),
            planes=[plane(i * strips) for i in range(self.planes)],
            fill=0 if fill is None else fill,
        )


class _TiffRaster(BlockRaster):
    """A TIFF of tiles or compressed strips."""

    def __init__(self, path: Path, layout: Layout, header: _Header) -> None:
        super().__init__(path, layout)
        self._header = header
        self._file = path.open("rb", buffering=0)
        self._reading = threading.Lock()

    def _decode(self, row: int, column: int) -> NDArray[Any]:
        header = self._header
        rows, columns = header.grid
        high = min(header.block[0], header.height - row * header.block[0])
        wide = min(header.block[1], header.width - column * header.block[1])
        number = row * columns + column
        planes = [self._segment(number + plane * rows * columns, high, wide) for plane in range(header.planes)]
        block = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        if block.shape != (high, wide, header.samples):
            raise UnreadableError(f"{header.unit} {number} is damaged (shape {block.shape}); copy the file again")
        return block.astype(header.dtype, copy=False)

    def _segment(self, number: int, high: int, wide: int) -> NDArray[Any]:
        header = self._header
        offset, size = int(header.offsets[number]), int(header.sizes[number])
        if size == 0:  # a sparse file: nothing stored means no data
            samples = header.samples // header.planes
            return np.full((high, wide, samples), self.nodata or 0, header.dtype)
        with self._reading:
            end = self._file.seek(0, 2)
            if offset + size > end:
                raise UnreadableError(
                    f"the file is cut off: {header.unit} {number} ends at byte {offset + size}, the file at {end}; "
                    "copy it again"
                )
            self._file.seek(offset)
            data = self._file.read(size)
        try:
            segment = header.decoder(data, number, jpegtables=header.jpeg_tables)[0]
        except Exception as error:  # every codec has errors of its own
            raise UnreadableError(
                f"{header.unit} {number} is damaged ({one_line(error) or type(error).__name__}); copy the file again"
            ) from error
        return segment[0, :high, :wide]

    def close(self) -> None:
        super().close()
        self._file.close()


def _number(text: Any) -> float | None:
    try:
        return float(str(text).strip().strip("\0"))
    except ValueError:
        return None


def _bytes(file: Any, tag: Any) -> bytes:
    file.filehandle.seek(tag.valueoffset)
    return file.filehandle.read(tag.valuebytecount)


def _foreign(file: Any, tag: Any) -> bool:
    return int(tag.code) != DESCRIPTION or not _OWN_WORDS.match(_bytes(file, tag))


def _raw(file: Any, tag: Any) -> tuple[int, int, int, Any]:
    """A tag as a writer takes it; text and bytes as they stand."""
    kind = int(tag.dtype)
    return int(tag.code), kind, int(tag.count), _bytes(file, tag) if kind in (1, 2, 7) else tag.value


def _resolution(tags: dict[int, Any]) -> tuple[float, float, int] | None:
    if 282 not in tags or 283 not in tags:
        return None
    (a, b), (c, d) = tags[282].value, tags[283].value
    unit = int(tags[296].value) if 296 in tags else 2
    return (a / b, c / d, unit) if a and b and c and d and unit in (1, 2, 3) else None
