"""Staged pixels to the formats of pictures: TIFF by tiles; JPEG, PNG and WebP by Pillow when small, by pyvips when large."""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ...errors import require
from .base import RasterError, Window
from .metadata import RasterProfile
from .raw import RawPixels
from .tiff_tags import DESCRIPTION, GDAL_METADATA, NODATA, XMP
from .unpack import DTYPES, vips, vips_words

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
"""From this many bytes of pixels on a TIFF may exceed 4 GB (compression can make noise larger): BigTIFF then."""
_IN_FLIGHT = 32 << 20
"""Bytes of tiles that are compressed at a time."""
_STATISTICS = re.compile(rb'\s*<Item name="STATISTICS_[^>]*>[^<]*</Item>')
"""Minimum, mean, … of the source's pixels: not of these."""


@dataclass(frozen=True)
class Picture:
    """What is to be encoded.

    Attributes:
        path: what it becomes (the encoders write to a temporary name).
        raw: the file of `pixels`.
        nodata, alpha: as `RasterWriter` has them.
    """

    path: Path
    raw: Path
    pixels: RawPixels
    height: int
    profile: RasterProfile
    nodata: float | None
    alpha: int | None

    @property
    def width(self) -> int:
        return self.pixels.width

    @property
    def bands(self) -> int:
        return self.pixels.bands

    @property
    def icc(self) -> bytes | None:
        """The ICC profile, if it is one for as many colours as the picture has."""
        icc = self.profile.icc
        space = b"RGB " if colour_bands(self.bands, self.alpha, self.profile) == 3 else b"GRAY"
        return icc if icc is not None and icc[16:20] == space else None


def colour_bands(bands: int, alpha: int | None, profile: RasterProfile) -> int:
    """How many bands are colours: 3 (red, green, blue) or 1. The source says, or else 3 and 4 bands are RGB and RGBX."""
    if bands < 3 or (alpha is not None and alpha < 3):
        return 1
    return 3 if profile.photometric == "rgb" or (profile.photometric is None and bands <= 4) else 1


