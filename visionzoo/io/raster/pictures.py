"""JPEG, PNG, WebP and the other formats without random access: decoded in memory when small, else unpacked on disk."""

from __future__ import annotations

import re
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..pillow import ImageError, opened
from . import colours
from .base import Layout, Raster, RasterError, RasterProfile, Window, one_line
from .raw import RawRaster
from .unpack import DTYPES, Unpacked, open_sequential

SMALL_PIXELS = 64_000_000
"""Pictures up to this size are decoded in memory."""

_ORIENTATION = 0x0112
_ORIENTATION_IN_XMP = re.compile(rb'\s*(tiff:Orientation="[0-9]+"|<tiff:Orientation>[0-9]+</tiff:Orientation>)')


def open_picture(path: Path, scratch: Path | None) -> Raster:
    """A file of any format that Pillow knows.

    Raises:
        RasterError: not a picture, damaged, or too large to unpack.
    """
    try:
        image = opened(path, str(path))
    except ImageError as error:
        raise RasterError(str(error)) from error
    with image:
        if image.width * image.height > SMALL_PIXELS or _deep_colour_png(path):
            return _unpack(path, scratch)
        return _decode(path, image)


def _deep_colour_png(path: Path) -> bool:
    """16-bit PNG of several bands: Pillow would give 8 bits."""
    with path.open("rb") as file:
        start = file.read(26)
    return start[:8] == b"\x89PNG\r\n\x1a\n" and start[24:25] == b"\x10" and start[25:26] != b"\0"


class _Decoded(Raster):
    """A picture in memory."""

    def __init__(self, path: Path, layout: Layout, pixels: NDArray[Any]) -> None:
        super().__init__(path, layout)
        self._pixels = pixels

    def _read(self, window: Window) -> NDArray[Any]:
        return self._pixels[window.top : window.top + window.height, window.left : window.left + window.width].copy()

    def close(self) -> None:
        self._pixels = np.empty((0, 0, self.bands), self.dtype)


def _decode(path: Path, image: Image.Image) -> Raster:
    try:
        image.load()
        turned = image.getexif().get(_ORIENTATION, 1)
        info, compression = image.info, (image.format or "").lower()
        pixels, alpha = _pixels(image)
        orientation = turned if turned in range(1, 9) else 1
        height, width = pixels.shape[:2]
        profile = RasterProfile(
            icc=info.get("icc_profile") if image.mode != "CMYK" else None,
            xmp=_upright_xmp(info.get("xmp") or info.get("XML:com.adobe.xmp")),
            exif=_upright_exif(image.getexif()),
            resolution=_dots(info.get("dpi")),
            compression=compression,
            photometric="rgb" if pixels.shape[2] >= 3 else "grey",
        )
    except ImageError as error:
        raise RasterError(f"{path}: {error}") from error
    except MemoryError:
        raise RasterError(f"{path}: {image.width} x {image.height} pixels do not fit into memory") from None
    except Exception as error:  # every decoder has errors of its own
        why = one_line(error) or type(error).__name__
        raise RasterError(f"{path}: damaged or truncated image ({why}); copy it again") from error
    layout = Layout(
        height,
        width,
        pixels.shape[2],
        pixels.dtype,
        (height, width),
        alpha=alpha,
        profile=profile,
        orientation=orientation,
    )
    return _Decoded(path, layout, pixels)


def _pixels(image: Image.Image) -> tuple[NDArray[Any], int | None]:
    """(H, W, bands) as stored, and the index of the alpha band."""
    mode, icc = image.mode, image.info.get("icc_profile")
    if mode == "CMYK":
        return colours.cmyk(icc)(np.asarray(image)), None
    if mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None], None
    if mode in ("I", "F"):
        pixels = np.array(image)[..., None]
        if mode == "I" and image.format == "PNG":  # older Pillows widen 16 bits
            pixels = pixels.astype(np.uint16)
        return pixels, None
    transparent = "transparency" in image.info
    if mode in ("1", "L", "LA", "La"):
        target = "LA" if transparent or (mode != "1" and mode != "L") else "L"
    else:
        target = "RGBA" if transparent or mode in ("RGBA", "RGBa", "PA") else "RGB"
    pixels = np.array(image if mode == target else image.convert(target))
    return pixels.reshape(*pixels.shape[:2], -1), {"LA": 1, "RGBA": 3}.get(target)


def _unpack(path: Path, scratch: Path | None) -> Raster:
    image = open_sequential(path)
    fields = set(image.get_fields())
    cmyk = image.interpretation == "cmyk"
    if not cmyk and image.interpretation not in ("srgb", "rgb", "rgb16", "b-w", "grey16", "multiband", "scrgb"):
        image = image.colourspace("srgb")
    icc = image.get("icc-profile-data") if "icc-profile-data" in fields else None
    orientation = image.get("orientation") if "orientation" in fields else 1
    exif = _exif(image.get("exif-data") if "exif-data" in fields else b"")
    known = image.get("resolution-unit") if "resolution-unit" in fields else None
    bands = image.bands - 1 if cmyk else image.bands
    profile = RasterProfile(
        icc=None if cmyk else icc,
        xmp=_upright_xmp(image.get("xmp-data") if "xmp-data" in fields else None),
        exif=_upright_exif(exif),
        resolution=(image.xres * 25.4, image.yres * 25.4, 2) if known and image.xres > 0 and image.yres > 0 else None,
        compression=path.suffix.lower().lstrip("."),
        photometric="rgb" if bands >= 3 else "grey",
    )
    pixels = Unpacked(path, image, scratch)
    dtype = np.dtype(DTYPES[image.format])
    layout = Layout(
        image.height,
        image.width,
        image.bands,
        dtype,
        (1, image.width),
        alpha=bands - 1 if image.hasalpha() else None,
        profile=profile,
        orientation=orientation if orientation in range(1, 9) else 1,
        convert=colours.cmyk(icc) if cmyk else None,
    )
    return RawRaster(path, layout, pixels)


def _exif(data: bytes) -> Image.Exif:
    exif = Image.Exif()
    try:
        exif.load(data)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error) as error:
        warnings.warn(f"EXIF data are damaged and not kept ({one_line(error)})", stacklevel=2)
        return Image.Exif()
    return exif


def _upright_exif(exif: Image.Exif) -> bytes | None:
    exif.pop(_ORIENTATION, None)
    if not exif:
        return None
    try:
        return exif.tobytes()
    except (ValueError, TypeError, KeyError, OSError, struct.error) as error:
        warnings.warn(f"EXIF data are damaged and not kept ({one_line(error)})", stacklevel=2)
        return None


def _upright_xmp(xmp: Any) -> bytes | None:
    if not xmp:
        return None
    return _ORIENTATION_IN_XMP.sub(b"", xmp.encode() if isinstance(xmp, str) else bytes(xmp))


def _dots(dpi: Any) -> tuple[float, float, int] | None:
    try:
        across, down = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down, 2) if across > 0 and down > 0 else None
