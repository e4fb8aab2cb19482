"""Encode staged pixels as JPEG, PNG and WebP: with Pillow when small, with pyvips when large."""

from __future__ import annotations

import errno
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .base import RasterError, Window
from .metadata import HOST_COMPUTER, RasterProfile, photoshop_of_iptc, read_exif
from .raw import HeldPixels, RawPixels
from .unpack import DTYPES, vips, vips_message


@dataclass(frozen=True)
class StagedImage:
    """An image to encode.

    Attributes:
        path: the final output (the encoders write to a temporary name).
        raw: the file of `pixels`; None if they are in memory.
        nodata, alpha: see `RasterWriter`.
    """

    path: Path
    raw: Path | None
    pixels: RawPixels | HeldPixels
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
        """The ICC profile, if it matches the number of colours of the image."""
        icc = self.profile.icc
        space = b"RGB " if colour_bands(self.bands, self.alpha, self.profile) == 3 else b"GRAY"
        return icc if icc is not None and icc[16:20] == space else None


def colour_bands(bands: int, alpha: int | None, profile: RasterProfile) -> int:
    """Number of colour bands: 3 (RGB) or 1. If the source does not state it, 3 and 4 bands are RGB and RGBX."""
    if bands < 3 or (alpha is not None and alpha < 3):
        return 1
    return 3 if profile.photometric == "rgb" or (profile.photometric is None and bands <= 4) else 1


def write_small(path: Path, staged: StagedImage, form: str) -> None:
    """Write PNG, JPEG or WebP with Pillow, from memory."""
    pixels = staged.pixels.read(Window(0, 0, staged.height, staged.width))
    image = Image.fromarray(pixels[..., 0] if staged.bands == 1 else pixels)
    exif, xmp = _attached(staged.path, staged.profile, form)
    options: dict[str, Any] = {"icc_profile": staged.icc, "exif": exif}
    if form == "png":
        options["pnginfo"] = about = PngInfo()
        if xmp:
            about.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        for name, text in staged.profile.texts:
            about.add_itxt(name, text)
    elif xmp:
        options["xmp"] = xmp
    dots = _dots_per_inch(staged.profile)
    if dots and form != "webp":
        options["dpi"] = dots
    if form == "jpeg":
        options |= {"quality": 95, "subsampling": 0, "comment": _comment(staged.profile)}
        content = _iptc(staged.path, staged.profile)
        if content:
            options["extra"] = b"\xff\xed" + (len(content) + 2).to_bytes(2, "big") + content
    elif form == "webp":
        options |= {"quality": 95, "method": 4}
    image.save(path, form.upper(), **{key: value for key, value in options.items() if value is not None})


def write_large(path: Path, staged: StagedImage, form: str) -> None:
    """Write PNG, JPEG or WebP with pyvips, from memory or row by row from the memory-mapped staged file."""
    pyvips = vips(f"writing a large {form}")
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    dtype, profile = staged.pixels.dtype, staged.profile
    deep, rgb = dtype == np.uint16, staged.bands >= 3
    try:
        about = (staged.width, staged.height, staged.bands)
        if isinstance(staged.pixels, HeldPixels):
            image = pyvips.Image.new_from_memory(staged.pixels.array.data, *about, names[dtype])
        else:
            image = pyvips.Image.rawload(str(staged.raw), *about, format=names[dtype], access="sequential")
        image = image.copy(interpretation=("rgb16" if deep else "srgb") if rgb else ("grey16" if deep else "b-w"))
        dots = _dots_per_inch(profile)
        if dots:
            image = image.copy(xres=dots[0] / 25.4, yres=dots[1] / 25.4)
        exif, xmp = _attached(staged.path, profile, form)
        if exif and read_exif(staged.path, exif).get(HOST_COMPUTER):  # libvips cannot write this tag
            warnings.warn(
                f"{staged.path}: the host computer in the EXIF data cannot be written into a large {form}",
                stacklevel=2,
            )
        iptc = _iptc(staged.path, profile) if form == "jpeg" else None
        blobs = {"icc-profile-data": staged.icc, "exif-data": exif, "xmp-data": xmp, "iptc-data": iptc}
        for name, value in blobs.items():
            if value:
                image.set_type(pyvips.GValue.blob_type, name, value)
        for number, (name, text) in enumerate(profile.texts if form == "png" else ()):
            image.set_type(pyvips.GValue.gstr_type, f"png-comment-{number}-{name}", text)
        if form == "png":
            image.pngsave(str(path), compression=6, bitdepth=16 if deep else 8)
        elif form == "jpeg":
            image.jpegsave(str(path), Q=95, subsample_mode="off")
        else:
            image.webpsave(str(path), Q=95)
    except pyvips.Error as error:
        if "no space" in str(error).lower():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise RasterError(f"{staged.path}: cannot be written ({vips_message(error)}); choose .tif") from error


def _comment(profile: RasterProfile) -> bytes | None:
    """All comments as the single comment of a JPEG."""
    lines = [text if name == "Comment" else f"{name}: {text}" for name, text in profile.texts]
    return "\n".join(lines).encode()[:65000] or None


def _iptc(path: Path, profile: RasterProfile) -> bytes | None:
    """IPTC data as the content of a JPEG's APP13 segment, which holds up to 64 KB."""
    content = photoshop_of_iptc(profile.iptc) if profile.iptc else None
    if content is not None and len(content) > 65000:
        warnings.warn(
            f"{path}: the IPTC data ({len(content)} bytes) do not fit into .jpg and are left out", stacklevel=3
        )
        return None
    return content


def _attached(path: Path, profile: RasterProfile, form: str) -> tuple[bytes | None, bytes | None]:
    """EXIF and XMP data, if they fit the format."""
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
