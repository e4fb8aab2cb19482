"""Write staged pixels as a tiled TIFF, with tags, EXIF and mask."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import require
from .base import Window
from .encode import StagedImage, colour_bands
from .metadata import RasterProfile
from .tiff_tags import DESCRIPTION, GDAL_METADATA, IPTC, NODATA, XMP, append_exif, exif_description, exif_words

_LOSSLESS = {
    "none": None,
    "lzw": "lzw",
    "deflate": "adobe_deflate",
    "zstd": "zstd",
    "lzma": "lzma",
    "packbits": "packbits",
}
_PREDICTED = ("lzw", "adobe_deflate", "zstd", "lzma")
_CLASSIC_LIMIT = 2**32 - 2**26
"""Bytes of pixels above which BigTIFF is used, as the file may exceed 4 GB (compression can enlarge noise)."""
_IN_FLIGHT = 32 << 20
"""Bytes of tiles to compress at a time."""
_MASK_SIDE = 256
_STATISTICS = re.compile(rb'\s*<Item name="STATISTICS_[^>]*>[^<]*</Item>')
"""Statistics (minimum, mean, …) of the source's pixels, which do not hold for the result."""


Mask = Callable[[Window], NDArray[np.bool_]]
"""Window -> (h, w) bool: True where there is data."""


def write_tiff(path: Path, staged: StagedImage, mask: Mask | None) -> None:
    """Write tiles of 256 x 256 or 512 x 512 pixels, compressed like the source if that is lossless, else with deflate. The mask is
    a separate page."""
    tifffile = require("tifffile", extra="raster", purpose="writing .tif")
    profile, dtype = staged.profile, staged.pixels.dtype
    side = profile.tile[0] if profile.tile in ((256, 256), (512, 512)) else 256
    compression = _LOSSLESS.get(profile.compression or "", "adobe_deflate")
    predictor = (
        3 if dtype.kind == "f" else 2 if dtype.itemsize < 8 else None
    )  # few programs support predictors for 64-bit integers
    colours = colour_bands(staged.bands, staged.alpha, profile)
    extra = [0] * (staged.bands - colours)
    if staged.alpha is not None:
        extra[staged.alpha - colours] = 1 if profile.premultiplied else 2
    across, down = -(-staged.width // side), -(-staged.height // side)
    with tifffile.TiffWriter(
        path, bigtiff=across * down * side * side * staged.bands * dtype.itemsize > _CLASSIC_LIMIT
    ) as file:
        file.write(
            _tiles(staged, side),
            shape=(staged.height, staged.width, staged.bands)[: 2 if staged.bands == 1 else 3],
            dtype=dtype,
            photometric="rgb" if colours == 3 else "minisblack",
            planarconfig="contig" if staged.bands > 1 else None,
            extrasamples=extra or None,
            tile=(side, side),
            compression=compression,
            predictor=predictor if compression in _PREDICTED else None,
            iccprofile=staged.icc,
            resolution=profile.resolution[:2] if profile.resolution else None,
            resolutionunit=profile.resolution[2] if profile.resolution else None,
            description=_description(profile),
            metadata=None,
            software=False,
            extratags=_tags(staged),
            buffersize=_IN_FLIGHT,
        )
        if mask is not None:
            _write_mask_page(file, staged.height, staged.width, mask, within=True)
    append_exif(path, profile.exif)


def write_mask(path: Path, height: int, width: int, mask: Mask) -> None:
    """Write a mask file OUTPUT.msk in GDAL's format."""
    tifffile = require("tifffile", extra="raster", purpose="writing a mask")
    with tifffile.TiffWriter(path, bigtiff=height * width > _CLASSIC_LIMIT) as file:
        _write_mask_page(file, height, width, mask, within=False)


def _write_mask_page(file: Any, height: int, width: int, mask: Mask, *, within: bool) -> None:
    """Write one bit per pixel, 1 where there is data. A page of another image is marked as its mask by a tag, a separate file by
    GDAL's metadata."""

    def tiles() -> Iterator[NDArray[np.bool_]]:
        for window in _windows(height, width, _MASK_SIDE):
            yield np.pad(mask(window), ((0, _MASK_SIDE - window.height), (0, _MASK_SIDE - window.width)))

    flags = b'<GDALMetadata><Item name="INTERNAL_MASK_FLAGS_1">2</Item></GDALMetadata>\0'
    file.write(
        tiles(),
        shape=(height, width),
        dtype=bool,
        photometric="mask" if within else "minisblack",
        subfiletype=4 if within else 0,
        tile=(_MASK_SIDE, _MASK_SIDE),
        compression="adobe_deflate",
        metadata=None,
        software=False,
        extratags=[] if within else [(GDAL_METADATA, 2, len(flags), flags, True)],
        buffersize=_IN_FLIGHT,
    )


def _windows(height: int, width: int, side: int) -> Iterator[Window]:
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield Window(top, left, min(side, height - top), min(side, width - left))


def _tiles(staged: StagedImage, side: int) -> Iterator[NDArray[Any]]:
    for window in _windows(staged.height, staged.width, side):
        tile = staged.pixels.read(window)
        if tile.shape[:2] != (side, side):
            tile = np.pad(tile, ((0, side - window.height), (0, side - window.width), (0, 0)), mode="edge")
        yield tile[..., 0] if staged.bands == 1 else tile


def _tags(staged: StagedImage) -> list[tuple[int, int, int, Any, bool]]:
    tags = []
    for code, kind, count, value in staged.profile.tags:
        if code == GDAL_METADATA and isinstance(value, bytes):
            value = _STATISTICS.sub(b"", value)
            count = len(value)
        if code not in (DESCRIPTION, NODATA):
            tags.append((code, kind, count, value, True))
    if staged.nodata is not None:
        whole = float(staged.nodata).is_integer() and abs(staged.nodata) < 2**63
        text = f"{int(staged.nodata)}" if whole else f"{staged.nodata:.17g}"
        tags.append((NODATA, 2, 0, text, True))
    if staged.profile.xmp:
        tags.append((XMP, 1, len(staged.profile.xmp), staged.profile.xmp, True))
    if staged.profile.iptc:
        tags.append((IPTC, 7, len(staged.profile.iptc), staged.profile.iptc, True))
    known = {code for code, *_ in staged.profile.tags} | {DESCRIPTION}
    return tags + exif_words(staged.path, staged.profile.exif, known)


def _description(profile: RasterProfile) -> bytes | str | None:
    """The description from the source's tags, else from its EXIF data, followed by its comments."""
    own = next((value for code, _, _, value in profile.tags if code == DESCRIPTION), None)
    if own is None:
        own = (exif_description(profile.exif) or "").encode()
    if not profile.texts:
        return own or None
    remarks = "\n".join(f"{name}: {text}" for name, text in profile.texts).encode()
    return b"\n".join(part for part in (bytes(own).rstrip(b"\0"), remarks) if part)
