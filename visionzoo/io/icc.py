"""Conversion from an embedded ICC profile (Adobe RGB, Display P3, ProPhoto, grey, CMYK, …) to sRGB, which every network expects.

The rendering intent is relative colorimetric, as between displays, with the defaults of lcms. A transform is built once per profile.
"""

from __future__ import annotations

import functools
import io
import warnings

import numpy as np
from PIL import Image, ImageCms

_SPACES = {"RGB": b"RGB ", "CMYK": b"CMYK", "L": b"GRAY"}
"""The colour space that a profile must have (bytes 16 to 20 of its header) for each image mode."""
_SAME = 2
"""A profile whose colours differ from sRGB by at most this many of 255 levels counts as sRGB, which has many variants."""


def to_srgb(image: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """Convert an image of mode L, RGB or CMYK to sRGB. The result has mode RGB, or L if grey stays unchanged.

    Without a profile, grey and RGB are taken as sRGB, and CMYK is converted by formula. The same holds for a profile of a
    different colour space than the image's (an RGB profile on a grey image) and, after a warning, for a damaged one.

    Args:
        name: what the warning calls the image.
    """
    if profile and profile[36:40] != b"acsp":
        _warn(name, "no header")
    elif profile and profile[16:20] == _SPACES[image.mode]:
        try:
            transform = srgb_transform(profile, image.mode)
            if transform is not None:
                return transform.apply(image)
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            _warn(name, str(error))
    return image.convert("RGB") if image.mode == "CMYK" else image


def _warn(name: str, why: str) -> None:
    warnings.warn(f"{name}: the ICC profile is damaged ({why}) and is ignored", stacklevel=3)


_SRGB = ImageCms.createProfile("sRGB")


@functools.lru_cache(maxsize=64)
def srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile to sRGB for images of mode L, RGB or CMYK; None if it changes nothing.

    Raises:
        PyCMSError, OSError: the profile is damaged, or has a different colour space.
    """
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    transform = ImageCms.buildTransform(
        source,
        _SRGB,
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        # the table that lcms builds from a grey curve is up to 10 of 255 levels too dark
        flags=ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE,
    )
    if mode == "CMYK":
        return transform
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3)
    probe = Image.fromarray(colours if mode == "RGB" else colours[..., 0])
    change = np.asarray(transform.apply(probe), np.int16) - np.asarray(probe.convert("RGB"), np.int16)
    return None if np.abs(change).max() <= _SAME else transform
