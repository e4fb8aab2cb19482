"""zarr and .npy: read and written by windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from visionzoo.io.raster import (
    RasterError,
    Window,
    open_raster,
)

from .files import check_windows, noise


@pytest.mark.parametrize(("shape", "first"), [((70, 90), False), ((70, 90, 4), False), ((4, 70, 90), True)])
@pytest.mark.parametrize(("dtype", "version"), [("uint8", 2), (">u2", 3), ("float32", 2), ("bool", 3)])
def test_zarr(tmp_path: Path, version: int, shape: tuple[int, ...], first: bool, dtype: str) -> None:
    pixels = noise(*shape, dtype="uint8")
    pixels = pixels > 127 if dtype == "bool" else pixels.astype(dtype)
    chunks = tuple(min(32, side) for side in shape)
    array = zarr.create_array(
        store=str(tmp_path / "a.zarr"), shape=shape, chunks=chunks, dtype=pixels.dtype, zarr_format=version
    )
    array[...] = pixels
    expected = np.moveaxis(pixels, 0, 2) if first else pixels.reshape(70, 90, -1)
    expected = (
        expected.astype(np.uint8) * 255 if dtype == "bool" else expected.astype(np.dtype(dtype).newbyteorder("="))
    )
    check_windows(tmp_path / "a.zarr", expected)
    with open_raster(tmp_path / "a.zarr") as raster:
        assert raster.nodata is None  # a fill value of 0 says nothing
        assert raster.block == (32, 32)


def test_zarr_fill_value_is_no_data(tmp_path: Path) -> None:
    zarr.create_array(
        store=str(tmp_path / "a.zarr"),
        shape=(70, 90),
        chunks=(32, 32),
        dtype="int16",
        fill_value=-7,
        attributes={"a": 1},
    )
    with open_raster(tmp_path / "a.zarr") as raster:
        assert raster.nodata == -7
        assert raster.profile.attributes == {"a": 1}
    check_windows(tmp_path / "a.zarr", np.full((70, 90, 1), -7, np.int16))


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 5), (5, 40, 60)])
@pytest.mark.parametrize("dtype", ["uint8", ">i4", "float64", "bool"])
def test_npy(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    pixels = noise(*shape).astype(dtype)
    np.save(tmp_path / "a.npy", pixels)
    expected = np.moveaxis(pixels, 0, 2) if shape[0] == 5 else pixels.reshape(40, 60, -1)
    check_windows(
        tmp_path / "a.npy",
        expected.astype(np.uint8) * 255 if dtype == "bool" else expected.astype(np.dtype(dtype).newbyteorder("=")),
    )


def test_a_damaged_zarr(tmp_path: Path) -> None:
    array = zarr.create_array(store=str(tmp_path / "a.zarr"), shape=(64, 64), chunks=(32, 32), dtype="uint8")
    array[...] = noise(64, 64)
    (tmp_path / "a.zarr/c/1/1").write_bytes(b"nonsense")
    with open_raster(tmp_path / "a.zarr") as raster:
        raster.read(Window(0, 0, 32, 64))
        with pytest.raises(RasterError, match=r"a\.zarr: rows 32 to 63, columns 32 to 63 cannot be read: .*damaged"):
            raster.read(Window(32, 32, 32, 32))
    (tmp_path / "a.zarr/zarr.json").write_text("{")
    with pytest.raises(RasterError, match=r"a\.zarr: cannot be read as zarr"):
        open_raster(tmp_path / "a.zarr")
