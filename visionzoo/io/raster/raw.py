"""Read and write uncompressed pixels of a file in place, row by row.

Positioned reads and writes are used, not a memory map: a full disk, or a file that another program truncates, then raises an
error instead of a signal that ends the process.
"""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Layout, Raster, UnreadableError, Window


class RawPixels:
    """A file of uncompressed pixels.

    Args:
        path: the file.
        width, bands, dtype: of the pixels; dtype in the file's byte order.
        planes: for each plane, a function from a row to its offset in bytes, or None for a row that is not stored. A single
            plane holds all bands interleaved; several planes hold one band each.
        fill: value of rows that are not stored.
        mode: "rb", or "r+b" for writing as well.
    """

    def __init__(
        self,
        path: Path,
        *,
        width: int,
        bands: int,
        dtype: np.dtype,
        planes: Sequence[Callable[[int], int | None]] | None = None,
        fill: float = 0,
        mode: str = "rb",
    ) -> None:
        self.width, self.bands, self.dtype, self._fill = width, bands, dtype, fill
        self._pixel = bands * dtype.itemsize  # bytes, within one plane
        row_bytes = width * self._pixel
        self._planes = planes or [lambda row: row * row_bytes]
        if len(self._planes) > 1:
            self._pixel = dtype.itemsize
        self._lock = threading.Lock()
        self._file = io.FileIO(path, mode)

    def read(self, window: Window) -> NDArray[Any]:
        """Read (h, w, bands) in native byte order. Raises `UnreadableError` if the file is truncated."""
        if len(self._planes) == 1:
            pixels = self._read_plane(self._planes[0], window, self.bands)
        else:
            pixels = np.concatenate([self._read_plane(plane, window, 1) for plane in self._planes], axis=2)
        return pixels.astype(self.dtype.newbyteorder("="), copy=False)

    def _read_plane(self, plane: Callable[[int], int | None], window: Window, bands: int) -> NDArray[Any]:
        pixels = np.empty((window.height, window.width, bands), self.dtype)
        for start, rows, offset in self._runs(plane, window):
            if offset is None:
                pixels[start : start + rows] = self._fill
                continue
            wanted = pixels[start : start + rows].reshape(-1).view(np.uint8).data
            done = 0
            with self._lock:
                self._file.seek(offset)
                while done < len(wanted):
                    got = self._file.readinto(wanted[done:])
                    if not got:
                        raise UnreadableError(
                            f"the file is truncated: it ends at byte {offset + done}, before byte {offset + len(wanted)}; "
                            "copy it again"
                        )
                    done += got
        return pixels

    def write(self, top: int, left: int, pixels: NDArray[Any]) -> None:
        """Write (h, w, bands); only for a single plane."""
        plane, pixels = self._planes[0], np.ascontiguousarray(pixels, self.dtype)
        for start, rows, offset in self._runs(plane, Window(top, left, *pixels.shape[:2])):
            values = pixels[start : start + rows].reshape(-1).view(np.uint8).data
            done = 0
            with self._lock:
                self._file.seek(offset or 0)
                while done < len(values):
                    done += self._file.write(values[done:])

    def _runs(self, plane: Callable[[int], int | None], window: Window) -> list[tuple[int, int, int | None]]:
        """Contiguous runs of rows: (first row within the window, number of rows, offset in bytes)."""
        offsets = [plane(row) for row in range(window.top, window.top + window.height)]
        if window.width < self.width:
            return [
                (row, 1, None if offset is None else offset + window.left * self._pixel)
                for row, offset in enumerate(offsets)
            ]
        row_bytes, runs = self.width * self._pixel, []
        for row, offset in enumerate(offsets):
            if (
                runs
                and offset is not None
                and runs[-1][2] is not None
                and offset == runs[-1][2] + runs[-1][1] * row_bytes
            ):
                runs[-1] = (runs[-1][0], runs[-1][1] + 1, runs[-1][2])
            else:
                runs.append((row, 1, offset))
        return runs

    def flush(self) -> None:
        """Write buffered data to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class HeldPixels:
    """Pixels in memory, initially zeros, with the interface of `RawPixels`."""

    def __init__(self, *, height: int, width: int, bands: int, dtype: np.dtype) -> None:
        self.width, self.bands, self.dtype = width, bands, dtype
        self.array = np.zeros((height, width, bands), dtype)

    def read(self, window: Window) -> NDArray[Any]:
        """Read (h, w, bands), as a copy."""
        rows = slice(window.top, window.top + window.height)
        return self.array[rows, window.left : window.left + window.width].copy()

    def write(self, top: int, left: int, pixels: NDArray[Any]) -> None:
        """Write (h, w, bands)."""
        self.array[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels

    def flush(self) -> None:
        """Do nothing, as there is no file."""

    def close(self) -> None:
        """Do nothing, as there is no file."""


class RawRaster(Raster):
    """An image whose pixels are uncompressed in a file, or were unpacked into one."""

    def __init__(self, path: Path, layout: Layout, pixels: RawPixels) -> None:
        super().__init__(path, layout)
        self._pixels = pixels

    def _read(self, window: Window) -> NDArray[Any]:
        return self._pixels.read(window)

    def close(self) -> None:
        super().close()
        self._pixels.close()


def allocate(path: Path, size: int) -> None:
    """Create a file of `size` zero bytes and reserve its disk space. Raises OSError if there is not enough space."""
    with path.open("wb", buffering=0) as file:
        try:
            if hasattr(os, "posix_fallocate"):
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                    return
                except OSError as error:
                    if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
                        raise
            zeros = bytes(1 << 20)
            done = 0
            while done < size:
                done += file.write(zeros[: min(len(zeros), size - done)])
        except OSError:
            file.truncate(0)  # frees the space
            raise
