"""Rasters for tests."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from visionzoo.io.raster import RasterWriter, Window, open_raster

TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64")

GEO = [
    (33550, 12, 3, (10.0, 10.0, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 399960.0, 5700000.0, 0.0), True),
    (34735, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True),
    (42113, 2, 0, "-9999", True),
]
"""Tags of a GeoTIFF: pixels of 10 x 10 metres in EPSG:32633, no-data -9999."""


def noise(*shape: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return (rng.standard_normal(shape) * 100).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def smooth(height: int, width: int) -> np.ndarray:
    """An image that JPEG hardly changes, (H, W, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], -1).astype(np.uint8)


def whole(path: Path, **options: Any) -> np.ndarray:
    with open_raster(path, **options) as raster:
        return raster.read(Window(0, 0, raster.height, raster.width))


def check_windows(path: Path, expected: np.ndarray, **options: Any) -> None:
    """Check that windows of many positions and sizes are slices of the expected array."""
    with open_raster(path, **options) as raster:
        assert (raster.height, raster.width, raster.bands) == expected.shape
        assert raster.dtype == expected.dtype
        rng = np.random.default_rng(1)
        windows = [Window(0, 0, raster.height, raster.width), Window(raster.height - 1, raster.width - 1, 1, 1)]
        for _ in range(6):
            height, width = rng.integers(1, raster.height + 1), rng.integers(1, raster.width + 1)
            top, left = rng.integers(0, raster.height - height + 1), rng.integers(0, raster.width - width + 1)
            windows.append(Window(int(top), int(left), int(height), int(width)))
        for window in windows:
            pixels = raster.read(window)
            assert pixels.flags.c_contiguous
            assert pixels.flags.writeable
            assert pixels.dtype == expected.dtype
            assert np.array_equal(
                pixels,
                expected[window.top : window.top + window.height, window.left : window.left + window.width],
                equal_nan=expected.dtype.kind == "f",
            ), window


def write(path: Path, pixels: np.ndarray, **options: Any) -> None:
    """Write by windows that do not fit any grid, in an odd order."""
    height, width, bands = pixels.shape
    work = path.with_name(f"{path.name}.work")
    with RasterWriter(path, height=height, width=width, bands=bands, dtype=pixels.dtype, work=work, **options) as out:
        for top in reversed(range(0, height, 100)):
            for left in range(0, width, 70):
                out.write(top, left, pixels[top : top + 100, left : left + 70])
        out.finish()


def copy(source: Path, target: Path, **options: Any) -> np.ndarray:
    """Copy a raster with all its metadata, as `visionzoo dehaze` does; returns the pixels."""
    with open_raster(source) as raster:
        pixels = raster.read(Window(0, 0, raster.height, raster.width))
        about = {"profile": raster.profile, "nodata": raster.nodata, "alpha": raster.alpha}
        write(target, pixels, **(about | options))
    return pixels


def tiff(path: Path, tags: dict[int, tuple[str, Any]], data: bytes, order: str = "<") -> None:
    """A hand-made TIFF with one page and one strip.

    Args:
        tags: by code, with the letter of `struct` for the type ("B", "H", "L"; "U": undefined) and a value or a tuple of values.
    """
    kinds = {"B": 1, "H": 3, "L": 4, "U": 7, "R": 5}
    entries, beyond = [], b""
    tags = {273: ("L", 8), 279: ("L", len(data))} | tags
    end = 8 + len(data) + len(data) % 2
    values_at = end + 2 + 12 * len(tags) + 4
    for code, (kind, value) in sorted(tags.items()):
        values = value if isinstance(value, tuple) else (value,)
        letter = {"U": "B", "R": "L"}.get(kind, kind)
        packed = struct.pack(f"{order}{len(values)}{letter}", *values)
        count = len(values) // (2 if kind == "R" else 1)
        if len(packed) > 4:
            place, beyond = values_at + len(beyond), beyond + packed + bytes(len(packed) % 2)
            packed = struct.pack(order + "L", place)
        entries.append(struct.pack(order + "HHL", code, kinds[kind], count) + packed.ljust(4, b"\0"))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", end)
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    path.write_bytes(head + data + bytes(len(data) % 2) + directory + beyond)


def page(height: int, width: int, *, bits: int | tuple[int, ...] = 8, photometric: int | None = 1, samples: int = 1,
         compression: int = 1) -> dict[int, tuple[str, Any]]:  # fmt: skip
    """The tags that every page has."""
    tags: dict[int, tuple[str, Any]] = {
        256: ("L", width),
        257: ("L", height),
        258: ("H", bits if isinstance(bits, tuple) else (bits,) * samples),
        259: ("H", compression),
        277: ("H", samples),
        278: ("L", height),
    }
    return tags if photometric is None else tags | {262: ("H", photometric)}


def packed(values: np.ndarray, bits: int) -> bytes:
    """Rows of (H, n) integers with the given number of bits each, padded to whole bytes."""
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint64)
    spread = (values.astype(np.uint64)[..., None] >> shifts & np.uint64(1)).astype(np.uint8)
    return np.packbits(spread.reshape(len(values), -1), axis=1).tobytes()


def imwrite(path: Path, pixels: np.ndarray, **options: Any) -> None:
    """`tifffile.imwrite` without its own description."""
    tifffile.imwrite(path, pixels, **({"metadata": None, "software": False} | options))
