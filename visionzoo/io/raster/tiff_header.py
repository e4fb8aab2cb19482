"""Storage layout and colour interpretation of a TIFF page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from . import colours
from .base import Layout, Raster, RasterError, plain_dtype
from .metadata import ORIENTATION, RasterProfile
from .missing import declared
from .raw import RawPixels
from .sidecars import Sidecars
from .tiff_tags import GEOREFERENCE, NODATA, attached, profile_tags, tag_number

_COMPRESSION = {1: "none", 5: "lzw", 8: "deflate", 32946: "deflate", 32773: "packbits", 34925: "lzma", 50000: "zstd"}
_JPEG = frozenset({6, 7, 33007, 34892})
_GIVE_RGB = _JPEG | {34712, 50001, 50002}  # JPEG 2000, WebP, JPEG XL: their decoders convert YCbCr to RGB themselves
_PHOTOMETRIC, _SUBSAMPLING, _COEFFICIENTS, _BLACK_WHITE = 262, 530, 529, 532


class NotByWindowsError(RasterError):
    """This kind of TIFF cannot be read by windows; another reader may be able to decode it as a whole.

    Attributes:
        layout: for its profile, mask and no-data value; None if the header cannot be read either.
    """

    layout: Layout | None = None


class Header:
    """The fields of a page that are needed to find and decode its pixels.

    Raises:
        RasterError: the page is damaged.
        NotByWindowsError: the page is of a kind that cannot be read by windows.
    """

    def __init__(self, path: Path, page: Any) -> None:
        self.path, self.page = path, page
        self.tags = {int(tag.code): tag for tag in page.tags}
        self.height, self.width = int(page.imagelength), int(page.imagewidth)
        if self.height < 1 or self.width < 1:
            raise RasterError(f"{path}: is {self.width} x {self.height} pixels; width and height must be at least 1")
        if page.dtype is None:
            raise NotByWindowsError(
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
                f"{path}: truncated or damaged (blocks of {self.block[1]} x {self.block[0]}); copy it again"
            )
        self.grid = (-(-self.height // self.block[0]), -(-self.width // self.block[1]))
        self.offsets = np.array(page.dataoffsets, np.int64)
        self.sizes = np.array(page.databytecounts, np.int64)
        self.plane_blocks = self.grid[0] * self.grid[1]
        """Number of blocks from the start of a plane to the start of the next."""
        depth = int(page.imagedepth)
        if depth > 1:  # only the first slice of a stack is read
            self.plane_blocks *= -(-depth // max(int(page.tiledepth), 1)) if self.tiled else depth
        wanted = (self.planes - 1) * self.plane_blocks + self.grid[0] * self.grid[1]
        if len(self.offsets) < wanted or len(self.sizes) < wanted:
            raise RasterError(
                f"{path}: truncated or damaged: lists {min(len(self.offsets), len(self.sizes))} of its {wanted} "
                f"{self.unit}s; copy it again"
            )
        self.plain_rows = (
            not self.tiled
            and page.compression == 1
            and page.predictor == 1
            and page.fillorder == 1
            and page.bitspersample == 8 * self.dtype.itemsize  # a tuple if bands differ
            and not page.is_subsampled
        )
        # both may read the file, which is closed soon
        self.jpeg_tables, self.decoder = page.jpegtables, page.decode
        if page.is_subsampled and int(page.compression) not in _JPEG:
            self.decoder = self._decode_subsampled

    @property
    def unit(self) -> str:
        return "tile" if self.tiled else "strip"

    def check_codec(self) -> None:
        """Raise `NotByWindowsError` if single blocks cannot be decoded."""
        import tifffile

        page, number = self.page, int(self.page.compression)
        name = getattr(page.compression, "name", str(number))
        try:
            known = number == 1 or tifffile.TIFF.DECOMPRESSORS[number] is not None
        except (KeyError, ImportError, AttributeError):
            known = False
        if not known:
            raise NotByWindowsError(
                f"{self.path}: its compression ({name}) is unknown; try pip install -U imagecodecs, or convert the file, "
                "e.g. with gdal_translate -co COMPRESS=DEFLATE"
            )
        plain = page.predictor == 1 and page.fillorder == 1 and self.planes == 1 and self.samples == 3
        if page.is_subsampled and number not in _JPEG and not (plain and self.dtype == np.uint8):
            raise NotByWindowsError(
                f"{self.path}: holds subsampled YCbCr of a kind that cannot be read; convert it to RGB"
            )
        try:
            self.decoder(None, 0)  # raises if the codec is not supported
            if number == 6 and self.sizes[0]:  # old-style JPEG: a complete JPEG in each block, or its parts elsewhere
                page.parent.filehandle.seek(int(self.offsets[0]))
                data = page.parent.filehandle.read(int(self.sizes[0]))
                self.decoder(data, 0, jpegtables=self.jpeg_tables)
        except Exception as error:
            raise NotByWindowsError(
                f"{self.path}: is stored in a way ({name}) that cannot be read ({' '.join(str(error).split())}); "
                "convert it, e.g. with gdal_translate"
            ) from error

    def _decode_subsampled(self, data: bytes | None, number: int, jpegtables: bytes | None = None) -> tuple[Any, ...]:
        """Decode a block of subsampled YCbCr, in tifffile's form: ((1, h, w, 3) uint8,).

        The block is a sequence of units: the Y values of a few pixels, row by row, then one Cb and one Cr.
        """
        if data is None:
            return (None,)
        import tifffile

        number_of_codec = int(self.page.compression)
        if number_of_codec != 1:
            data = tifffile.TIFF.DECOMPRESSORS[number_of_codec](data)
        assert data is not None
        across, down = self._ratios(_SUBSAMPLING, (2, 2))
        across, down = int(across), int(down)
        high = self.block[0] if self.tiled else min(self.block[0], self.height - number * self.block[0])
        rows, columns = -(-high // down), -(-self.block[1] // across)
        units = np.frombuffer(data, np.uint8, rows * columns * (across * down + 2)).reshape(rows, columns, -1)
        y = (
            units[..., :-2]
            .reshape(rows, columns, down, across)
            .swapaxes(1, 2)
            .reshape(rows * down, columns * across, 1)
        )
        shared = units[..., -2:].repeat(down, 0).repeat(across, 1)
        return (np.concatenate([y, shared], axis=2)[None],)

    def layout(self, file: Any, sidecars: Sidecars, mask: Callable[[], Raster] | None) -> Layout:
        """The layout, with the conversion of its pixels. Raises `NotByWindowsError` for unknown colours."""
        page, tags = self.page, self.tags
        orientation = tag_number(tags, ORIENTATION, 1)
        # map coordinates refer to the stored corner
        turned = 1 <= orientation <= 8 and not GEOREFERENCE & tags.keys() and not sidecars.georeferenced
        icc = bytes(page.iccprofile) if page.iccprofile else None
        nodata = declared(self.path, tags[NODATA].value, "the tag GDAL_NODATA") if NODATA in tags else None
        compression = int(page.compression)
        layout = Layout(
            self.height,
            self.width,
            self.samples,
            self.dtype,
            self.block,
            bits=self.bits if self.bits < 8 * self.dtype.itemsize else None,
            nodata=sidecars.nodata if nodata is None and sidecars.nodata else nodata,
            orientation=orientation if turned else 1,
            mask=mask,
            profile=RasterProfile(
                tags=profile_tags(file, tags, turned=turned),
                icc=None if self.kind() == 5 else icc,
                **attached(self.path, file, page, tags, turned=turned),
                compression=_COMPRESSION.get(compression, getattr(page.compression, "name", str(compression)).lower()),
                tile=self.block if self.tiled else None,
                nodata=nodata if nodata is not None else sidecars.nodata[0] if len(set(sidecars.nodata)) == 1 else None,
            ),
        )
        try:
            convert, mixes, shown, photometric = self._colours(icc)
        except NotByWindowsError as error:
            error.layout = layout
            raise
        extra = [int(kind) for kind in page.extrasamples]
        alpha = next((shown - len(extra) + i for i, kind in enumerate(extra) if kind in (1, 2)), None)
        premultiplied = alpha is not None and extra[alpha - shown + len(extra)] == 1
        profile = replace(layout.profile, photometric=photometric, premultiplied=premultiplied)
        return replace(layout, alpha=alpha, profile=profile, convert=convert, mixes=mixes)

    def kind(self) -> int:
        """The photometric interpretation; if not stated, 3 colours are RGB, and 0 is black."""
        page = self.page
        if _PHOTOMETRIC in self.tags or int(page.compression) == 6:
            return int(page.photometric)
        if int(page.compression) in (2, 3, 4):  # fax
            return 0
        return 2 if self.samples - len(page.extrasamples) >= 3 and self.samples <= 4 else 1

    def _colours(self, icc: bytes | None) -> tuple[colours.Convert | None, int, int, str]:
        """(conversion of stored values, number of stored bands it mixes, bands afterwards, "rgb" or "grey")."""
        page, kind, samples = self.page, self.kind(), self.samples
        unsigned, small = self.dtype.kind == "u", self.dtype in (np.uint8, np.uint16)
        coloured = samples - len(page.extrasamples) >= 3 or (samples == 3 and len(page.extrasamples) < 3)
        if kind == 3 and page.colormap is not None and unsigned:
            table = np.asarray(page.colormap).T
            return (
                colours.palette((table >> 8 if table.max() > 255 else table).astype(np.uint8)),
                1,
                samples + 2,
                "rgb",
            )
        if kind == 6 and samples >= 3 and int(page.compression) not in _GIVE_RGB and self.dtype == np.uint8:
            weights = self._ratios(_COEFFICIENTS, (0.299, 0.587, 0.114))
            black_white = self._ratios(_BLACK_WHITE, (0, 255, 128, 255, 128, 255))
            if len(weights) == 3 and len(black_white) == 6 and min(weights) > 0:
                return colours.ycbcr((weights[0], weights[1], weights[2]), black_white), 3, samples, "rgb"
        if (kind in (2, 34892) and coloured) or (kind == 6 and samples >= 3 and int(page.compression) in _GIVE_RGB):
            return colours.spread(self.bits, self.dtype, inverted=False), 0, samples, "rgb"
        if kind == 5 and samples >= 4 and self.dtype.kind in "uf" and tag_number(self.tags, 332, 1) == 1:
            return colours.cmyk(icc), 4, samples - 1, "rgb"
        if kind in (8, 9, 10) and samples >= 3 and small:
            return colours.lab(signed=kind == 8), 3, samples, "rgb"
        # read as grey: WhiteIsZero, BlackIsZero, masks, palettes without colours, single bands, Bayer patterns, inks, depth, …
        if kind in (0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 32803, 34892, 51177, 52527):
            return colours.spread(self.bits, self.dtype, inverted=kind == 0), 0, samples, "grey"
        name = getattr(page.photometric, "name", str(kind))
        raise NotByWindowsError(
            f"{self.path}: its colours ({name}, {samples} samples) cannot be read; convert it to RGB"
        )

    def _ratios(self, code: int, default: tuple[float, ...]) -> tuple[float, ...]:
        if code not in self.tags:
            return default
        try:
            flat = np.array(self.tags[code].value, float).ravel()
            return tuple((flat[0::2] / flat[1::2]).tolist()) if len(flat) == 2 * len(default) else tuple(flat.tolist())
        except (TypeError, ValueError):
            return default

    def rows(self, layout: Layout) -> RawPixels:
        """The pixels of a file of uncompressed strips."""
        row_bytes = self.width * self.samples // self.planes * self.dtype.itemsize
        high = self.block[0]

        def plane(first: int) -> Callable[[int], int | None]:
            def offset(row: int) -> int | None:
                strip = first + row // high
                return int(self.offsets[strip]) + row % high * row_bytes if self.sizes[strip] else None

            return offset

        return RawPixels(
            self.path,
            width=self.width,
            bands=self.samples,
            dtype=self.dtype.newbyteorder(self.page.parent.byteorder),
            planes=[plane(i * self.plane_blocks) for i in range(self.planes)],
            fill=layout.held_nodata[0] or 0,
        )
