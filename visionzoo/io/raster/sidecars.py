"""Sidecar files that belong to a raster: georeference, masks, camera models.

| next to `scene.jpg` | content | next to the result `clear.png` |
|---|---|---|
| `scene.jgw`, `.tfw`, `.pgw`, `.wld`, … | world file: position and size of a pixel | `clear.pgw` |
| `scene.prj` | coordinate system | `clear.prj` |
| `scene.jpg.aux.xml` | GDAL's metadata: coordinates, transform, no-data, descriptions | `clear.png.aux.xml`, without statistics |
| `scene.jpg.msk` | mask | `clear.png.msk`, or inside a TIFF |
| `scene_rpc.txt`, `scene.rpb`, `scene.imd` | camera model and details of a satellite | the same names with `clear` |
| overviews, `.tab`, `.points`, `.xmp`, … | tied to the source's pixels or name | named in a warning |
"""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .missing import declared

_COPIED = (".prj", "_rpc.txt", ".rpb", ".imd")
_LEFT = (".ovr", ".rrd", ".aux", ".tab", ".points", ".xmp")
_CAMERA = ("_rpc.txt", ".rpb")
_LARGEST_PAM = 64 << 20


@dataclass(frozen=True)
class Sidecars:
    """Sidecar files of a raster.

    Attributes:
        world: the world file.
        pam: the content of the .aux.xml file.
        nodata: the no-data value of each band, as declared in that file.
        mask: the .msk file.
        copied: files to copy, each with the suffix that its name adds to the raster's stem.
        left: files that are not copied to a result.
    """

    world: Path | None = None
    pam: bytes | None = None
    nodata: tuple[float | None, ...] = ()
    mask: Path | None = None
    copied: tuple[tuple[Path, str], ...] = ()
    left: tuple[Path, ...] = ()

    @property
    def georeferenced(self) -> bool:
        """Whether these files georeference the stored pixels."""
        if self.world is not None or any(ending.lower() in _CAMERA for _, ending in self.copied):
            return True
        root = ET.fromstring(self.pam) if self.pam is not None else None
        return root is not None and any(root.find(name) is not None for name in ("GeoTransform", "GCPList"))


NONE = Sidecars()
"""No sidecar files."""


def find_sidecars(path: Path) -> Sidecars:
    """Find the sidecar files of a raster. A damaged file is named in a warning and ignored."""
    left = [file for ending in _LEFT for file in _present(path, ending)]
    pam, nodata = None, ()
    for file in _present(path, ".aux.xml")[:1]:
        try:
            pam, nodata = _read_pam(file)
        except (ET.ParseError, OSError, ValueError) as error:
            warnings.warn(f"{file}: cannot be read ({' '.join(str(error).split())}); it is ignored", stacklevel=3)
    return Sidecars(
        world=next(iter(_world_files(path)), None),
        pam=pam,
        nodata=nodata,
        mask=next(iter(_present(path, ".msk")), None),
        copied=tuple((file, file.name[len(path.stem) :]) for ending in _COPIED for file in _present(path, ending)),
        left=tuple(left),
    )


def _present(path: Path, ending: str) -> list[Path]:
    """The file named like the raster plus this suffix, with or without the raster's extension, in lower or upper case."""
    whole_name = (".aux.xml", ".msk", ".ovr", ".aux", ".points", ".xmp")
    stems = [path.name] if ending in whole_name else []
    if ending not in (".aux.xml", ".msk", ".ovr", ".points"):
        stems.append(path.stem)
    names = dict.fromkeys(stem + case for stem in stems for case in (ending, ending.upper()))
    found = [path.with_name(name) for name in names if path.with_name(name).is_file()]
    return found[:1] if len(stems) == 1 else found


def world_ending(path: Path) -> str:
    """The extension of the world file of a raster, e.g. ".jgw" for .jpg and .jpeg."""
    own = path.suffix.lower().lstrip(".")
    own = {"jpeg": "jpg", "tiff": "tif"}.get(own, own)
    return f".{own[0]}{own[-1]}w" if own in ("jpg", "tif", "png") else ".wld"


def _world_files(path: Path) -> Iterator[Path]:
    own = path.suffix.lstrip(".")
    if own:
        for ending in (world_ending(path), f".{own[0]}{own[-1]}w", f".{own}w", ".wld"):
            for case in (ending.lower(), ending.upper()):
                if path.with_suffix(case).is_file():
                    yield path.with_suffix(case)


def _read_pam(file: Path) -> tuple[bytes, tuple[float | None, ...]]:
    """The content of the file, and the no-data value of each band. Raises ValueError, ParseError or OSError."""
    if file.stat().st_size > _LARGEST_PAM:
        raise ValueError(f"over {_LARGEST_PAM >> 20} MB")
    content = file.read_bytes()
    root = ET.fromstring(content)
    if root.tag != "PAMDataset":
        raise ValueError(f"holds {root.tag}, expected PAMDataset")
    found: dict[int, float | None] = {}
    for band in root.findall("PAMRasterBand"):
        number = int(band.get("band", "1"))
        value = band.findtext("NoDataValue")
        found[number] = None if value is None else declared(file, value, f"band {number}")
    if not any(value is not None for value in found.values()):
        return content, ()
    return content, tuple(found.get(number) for number in range(1, max(found) + 1))


def pam_of_result(
    pam: bytes | None,
    *,
    nodata: Sequence[float | None] | None,
    transform: Sequence[float] | None = None,
    srs: str | None = None,
) -> bytes | None:
    """GDAL's .aux.xml for the result: without statistics of the source, with what the output format cannot hold itself.

    Args:
        pam: that of the source.
        nodata: the value of each band, in the units of the result; an empty sequence removes them, None keeps those of `pam`.
        transform, srs: georeference, if `pam` has none.
    """
    root = ET.fromstring(pam) if pam is not None else ET.Element("PAMDataset")
    if srs is not None and root.find("SRS") is None:
        ET.SubElement(root, "SRS").text = srs
    if transform is not None and root.find("GeoTransform") is None:
        ET.SubElement(root, "GeoTransform").text = ", ".join(f"{value:.17g}" for value in transform)
    for name in ("Overviews", "MaskBand"):
        for part in root.findall(name):
            root.remove(part)
    for band in root.iter("PAMRasterBand"):
        for name in ("Histograms", "Minimum", "Maximum", "Mean", "StandardDeviation"):
            for part in band.findall(name):
                band.remove(part)
        for words in band.findall("Metadata"):
            for item in words.findall("MDI"):
                if item.get("key", "").startswith("STATISTICS_"):
                    words.remove(item)
            if not len(words):
                band.remove(words)
    if nodata is not None:
        _declare(root, nodata)
    return None if not len(root) else ET.tostring(root, encoding="utf-8") + b"\n"


def _declare(root: ET.Element, nodata: Sequence[float | None]) -> None:
    bands = {int(band.get("band", "1")): band for band in root.findall("PAMRasterBand")}
    for number in sorted({*bands, *range(1, len(nodata) + 1)}):
        value = nodata[number - 1] if number <= len(nodata) else None
        band = bands.get(number)
        if band is not None:
            for part in band.findall("NoDataValue"):
                band.remove(part)
        if value is None:
            continue
        if band is None:
            band = ET.SubElement(root, "PAMRasterBand", band=str(number))
        ET.SubElement(band, "NoDataValue").text = f"{value:.17g}"
