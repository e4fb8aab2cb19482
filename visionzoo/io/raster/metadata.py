"""Metadata of a raster: when, where, by whom and with what it was taken.

No metadata are dropped silently. A reader collects them in a `RasterProfile`; `RasterWriter` writes what the output format can
hold, puts the rest into sidecar files (`sidecars.py`), and names what is lost in one warning.

* EXIF (with GPS), XMP, IPTC and the ICC profile are kept between TIFF, JPEG, PNG and WebP in any direction, except for IPTC in
  PNG and WebP, which have no place for it.
* Orientation is reset if the pixels were rotated. An image with a georeference, inside or in a sidecar, is not rotated, as
  coordinates refer to its stored corner; it keeps its orientation.
* Metadata that describe the source's pixels are dropped: statistics, histograms, overviews, thumbnails.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .sidecars import NONE, Sidecars

ORIENTATION, HOST_COMPUTER = 0x0112, 0x013C
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
_PIXELS_ACROSS, _PIXELS_DOWN = 0xA002, 0xA003
_ORIENTATION_IN_XMP = re.compile(rb'\s*(tiff:Orientation="[0-9]+"|<tiff:Orientation>[0-9]+</tiff:Orientation>)')
_PHOTOSHOP = b"Photoshop 3.0\0"
_IPTC_RESOURCE = 0x0404


class MaskedSource(Protocol):
    """The part of an open raster that gives its mask; a context manager."""

    def read_mask(self, window: Any) -> NDArray[np.bool_]:
        """(h, w) bool: True where there is data."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True)
class RasterProfile:
    """The metadata of an image, which `RasterWriter` keeps.

    Attributes:
        tags: TIFF tags, unchanged (georeference, GDAL metadata, description, …): (code, type, count, value).
        icc: ICC profile.
        xmp: XMP packet.
        exif: EXIF data, starting with "Exif"; without orientation if the pixels were rotated.
        iptc: IPTC data (IIM), unchanged.
        texts: text chunks or comments, as in PNG and JPEG: (name, text).
        resolution: pixels per unit: horizontal, vertical, and the unit (1 none, 2 inch, 3 centimetre).
        compression: of the source, e.g. "deflate", "none", "jpeg".
        tile: (height, width) of the tiles, if the source has tiles.
        photometric: "rgb" or "grey".
        premultiplied: whether the colours are premultiplied by alpha.
        nodata: the declared no-data value, in the units of the values read, even if their type cannot hold it.
        attributes: attributes of a zarr array.
        sidecars: sidecar files of the source.
        mask: opens the source for its mask (`Raster.read_mask`), if it has one.
    """

    tags: tuple[tuple[int, int, int, Any], ...] = ()
    icc: bytes | None = None
    xmp: bytes | None = None
    exif: bytes | None = None
    iptc: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()
    resolution: tuple[float, float, int] | None = None
    compression: str | None = None
    tile: tuple[int, int] | None = None
    photometric: str | None = None
    premultiplied: bool = False
    nodata: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    sidecars: Sidecars = NONE
    mask: Callable[[], MaskedSource] | None = None


def read_exif(path: Path, data: bytes) -> Image.Exif:
    """Parse EXIF data; damaged data give a warning and an empty result."""
    exif = Image.Exif()
    try:
        exif.load(data)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error) as error:
        warnings.warn(f"{path}: the EXIF data are damaged and not kept ({' '.join(str(error).split())})", stacklevel=2)
        return Image.Exif()
    return exif


def exif_bytes(path: Path, exif: Image.Exif, *, turned: bool, size: tuple[int, int] | None = None) -> bytes | None:
    """EXIF data for the result; None if there are none.

    Args:
        turned: the pixels were rotated by the orientation, which is therefore removed.
        size: (width, height) of the upright image, to update a size in the EXIF data.
    """
    result = Image.Exif()
    result.endian = exif.endian
    try:
        for code, value in exif.items():
            if code not in (EXIF_IFD, GPS_IFD) and not (turned and code == ORIENTATION):
                result[code] = value
        for pointer in (EXIF_IFD, GPS_IFD):
            found = dict(exif.get_ifd(pointer))
            if pointer == EXIF_IFD and not isinstance(found.get(INTEROP_IFD, {}), dict):
                found[INTEROP_IFD] = dict(exif.get_ifd(INTEROP_IFD))
            if turned and size is not None and found.keys() & {_PIXELS_ACROSS, _PIXELS_DOWN}:
                found[_PIXELS_ACROSS], found[_PIXELS_DOWN] = size
            if found:
                result.get_ifd(pointer).update(found)
        return result.tobytes() if result or result._ifds else None
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, AttributeError, struct.error) as error:
        warnings.warn(f"{path}: the EXIF data are damaged and not kept ({' '.join(str(error).split())})", stacklevel=2)
        return None


def upright_xmp(xmp: Any, *, turned: bool = True) -> bytes | None:
    """An XMP packet, without orientation if the pixels were rotated."""
    if not xmp:
        return None
    packet = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    return _ORIENTATION_IN_XMP.sub(b"", packet) if turned else packet


def iptc_of_photoshop(resources: bytes) -> bytes | None:
    """Extract IPTC data from Photoshop image resources (APP13 of a JPEG, tag 34377 of a TIFF)."""
    at = len(_PHOTOSHOP) if resources.startswith(_PHOTOSHOP) else 0
    while resources[at : at + 4] == b"8BIM" and at + 12 <= len(resources):
        kind = int.from_bytes(resources[at + 4 : at + 6], "big")
        name = (resources[at + 6] + 2) // 2 * 2  # a length-prefixed text, padded to even size
        size = int.from_bytes(resources[at + 6 + name : at + 10 + name], "big")
        start = at + 10 + name
        if kind == _IPTC_RESOURCE:
            return resources[start : start + size] or None
        at = start + (size + 1) // 2 * 2
    return None


def photoshop_of_iptc(iptc: bytes) -> bytes:
    """IPTC data as the content of a JPEG's APP13 segment."""
    padding = b"\0" if len(iptc) % 2 else b""
    head = _IPTC_RESOURCE.to_bytes(2, "big") + b"\0\0" + len(iptc).to_bytes(4, "big")
    return _PHOTOSHOP + b"8BIM" + head + iptc + padding
