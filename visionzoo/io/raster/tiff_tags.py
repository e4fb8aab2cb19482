"""Read TIFF tags into a `RasterProfile`, and write EXIF data to a TIFF."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import warnings
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from .metadata import EXIF_IFD, GPS_IFD, INTEROP_IFD, ORIENTATION, exif_bytes, iptc_of_photoshop, read_exif, upright_xmp

DESCRIPTION, SOFTWARE, XMP, IPTC, PHOTOSHOP, NODATA, GDAL_METADATA = 270, 305, 700, 33723, 34377, 42113, 42112
GEOREFERENCE = frozenset({33550, 33920, 33922, 34264, 34735, 34736, 34737, 50844})
"""Pixel scale, tie points, transformation, GeoKeys and their values, rational polynomial coefficients."""
WORDS = frozenset({269, DESCRIPTION, 271, 272, 285, 306, 315, 316, 33432, *range(40091, 40096)})
"""Document and page name, description, camera, date, artist, host computer, copyright; title, comment, … as Windows has them."""
_KEPT = GEOREFERENCE | WORDS | {GDAL_METADATA, 50909}
_OWN_WORDS = re.compile(rb'\s*(\{"shape"|ImageJ=|<\?xml[^>]*\?>\s*(<!--.*?-->\s*)?<OME)', re.DOTALL)
"""Descriptions in which programs record the layout of their own files; wrong for any other file."""


def tag_number(tags: dict[int, Any], code: int, default: int) -> int:
    """The first number of a tag of any integer type."""
    if code not in tags:
        return default
    value = tags[code].value
    try:
        if isinstance(value, bytes):
            return value[0]
        return int(value[0] if isinstance(value, (tuple, list)) else value)
    except (IndexError, TypeError, ValueError):
        return default


def tag_bytes(file: Any, tag: Any) -> bytes:
    """The raw value of a tag."""
    file.filehandle.seek(tag.valueoffset)
    return file.filehandle.read(tag.valuebytecount)


def profile_tags(file: Any, tags: dict[int, Any], *, turned: bool) -> tuple[tuple[int, int, int, Any], ...]:
    """The tags to keep unchanged: (code, type, count, value); text and bytes as bytes."""
    kept = []
    for code, tag in sorted(tags.items()):
        if code in _KEPT or (code == ORIENTATION and not turned and tag_number(tags, code, 1) != 1):
            kind = int(tag.dtype)
            value = tag_bytes(file, tag) if kind in (1, 2, 7) else tag.value
            if code != DESCRIPTION or not (isinstance(value, bytes) and _OWN_WORDS.match(value)):
                kept.append((code, kind, int(tag.count), value))
    return tuple(kept)


def attached(path: Path, file: Any, page: Any, tags: dict[int, Any], *, turned: bool) -> dict[str, Any]:
    """EXIF, XMP, IPTC and resolution of a page, as fields of a `RasterProfile`."""
    iptc = tag_bytes(file, tags[IPTC]) if IPTC in tags else None
    if iptc is None and PHOTOSHOP in tags:
        iptc = iptc_of_photoshop(tag_bytes(file, tags[PHOTOSHOP]))
    return {
        "xmp": upright_xmp(tag_bytes(file, tags[XMP]), turned=turned) if XMP in tags else None,
        "exif": _read_exif(path, file, page, tags, turned=turned),
        "iptc": iptc,
        "resolution": _resolution(tags),
    }


def _read_exif(path: Path, file: Any, page: Any, tags: dict[int, Any], *, turned: bool) -> bytes | None:
    """The text tags and EXIF directories of a page, as EXIF data."""
    if not tags.keys() & (WORDS | {EXIF_IFD, GPS_IFD}):
        return None
    exif = Image.Exif()
    try:
        file.filehandle.seek(0)
        head = file.filehandle.read(16)
        exif.endian = "<" if head[:2] == b"II" else ">"
        words = _read_directory(file.filehandle, head, page.offset)
        for code in WORDS & words.keys():
            if code != DESCRIPTION or not _OWN_WORDS.match(tag_bytes(file, tags[code])):
                exif[code] = words[code]
        for pointer in {EXIF_IFD, GPS_IFD} & words.keys():
            found = _read_directory(file.filehandle, head, words[pointer], pointer)
            if INTEROP_IFD in found:
                with contextlib.suppress(ValueError, TypeError):  # Pillow copied this offset from the other file
                    found[INTEROP_IFD] = _read_directory(file.filehandle, head, found[INTEROP_IFD], INTEROP_IFD)
                if not isinstance(found[INTEROP_IFD], dict):
                    del found[INTEROP_IFD]
            exif.get_ifd(pointer).update(found)
        if not turned and tag_number(tags, ORIENTATION, 1) != 1:
            exif[ORIENTATION] = tag_number(tags, ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, AttributeError, struct.error) as error:
        warnings.warn(f"{path}: the EXIF data are damaged and not kept ({' '.join(str(error).split())})", stacklevel=2)
        return None
    return exif_bytes(path, exif, turned=turned)


def _directory(head: bytes, group: int | None = None) -> ImageFileDirectory_v2:
    """An empty directory with the byte order and offset size of a file."""
    directory = ImageFileDirectory_v2(b"II*\0\x08\0\0\0" if head[:2] == b"II" else b"MM\0*\0\0\0\x08", group=group)
    directory._bigtiff = is_big(head)  # Pillow does not recognise big-endian BigTIFF
    return directory


def is_big(head: bytes) -> bool:
    """Whether a file that starts with these bytes is a BigTIFF."""
    return head[2:4] in (b"+\0", b"\0+")


def _read_directory(file: Any, head: bytes, offset: Any, group: int | None = None) -> dict[int, Any]:
    """The values of a directory. Raises ValueError if it is damaged."""
    directory = _directory(head, group)
    file.seek(int(offset))
    with warnings.catch_warnings(record=True) as damaged:  # Pillow warns, and returns what it could read
        warnings.simplefilter("always")
        directory.load(file)
        values = dict(directory)
    if damaged:
        raise ValueError(str(damaged[0].message))
    return values


def _resolution(tags: dict[int, Any]) -> tuple[float, float, int] | None:
    if 282 not in tags or 283 not in tags:
        return None
    try:
        (a, b), (c, d) = tags[282].value, tags[283].value
    except (TypeError, ValueError):
        return None
    unit = tag_number(tags, 296, 2)
    return (a / b, c / d, unit) if a and b and c and d and unit in (1, 2, 3) else None


# Writing


def exif_words(path: Path, exif: bytes | None, known: set[int]) -> list[tuple[int, int, int, Any, bool]]:
    """The first directory of EXIF data, as extra tags for tifffile.

    Args:
        known: tags that are written anyway.
    """
    if exif is None:
        return []
    parsed = read_exif(path, exif)
    tags: list[tuple[int, int, int, Any, bool]] = []
    for code in sorted((WORDS | {SOFTWARE}) - known):
        value = parsed.get(code)
        if isinstance(value, str):
            text = value.encode("utf-8") + b"\0"
            tags.append((code, 2, len(text), text, True))
        elif code >= 40091 and isinstance(value, (bytes, tuple)) and value:
            tags.append((code, 1, len(value), bytes(value), True))
    orientation = parsed.get(ORIENTATION, 1)
    if orientation != 1 and ORIENTATION not in known:  # the pixels were not rotated
        tags.append((ORIENTATION, 3, 1, int(orientation), True))
    return tags


def exif_description(exif: bytes | None) -> str | None:
    """The image description in EXIF data."""
    text = None if exif is None else read_exif(Path(), exif).get(DESCRIPTION)
    return text if isinstance(text, str) and text.strip("\0 ") else None


def append_exif(tiff: Path, exif: bytes | None) -> None:
    """Append the EXIF and GPS directories to a TIFF that we wrote, followed by a new first directory that points to them, as
    tifffile cannot write such tags."""
    parsed = read_exif(tiff, exif) if exif is not None else Image.Exif()
    found = {pointer: dict(parsed.get_ifd(pointer)) for pointer in (EXIF_IFD, GPS_IFD)}
    found = {pointer: values for pointer, values in found.items() if values}
    if not found:
        return
    if INTEROP_IFD in found.get(EXIF_IFD, {}):
        found[EXIF_IFD][INTEROP_IFD] = dict(parsed.get_ifd(INTEROP_IFD))
    with tiff.open("r+b") as file:
        head = file.read(16)
        places = {}
        for pointer, values in found.items():
            directory = _directory(head, pointer)
            for code, value in values.items():
                directory[code] = value
            places[pointer] = _append(file, directory.tobytes(_end(file)))
        _name_directories(file, head, places)


def _end(file: BinaryIO) -> int:
    """The next even offset at the end of the file."""
    end = file.seek(0, io.SEEK_END)
    return end + end % 2


def _append(file: BinaryIO, content: bytes) -> int:
    end = _end(file)
    file.seek(end)
    file.write(content)
    return end


def _name_directories(file: BinaryIO, head: bytes, places: dict[int, int]) -> None:
    """Write the first directory again, with pointers to others, and make it the first one. The values of its tags are not moved."""
    order, big = "<" if head[:2] == b"II" else ">", is_big(head)
    offset_form, count_form, entry_form = ("Q", "Q", "HHQQ") if big else ("L", "H", "HHLL")
    at, size = 8 if big else 4, struct.calcsize(order + entry_form)
    first = struct.unpack_from(order + offset_form, head, at)[0]
    file.seek(first)
    count = struct.unpack(order + count_form, file.read(struct.calcsize(order + count_form)))[0]
    entries = {}
    for _ in range(count):
        entry = file.read(size)
        entries[struct.unpack_from(order + "H", entry)[0]] = entry
    following = file.read(struct.calcsize(order + offset_form))
    for code, place in places.items():
        entries[code] = struct.pack(order + entry_form, code, 16 if big else 4, 1, place)  # LONG8 or LONG
    content = struct.pack(order + count_form, len(entries)) + b"".join(entry for _, entry in sorted(entries.items()))
    place = _append(file, content + following)
    file.seek(at)
    file.write(struct.pack(order + offset_form, place))