def write_tiff(path: Path, picture: Picture) -> None:
    """Tiles of 256 x 256 or 512 x 512 pixels, compressed as the source is if that is lossless, else deflate."""
    tifffile = require("tifffile", extra="raster", purpose="writing .tif")
    profile, dtype = picture.profile, picture.pixels.dtype
    side = profile.tile[0] if profile.tile in ((256, 256), (512, 512)) else 256
    compression = _LOSSLESS.get(profile.compression or "", "adobe_deflate")
    predictor = 3 if dtype.kind == "f" else 2 if dtype.itemsize < 8 else None  # few programs predict 64-bit integers
    colours = colour_bands(picture.bands, picture.alpha, profile)
    extra = [0] * (picture.bands - colours)
    if picture.alpha is not None:
        extra[picture.alpha - colours] = 1 if profile.premultiplied else 2
    across, down = -(-picture.width // side), -(-picture.height // side)
    with tifffile.TiffWriter(
        path, bigtiff=across * down * side * side * picture.bands * dtype.itemsize > _CLASSIC_LIMIT
    ) as file:
        file.write(
            _tiles(picture, side),
            shape=(picture.height, picture.width, picture.bands)[: 2 if picture.bands == 1 else 3],
            dtype=dtype,
            photometric="rgb" if colours == 3 else "minisblack",
            planarconfig="contig" if picture.bands > 1 else None,
            extrasamples=extra or None,
            tile=(side, side),
            compression=compression,
            predictor=predictor if compression in _PREDICTED else None,
            iccprofile=picture.icc,
            resolution=profile.resolution[:2] if profile.resolution else None,
            resolutionunit=profile.resolution[2] if profile.resolution else None,
            description=next((value for code, _, _, value in profile.tags if code == DESCRIPTION), None),
            metadata=None,
            software=False,
            extratags=_tags(picture),
            buffersize=_IN_FLIGHT,
        )


def _tiles(picture: Picture, side: int) -> Iterator[NDArray[Any]]:
    for top in range(0, picture.height, side):
        for left in range(0, picture.width, side):
            window = Window(top, left, min(side, picture.height - top), min(side, picture.width - left))
            tile = picture.pixels.read(window)
            if tile.shape[:2] != (side, side):
                tile = np.pad(tile, ((0, side - window.height), (0, side - window.width), (0, 0)), mode="edge")
            yield tile[..., 0] if picture.bands == 1 else tile


def _tags(picture: Picture) -> list[tuple[int, int, int, Any, bool]]:
    tags = []
    for code, kind, count, value in picture.profile.tags:
        if code == GDAL_METADATA and isinstance(value, bytes):
            value = _STATISTICS.sub(b"", value)
            count = len(value)
        if code not in (DESCRIPTION, NODATA):
            tags.append((code, kind, count, value, True))
    if picture.nodata is not None:
        whole = float(picture.nodata).is_integer() and abs(picture.nodata) < 2**63
        text = f"{int(picture.nodata)}" if whole else f"{picture.nodata:.17g}"
        tags.append((NODATA, 2, 0, text, True))
    if picture.profile.xmp:
        tags.append((XMP, 1, len(picture.profile.xmp), picture.profile.xmp, True))
    return tags


def write_small(path: Path, picture: Picture, form: str) -> None:
    """PNG, JPEG or WebP by Pillow, from memory."""
    pixels = picture.pixels.read(Window(0, 0, picture.height, picture.width))
    image = Image.fromarray(pixels[..., 0] if picture.bands == 1 else pixels)
    exif, xmp = _attached(picture.path, picture.profile, form)
    options: dict[str, Any] = {"icc_profile": picture.icc, "exif": exif}
    if form == "png":
        options["pnginfo"] = about = PngInfo()
        if xmp:
            about.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    elif xmp:
        options["xmp"] = xmp
    dots = _dots_per_inch(picture.profile)
    if dots and form != "webp":
        options["dpi"] = dots
    if form == "jpeg":
        options |= {"quality": 95, "subsampling": 0}
    elif form == "webp":
        options |= {"quality": 95, "method": 4}
    image.save(path, form.upper(), **{key: value for key, value in options.items() if value is not None})


def write_large(path: Path, picture: Picture, form: str) -> None:
    """PNG, JPEG or WebP by pyvips, by rows from the staged file, which it maps (pages that the system may take back)."""
    pyvips = vips(f"writing a large {form}")
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    dtype, profile = picture.pixels.dtype, picture.profile
    deep, rgb = dtype == np.uint16, picture.bands >= 3
    try:
        image = pyvips.Image.rawload(
            str(picture.raw), picture.width, picture.height, picture.bands, format=names[dtype], access="sequential"
        )
        image = image.copy(interpretation=("rgb16" if deep else "srgb") if rgb else ("grey16" if deep else "b-w"))
        dots = _dots_per_inch(profile)
        if dots:
            image = image.copy(xres=dots[0] / 25.4, yres=dots[1] / 25.4)
        exif, xmp = _attached(picture.path, profile, form)
        for name, value in (("icc-profile-data", picture.icc), ("exif-data", exif), ("xmp-data", xmp)):
            if value:
                image.set_type(pyvips.GValue.blob_type, name, value)
        if form == "png":
            image.pngsave(str(path), compression=6, bitdepth=16 if deep else 8)
        elif form == "jpeg":
            image.jpegsave(str(path), Q=95, subsample_mode="off")
        else:
            image.webpsave(str(path), Q=95)
    except pyvips.Error as error:
        if "no space" in str(error).lower():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise RasterError(f"{picture.path}: cannot be written ({vips_words(error)}); choose .tif") from error


def _attached(path: Path, profile: RasterProfile, form: str) -> tuple[bytes | None, bytes | None]:
    """EXIF and XMP, where the format has room for them."""
    exif, xmp = profile.exif, profile.xmp
    if form == "jpeg":
        for name, value in (("EXIF", exif), ("XMP", xmp)):
            if value and len(value) > 65000:
                warnings.warn(
                    f"{path}: the {name} data ({len(value)} bytes) do not fit into .jpg and are left out", stacklevel=2
                )
        exif, xmp = (value if value and len(value) <= 65000 else None for value in (exif, xmp))
    return exif, xmp


def _dots_per_inch(profile: RasterProfile) -> tuple[float, float] | None:
    if not profile.resolution or profile.resolution[2] == 1:
        return None
    factor = 2.54 if profile.resolution[2] == 3 else 1.0
    return profile.resolution[0] * factor, profile.resolution[1] * factor
