"""Open any image file with the right reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..pillow import ImageError, opened, pillow_reads_correctly
from . import arrays, decoded, tiff
from .base import Layout, Raster, RasterError
from .raw import RawPixels
from .sidecars import Sidecars, find_sidecars
from .tiff_header import NotByWindowsError
from .unpack import Unpacked, open_sequential

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first four bytes of TIFF and BigTIFF."""


def open_raster(path: str | Path, *, scratch: Path | None = None, at_least: int | None = None) -> Raster:
    """Open an image of any size for reading by windows. The format is detected from the content, not the name. Sidecar files
    (world file, mask, …, see `sidecars.py`) are read, too.

    Args:
        path: a file, or the folder of a zarr array.
        scratch: a folder where large images without random access (JPEG, PNG, …) may be unpacked, with room for all
            their pixels, which are deleted on close; by default the system's temporary folder.
        at_least: if a TIFF has overviews, open the smallest one whose longer side is at least this many pixels.

    Raises:
        RasterError: missing, empty, not an image, truncated, damaged, or of an unsupported kind.
        MissingDependencyError: the package for this format is not installed.
    """
    path = Path(path)
    if path.is_dir():
        if arrays.is_zarr(path):
            return arrays.open_zarr(path)
        raise RasterError(f"{path}: is a folder, expected an image file or a zarr array")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        raise RasterError(f"{path}: no such file") from None
    except OSError as error:
        raise RasterError(f"{path}: cannot be read ({error.strerror})") from error
    if not start:
        raise RasterError(f"{path}: the file is empty (0 bytes)")
    sidecars = find_sidecars(path)
    if start.startswith(TIFF_STARTS):
        raster = _open_tiff(path, sidecars, scratch, at_least)
    elif start.startswith(b"\x93NUMPY"):
        raster = arrays.open_npy(path)
    else:
        raster = decoded.open_decoded(path, scratch, sidecars)
    mask = (lambda: open_raster(path, scratch=scratch)) if raster.has_mask else None
    raster.profile = replace(raster.profile, sidecars=sidecars, mask=mask)
    return raster


def _open_tiff(path: Path, sidecars: Sidecars, scratch: Path | None, at_least: int | None) -> Raster:
    try:
        return tiff.open_tiff(
            path, lambda layout: _unpack_strips(path, layout, scratch), sidecars=sidecars, at_least=at_least
        )
    except NotByWindowsError as why:
        try:
            with opened(path, str(path)) as image:
                right = pillow_reads_correctly(image)
            if right:
                return decoded.open_decoded(path, scratch, sidecars, why.layout)
        except (RasterError, ImageError):
            pass  # the TIFF reader's error is more specific
        raise why


def _unpack_strips(path: Path, layout: Layout, scratch: Path | None) -> RawPixels:
    image = open_sequential(path)
    pixels = Unpacked(path, image, scratch)
    if (image.height, image.width, image.bands, pixels.dtype) != (
        layout.height,
        layout.width,
        layout.bands,
        layout.dtype,
    ):
        pixels.close()
        raise RasterError(f"{path}: has strips too large to read by windows; convert it to tiles")
    return pixels
