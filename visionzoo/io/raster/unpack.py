"""Unpack files without random access on disk with pyvips, a few rows at a time."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import require
from .base import RasterError, size_words, writing_raster
from .raw import RawPixels

DTYPES = {
    "uchar": np.uint8,
    "char": np.int8,
    "ushort": np.uint16,
    "short": np.int16,
    "uint": np.uint32,
    "int": np.int32,
    "float": np.float32,
    "double": np.float64,
}
"""libvips's names for pixel types."""


def vips(purpose: str) -> ModuleType:
    """The package pyvips."""
    return require("pyvips", extra="raster", purpose=purpose)


def vips_message(error: Any) -> str:
    """The message of a pyvips error on one line, without the name of the operation."""
    return " ".join((error.detail or error.message).split()).rstrip(".")


class Unpacked(RawPixels):
    """The pixels of a file, unpacked in a folder that is deleted on close.

    Args:
        image: a pyvips image, opened for sequential access.
        scratch: where to create the folder; by default the system's temporary folder.

    Raises:
        RasterError: there is not enough space, or the file is damaged.
    """

    def __init__(self, path: Path, image: Any, scratch: Path | None) -> None:
        pyvips = vips("unpacking a large image")
        if image.format not in DTYPES or image.coding != "none":
            raise RasterError(f"{path}: holds values of type {image.format}, which cannot be read; convert it to .tif")
        dtype = np.dtype(DTYPES[image.format])
        size = image.width * image.height * image.bands * dtype.itemsize
        if scratch is not None:
            with writing_raster(scratch):
                scratch.mkdir(parents=True, exist_ok=True)
        with writing_raster(scratch or Path(tempfile.gettempdir())):
            self._folder = tempfile.TemporaryDirectory(prefix="raster-", dir=scratch, ignore_cleanup_errors=True)
        try:
            free = shutil.disk_usage(self._folder.name).free
            if size > free:
                raise RasterError(
                    f"{path}: {image.width} x {image.height} pixels take {size_words(size)} unpacked, {self._folder.name} "
                    f"has {size_words(free)} free; free some space, or name another folder as scratch"
                )
            raw = Path(self._folder.name) / "pixels.raw"
            try:
                image.rawsave(str(raw))
            except pyvips.Error as error:
                if "no space" in str(error).lower():
                    raise RasterError(
                        f"{raw}: the disk is full; free some space, or name another folder as scratch"
                    ) from error
                raise RasterError(
                    f"{path}: damaged or truncated image ({vips_message(error)}); copy it again"
                ) from error
            super().__init__(raw, width=image.width, bands=image.bands, dtype=dtype)
        except BaseException:
            self._folder.cleanup()
            raise

    def close(self) -> None:
        super().close()
        self._folder.cleanup()


def open_sequential(path: Path, **options: Any) -> Any:
    """Open the file as a pyvips image that yields rows in order and fails where the file is damaged.

    Raises:
        RasterError: not an image that libvips can read.
    """
    pyvips = vips("reading a large image")
    try:
        return pyvips.Image.new_from_file(str(path), access="sequential", fail_on="truncated", **options)
    except pyvips.Error as error:
        raise RasterError(f"{path}: cannot be unpacked ({vips_message(error)}); convert it to .tif") from error
