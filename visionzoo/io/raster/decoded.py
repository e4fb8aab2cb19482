"""JPEG, PNG, WebP and other formats without random access: decoded in memory when small, else unpacked on disk."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..pillow import ImageError, opened
from . import colours
from .base import Layout, Raster, RasterError, Window, one_line
from .metadata import ORIENTATION, RasterProfile, exif_bytes, iptc_of_photoshop, read_exif, upright_xmp
from .raw import RawRaster
from .sidecars import NONE, Sidecars
from .tiff import open_mask
from .unpack import DTYPES, Unpacked, open_sequential

SMALL_PIXELS = 64_000_000
"""Images of up to this many pixels are decoded in memory."""


def open_decoded(path: Path, scratch: Path | None, sidecars: Sidecars = NONE, tiff: Layout | None = None) -> Raster:
    """Open a file of any format that Pillow reads.

    Args:
        sidecars: sidecar files of the image.
        tiff: layout of a TIFF that cannot be read by windows, for its profile, mask and no-data value.

    Raises:
        RasterError: not an image, damaged, or too large to unpack.
    """
    try:
        image = opened(path, str(path))
    except ImageError as error:
        raise RasterError(str(error)) from error
    with image:
        if image.width * image.height > SMALL_PIXELS or _deep_colour_png(path):
            return _unpack(path, scratch, sidecars, tiff)
        return _decode(path, image, sidecars, tiff)


def _deep_colour_png(path: Path) -> bool:
    """Whether this is a 16-bit PNG of several bands, which Pillow reduces to 8 bits."""
    with path.open("rb") as file:
        start = file.read(26)
    return start[:8] == b"\x89PNG\r\n\x1a\n" and start[24:25] == b"\x10" and start[25:26] != b"\0"


class _Decoded(Raster):
    """An image in memory."""

    def __init__(self, path: Path, layout: Layout, pixels: NDArray[Any]) -> None:
        super().__init__(path, layout)
        self._pixels = pixels

    def _read(self, window: Window) -> NDArray[Any]:
        return self._pixels[window.top : window.top + window.height, window.left : window.left + window.width].copy()

    def close(self) -> None:
        super().close()
        self._pixels = np.empty((0, 0, self.bands), self.dtype)


def _decode(path: Path, image: Image.Image, sidecars: Sidecars, tiff: Layout | None) -> Raster:
    try:
        exif = image.getexif()
        stated = exif.get(ORIENTATION, 1)
        image.load()
        info = image.info
        if tiff is not None:
            stated = 1  # libtiff rotates it
            pixels, alpha, convert = *_pixels(image), None
        elif sidecars.nodata and image.mode in ("P", "1"):  # the declaration refers to stored values
            pixels, alpha, convert = np.array(image).astype(np.uint8)[..., None], None, _look_up(image)
        else:
            pixels, alpha, convert = *_pixels(image), None
        turned, orientation = _orientation(stated, sidecars)
        height, width = pixels.shape[:2]
        bands = pixels.shape[2] if convert is None else 3 if image.mode == "P" else 1
        shown = (height, width) if orientation >= 5 else (width, height)
        photoshop = info.get("photoshop")
        profile = RasterProfile(
            icc=info.get("icc_profile") if image.mode != "CMYK" else None,
            xmp=upright_xmp(info.get("xmp") or info.get("XML:com.adobe.xmp"), turned=turned),
            exif=None if tiff is not None else exif_bytes(path, exif, turned=turned, size=shown),
            iptc=photoshop.get(0x0404) if isinstance(photoshop, dict) else None,
            texts=_texts(image),
            resolution=_dots(info.get("dpi")),
            compression=(image.format or "").lower(),
            photometric="rgb" if bands >= 3 else "grey",
        )
    except ImageError as error:
        raise RasterError(f"{path}: {error}") from error
    except MemoryError:
        raise RasterError(f"{path}: {image.width} x {image.height} pixels do not fit in memory") from None
    except Exception as error:  # every decoder raises its own errors
        why = one_line(error) or type(error).__name__
        raise RasterError(f"{path}: damaged or truncated image ({why}); copy it again") from error
    layout = Layout(
        height,
        width,
        pixels.shape[2],
        pixels.dtype,
        (height, width),
        bits=1 if image.mode == "1" and convert is not None else None,
        alpha=alpha,
        profile=profile,
        orientation=orientation,
        convert=convert,
        mixes=1 if convert is not None and image.mode == "P" else 0,
    )
    return _Decoded(path, _with_sidecars(layout, sidecars, tiff), pixels)


def _with_sidecars(layout: Layout, sidecars: Sidecars, tiff: Layout | None) -> Layout:
    """The layout with no-data value and mask, and for a TIFF with those of its header."""
    if tiff is not None:
        profile = replace(tiff.profile, icc=layout.profile.icc, photometric=layout.profile.photometric)
        return replace(layout, profile=profile, mask=tiff.mask, nodata=tiff.nodata)
    mask = partial(open_mask, sidecars.mask, layout.height, layout.width) if sidecars.mask is not None else None
    nodata = sidecars.nodata[0] if len(set(sidecars.nodata)) == 1 else None
    return replace(layout, nodata=sidecars.nodata or None, mask=mask, profile=replace(layout.profile, nodata=nodata))


def _orientation(stated: object, sidecars: Sidecars) -> tuple[bool, int]:
    """Whether to rotate the pixels, and the orientation; never if coordinates refer to the stored corner."""
    orientation = stated if isinstance(stated, int) and stated in range(1, 9) else 1
    return (False, 1) if sidecars.georeferenced else (True, orientation)


def _look_up(image: Image.Image) -> colours.Convert:
    """The conversion of palette indices, or bits, to colours."""
    if image.mode == "1":
        return lambda pixels: pixels * np.uint8(255)
    return colours.palette(np.array(image.getpalette("RGB") or [0, 0, 0], np.uint8).reshape(-1, 3))


def _texts(image: Image.Image) -> tuple[tuple[str, str], ...]:
    """The comments of a PNG, JPEG or GIF, without those that hold other metadata."""
    found = [(name, str(text)) for name, text in getattr(image, "text", {}).items()]
    comment = image.info.get("comment")
    if isinstance(comment, (bytes, str)) and comment:
        found.append(("Comment", comment.decode("utf-8", "replace") if isinstance(comment, bytes) else comment))
    kept = [(name, text.replace("\0", "")) for name, text in found if not name.startswith(("XML:", "Raw profile type"))]
    return tuple((name, text) for name, text in kept if text.strip())


def _pixels(image: Image.Image) -> tuple[NDArray[Any], int | None]:
    """(H, W, bands) as stored, and the index of the alpha band."""
    mode, icc = image.mode, image.info.get("icc_profile")
    if mode == "CMYK":
        return colours.cmyk(icc)(np.asarray(image)), None
    if mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None], None
    if mode in ("I", "F"):
        pixels = np.array(image)[..., None]
        if mode == "I" and image.format == "PNG":  # older versions of Pillow widen 16 bits
            pixels = pixels.astype(np.uint16)
        return pixels, None
    transparent = "transparency" in image.info
    if mode in ("1", "L", "LA", "La"):
        target = "LA" if transparent or (mode != "1" and mode != "L") else "L"
    else:
        target = "RGBA" if transparent or mode in ("RGBA", "RGBa", "PA") else "RGB"
    pixels = np.array(image if mode == target else image.convert(target))
    return pixels.reshape(*pixels.shape[:2], -1), {"LA": 1, "RGBA": 3}.get(target)


def _unpack(path: Path, scratch: Path | None, sidecars: Sidecars, tiff: Layout | None) -> Raster:
    image = open_sequential(path)
    fields = set(image.get_fields())
    cmyk = image.interpretation == "cmyk"
    if not cmyk and image.interpretation not in ("srgb", "rgb", "rgb16", "b-w", "grey16", "multiband", "scrgb"):
        image = image.colourspace("srgb")
    icc = image.get("icc-profile-data") if "icc-profile-data" in fields else None
    turned, orientation = _orientation(image.get("orientation") if "orientation" in fields else 1, sidecars)
    exif = read_exif(path, image.get("exif-data") if "exif-data" in fields else b"")
    iptc = image.get("iptc-data") if "iptc-data" in fields else None
    known = image.get("resolution-unit") if "resolution-unit" in fields else None
    bands = image.bands - 1 if cmyk else image.bands
    shown = (image.height, image.width) if orientation >= 5 else (image.width, image.height)
    profile = RasterProfile(
        icc=None if cmyk else icc,
        xmp=upright_xmp(image.get("xmp-data") if "xmp-data" in fields else None, turned=turned),
        exif=exif_bytes(path, exif, turned=turned, size=shown),
        iptc=iptc_of_photoshop(iptc) if iptc else None,
        texts=_comments(image, fields),
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
        orientation=orientation,
        convert=colours.cmyk(icc) if cmyk else None,
        mixes=4 if cmyk else 0,
    )
    return RawRaster(path, _with_sidecars(layout, sidecars, tiff), pixels)


def _comments(image: Any, fields: set[str]) -> tuple[tuple[str, str], ...]:
    """The comments of a PNG, which libvips names png-comment-NUMBER-NAME."""
    return tuple(
        (name.split("-", 3)[3], str(image.get(name)))
        for name in sorted(fields)
        if re.match(r"png-comment-[0-9]+-(?!XML:|Raw profile type)", name)
    )


def _dots(dpi: Any) -> tuple[float, float, int] | None:
    try:
        across, down = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down, 2) if across > 0 and down > 0 else None
