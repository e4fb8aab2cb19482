"""The capabilities of each output format; other metadata goes to sidecar files or is named in one warning."""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import georeference
from .base import RasterError
from .metadata import RasterProfile
from .missing import as_held
from .sidecars import pam_of_result, world_ending
from .tiff_tags import DESCRIPTION, GDAL_METADATA, GEOREFERENCE, WORDS


@dataclass(frozen=True)
class Format:
    """What a format can hold. `bands` None: any number; `dtypes` None: any; `side`: maximum side in pixels; `has_sidecars`: whether
    programs look for sidecar files; `holds`: fields of a `RasterProfile`."""

    name: str
    bands: tuple[int, ...] | None = None
    dtypes: tuple[str, ...] | None = None
    side: int | None = None
    has_sidecars: bool = True
    lossy: bool = False
    holds: frozenset[str] = frozenset()


_TIFF = Format("tiff", holds=frozenset({"tags", "nodata", "mask", "alpha", "exif", "xmp", "iptc", "texts"}))
_JPEG = Format(
    "jpeg",
    (1, 3),
    ("uint8",),
    65500,
    lossy=True,
    holds=frozenset({"exif", "xmp", "iptc", "texts"}),
)
FORMATS = {
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".zarr": Format("zarr", has_sidecars=False, holds=frozenset({"nodata", "alpha", "attributes"})),
    ".npy": Format("npy", has_sidecars=False),
    ".png": Format(
        "png",
        (1, 2, 3, 4),
        ("uint8", "uint16"),
        2**31 - 1,
        holds=frozenset({"exif", "xmp", "texts", "alpha"}),
    ),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": Format("webp", (1, 3, 4), ("uint8",), 16383, lossy=True, holds=frozenset({"exif", "xmp", "alpha"})),
}


def format_of(path: Path, *, height: int, width: int, bands: int, dtype: np.dtype) -> Format:
    """The format of the extension. Raises `RasterError` if it cannot hold such an image."""
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise RasterError(f"{path}: unknown extension {ending or '(none)'}; choose one of {', '.join(FORMATS)}")
    form = FORMATS[ending]
    if height < 1 or width < 1 or bands < 1:
        raise RasterError(
            f"{path}: width, height and number of bands must be at least 1, got {width} x {height} pixels and {bands} bands"
        )
    if form.dtypes and dtype.name not in form.dtypes:
        raise RasterError(f"{path}: {ending} holds {' or '.join(form.dtypes)}, the image is {dtype}; choose .tif")
    if form.bands and bands not in form.bands:
        raise RasterError(f"{path}: {ending} holds {_one_of(form.bands)} bands, the image has {bands}; choose .tif")
    if form.side and max(height, width) > form.side:
        raise RasterError(
            f"{path}: {ending} holds up to {form.side} pixels per side, the image has {width} x {height}; choose .tif"
        )
    return form


def _one_of(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers[:-1])) + f" or {numbers[-1]}"


@dataclass
class SidecarPlan:
    """Sidecar files to write with a result.

    Attributes:
        files: contents of small files, by path.
        mask: path of the mask, if it is not inside the result.
        masked: whether there is a mask, inside or in a sidecar.
        mask_from_nodata: the mask is made from the no-data value, which lossy compression would not preserve.
        lost: descriptions of what cannot be kept.
    """

    files: dict[Path, bytes] = field(default_factory=dict)
    mask: Path | None = None
    masked: bool = False
    mask_from_nodata: bool = False
    lost: list[str] = field(default_factory=list)


