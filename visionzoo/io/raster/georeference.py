"""Convert the georeference in TIFF tags for sidecar files: a transform, and the name of a coordinate system."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from .tiff_tags import GDAL_METADATA, GEOREFERENCE

_SCALE, _TIE_POINTS, _MATRIX, _KEYS, _RPC = 33550, 33922, 34264, 34735, 50844
_GEOGRAPHIC, _PROJECTED, _RASTER_TYPE = 2048, 3072, 1025
_USER_DEFINED = 32767

Transform = tuple[float, float, float, float, float, float]
"""GDAL's geotransform: x of the corner, x per column, x per row, y of the corner, y per column, y per row; at pixel corners."""


def transform_of(tags: tuple[tuple[int, int, int, Any], ...]) -> Transform | None:
    """The affine transform of pixels, if the tags state one."""
    values = {code: value for code, _, _, value in tags}
    matrix, scale, ties = values.get(_MATRIX), values.get(_SCALE), values.get(_TIE_POINTS)
    if matrix is not None and len(matrix) == 16:
        found = (matrix[3], matrix[0], matrix[1], matrix[7], matrix[4], matrix[5])
    elif scale is not None and ties is not None and len(scale) >= 2 and len(ties) == 6:
        found = (ties[3] - ties[0] * scale[0], scale[0], 0.0, ties[4] + ties[1] * scale[1], 0.0, -scale[1])
    else:
        return None
    x, across_x, down_x, y, across_y, down_y = (float(value) for value in found)
    if _keys(values).get(_RASTER_TYPE) == 2:  # coordinates refer to pixel centres
        x, y = x - (across_x + down_x) / 2, y - (across_y + down_y) / 2
    return x, across_x, down_x, y, across_y, down_y


def system_of(tags: tuple[tuple[int, int, int, Any], ...]) -> str | None:
    """The coordinate system, e.g. "EPSG:32633", if the tags give its EPSG code."""
    keys = _keys({code: value for code, _, _, value in tags})
    number = keys.get(_PROJECTED, keys.get(_GEOGRAPHIC))
    return None if number is None or number in (0, _USER_DEFINED) else f"EPSG:{number}"


def is_inexpressible(tags: tuple[tuple[int, int, int, Any], ...]) -> bool:
    """Whether the tags hold more georeference than `transform_of` and `system_of` return."""
    codes = {code for code, *_ in tags} & GEOREFERENCE
    if not codes:
        return False
    return _RPC in codes or transform_of(tags) is None or (_KEYS in codes and system_of(tags) is None)


def world_file(transform: Transform) -> bytes:
    """The content of a world file, whose origin is the centre of the first pixel."""
    x, across_x, down_x, y, across_y, down_y = transform
    centre = x + (across_x + down_x) / 2, y + (across_y + down_y) / 2
    return "".join(f"{value:.17g}\n" for value in (across_x, across_y, down_x, down_y, *centre)).encode()


def pam_of_metadata(tags: tuple[tuple[int, int, int, Any], ...]) -> bytes | None:
    """GDAL's metadata tag as the content of a .aux.xml file; None if there is none. Raises ParseError if it is damaged."""
    text = next((value for code, _, _, value in tags if code == GDAL_METADATA), None)
    if text is None:
        return None
    root = ET.Element("PAMDataset")
    for item in ET.fromstring(bytes(text).rstrip(b"\0") if isinstance(text, bytes) else str(text).rstrip("\0")):
        sample, role, key = item.get("sample"), item.get("role", ""), item.get("name", "")
        place = root
        if sample is not None:
            number = str(int(sample) + 1)
            place = next((band for band in root.findall("PAMRasterBand") if band.get("band") == number), None)
            place = ET.SubElement(root, "PAMRasterBand", band=number) if place is None else place
        named = {"description": "Description", "scale": "Scale", "offset": "Offset", "unittype": "UnitType"}.get(role)
        if named is not None:
            ET.SubElement(place, named).text = item.text
            continue
        domain = item.get("domain")
        words = next((words for words in place.findall("Metadata") if words.get("domain") == domain), None)
        if words is None:
            words = ET.SubElement(place, "Metadata", {} if domain is None else {"domain": domain})
        ET.SubElement(words, "MDI", key=key).text = item.text
    return ET.tostring(root) if len(root) else None


def _keys(values: dict[int, Any]) -> dict[int, int]:
    """The numeric GeoKeys."""
    flat = [int(value) for value in values.get(_KEYS) or ()]
    return {flat[i]: flat[i + 3] for i in range(4, len(flat) - 3, 4) if flat[i + 1] == 0}
