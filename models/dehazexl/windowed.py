"""Reads crops of image files as (h, w, 3) uint8 for training: by windows if the format allows, else from an unpacked copy."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionzoo.errors import InputError
from visionzoo.io.extensions import RASTERS, extension
from visionzoo.io.files import atomic_path
from visionzoo.io.image import load_image
from visionzoo.io.raster import Window, open_raster


class WindowedImage:
    """A context manager to read crops of an image file.

    Args:
        cache: folder for unpacked copies of files without random access; None decodes such a file completely.
    """

    def __init__(self, path: Path, cache: Path | None = None):
        self.path = path
        self._raster: Any = None
        if extension(path) in RASTERS:
            self._raster = open_raster(path)
            self._pixels = None
            self.size = (self._raster.height, self._raster.width)
        else:
            self._pixels = _unpacked(path, cache) if cache else load_image(path)
            self.size = self._pixels.shape[:2]

    @property
    def words(self) -> str:
        return f"{self.size[1]} x {self.size[0]} pixels"

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB."""
        if self._pixels is not None:
            return np.array(self._pixels[top : top + height, left : left + width])
        window = self._raster.read(Window(top, left, height, width))
        if window.dtype != np.uint8 or window.shape[2] < 3:
            raise InputError(
                f"{self.path}: is {window.dtype} with {window.shape[2]} bands; training needs 8-bit RGB, convert it first"
            )
        return np.ascontiguousarray(window[..., :3])

    def __enter__(self) -> WindowedImage:
        return self

    def __exit__(self, *_: object) -> None:
        if self._raster is not None:
            self._raster.close()


def _unpacked(path: Path, cache: Path) -> NDArray[np.uint8]:
    """The image as a memory-mapped array, decoded into `cache` if it is not there yet."""
    cache.mkdir(parents=True, exist_ok=True)
    about = path.stat()
    key = hashlib.sha256(f"{path.absolute()}|{about.st_size}|{about.st_mtime_ns}".encode()).hexdigest()[:24]
    file = cache / f"{path.stem[:40]}_{key}.npy"
    if not file.exists():
        pixels = load_image(path)
        with atomic_path(file) as temporary, temporary.open("wb") as handle:
            np.save(handle, pixels)
    return np.load(file, mmap_mode="r")