def plan_sidecars(path: Path, form: Format, profile: RasterProfile, *, nodata: float | None, dtype: np.dtype, bands: int,
                alpha: int | None) -> SidecarPlan:  # fmt: skip
    """Plan the sidecar files of a result in this format, and which metadata are lost."""
    plan, files = SidecarPlan(), profile.sidecars
    can_occur = nodata is not None and as_held(nodata, dtype) is not None
    plan.mask_from_nodata = form.lossy and can_occur and profile.mask is None
    plan.masked = profile.mask is not None or plan.mask_from_nodata
    if plan.masked and "mask" not in form.holds:
        if form.has_sidecars:
            plan.mask = path.with_name(f"{path.name}.msk")
        else:
            plan.masked = False
            plan.lost.append("mask")
    if nodata is not None and "nodata" not in form.holds and not form.has_sidecars:
        plan.lost.append(f"no-data value ({nodata:.9g})")
    if alpha is not None and "alpha" not in form.holds:
        plan.lost.append("alpha band marker")
    if form.has_sidecars:
        _georeference_sidecars(plan, path, form, profile, nodata, bands)
        for file, ending in files.copied:
            plan.files[path.with_name(path.stem + ending)] = file.read_bytes()
    elif files.georeferenced or files.copied or files.pam or any(code in GEOREFERENCE for code, *_ in profile.tags):
        plan.lost.append("georeference")
    _name_lost(plan, form, profile)
    return plan


def _georeference_sidecars(plan: SidecarPlan, path: Path, form: Format, profile: RasterProfile, nodata: float | None,
                         bands: int) -> None:  # fmt: skip
    """World file and GDAL's .aux.xml: those of the source, and georeference that the format itself cannot hold."""
    files, inside = profile.sidecars, "tags" in form.holds
    world = files.world.read_bytes() if files.world is not None else None
    pam, transform, system = files.pam, None, None
    if not inside:
        transform, system = georeference.transform_of(profile.tags), georeference.system_of(profile.tags)
        if georeference.is_inexpressible(profile.tags):
            plan.lost.append("georeference")
        if world is None and transform is not None:
            world = georeference.world_file(transform)
        try:
            pam = pam or georeference.pam_of_metadata(profile.tags)
        except (ET.ParseError, ValueError, TypeError):
            plan.lost.append("GDAL metadata")
    if world is not None:
        plan.files[path.with_suffix(world_ending(path))] = world
    declares: Sequence[float | None] | None = [nodata] * bands if nodata is not None and not plan.masked else []
    if inside or (nodata is None and not files.nodata):  # the tag states it
        declares = [] if files.nodata else None
    notes = pam_of_result(pam, nodata=declares, transform=transform, srs=system)
    if notes is not None:
        plan.files[path.with_name(f"{path.name}.aux.xml")] = notes


def _name_lost(plan: SidecarPlan, form: Format, profile: RasterProfile) -> None:
    tags = {code for code, *_ in profile.tags}
    words = profile.exif is None and tags & WORDS - {DESCRIPTION}
    own = [name for name in profile.attributes if name not in ("_FillValue", "alpha")]
    for field_name, words_for_it, there in (
        ("exif", "EXIF data", profile.exif is not None or words),
        ("xmp", "XMP data", profile.xmp),
        ("iptc", "IPTC data", profile.iptc),
        ("texts", "remarks " + ", ".join(name for name, _ in profile.texts), profile.texts),
        ("attributes", "zarr attributes " + ", ".join(map(str, own)), own),
    ):
        if there and field_name not in form.holds:
            plan.lost.append(words_for_it)
    if not form.has_sidecars and GDAL_METADATA in tags:
        plan.lost.append("GDAL metadata")


def warn_lost(path: Path, plan: SidecarPlan, profile: RasterProfile) -> None:
    """Give one warning about everything that the result does not keep."""
    messages = []
    if plan.lost:
        names = plan.lost[0] if len(plan.lost) == 1 else f"{', '.join(plan.lost[:-1])} and {plan.lost[-1]}"
        messages.append(f"{path.suffix.lower()} cannot hold the {names} of the source")
    if profile.sidecars.left:
        messages.append(f"not carried over: {', '.join(file.name for file in profile.sidecars.left)}")
    if messages:
        warnings.warn(f"{path}: {'; '.join(messages)}", stacklevel=5)
