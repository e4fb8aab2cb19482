"""Files that cannot be read completely: a one-line error names the file, and the window."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from visionzoo.io.raster import (
    RasterError,
    RasterWriter,
    Window,
    open_raster,
)

from .files import noise


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"hello, this is no image at all", "not an image"),
        (b"II*\0", "truncated or damaged"),
        (b"II*\0\x08\0\0\0", "truncated or damaged"),
        (b"II*\0\xff\xff\xff\0", "truncated or damaged"),
        (b"MM\0+\0\x08\0\0\0\0\0\0\0\0\0\x10", "truncated or damaged"),
        (b"\x93NUMPY\x01\0", "npy"),
        (b"\x93NUMPY\x01\0\x08\0{'a': (\n", "npy"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not an image|damaged"),
    ],
)
def test_files_without_an_image(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(RasterError, match=rf"a\.bin: .*({message})") as caught:
        open_raster(tmp_path / "a.bin")
    assert "\n" not in str(caught.value)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match=r"none\.tif: no such file"):
        open_raster(tmp_path / "none.tif")
    with pytest.raises(RasterError, match="is a folder, expected an image file or a zarr array"):
        open_raster(tmp_path)


@pytest.mark.parametrize(
    "window",
    [Window(0, 0, 41, 10), Window(-1, 0, 5, 5), Window(0, 55, 10, 6), Window(3, 3, 0, 5), Window(3, 3, -2, 5)],
)
def test_windows_beyond_the_image(tmp_path: Path, window: Window) -> None:
    np.save(tmp_path / "a.npy", noise(40, 60))
    with (
        open_raster(tmp_path / "a.npy") as raster,
        pytest.raises(RasterError, match="not within the image of 40 rows"),
    ):
        raster.read(window)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("blocks", [{"tile": (64, 64)}, {"rowsperstrip": 16}])
def test_a_truncated_tiff(tmp_path: Path, compression: str | None, blocks: dict[str, Any]) -> None:
    path = tmp_path / "cut.tif"
    pixels = noise(512, 512, 3)
    tifffile.imwrite(path, pixels, photometric="rgb", compression=compression, **blocks)
    os.truncate(path, path.stat().st_size // 2)
    with open_raster(path) as raster:  # the header is whole
        assert np.array_equal(raster.read(Window(0, 0, 64, 64)), pixels[:64, :64])
        with pytest.raises(
            RasterError, match=r"cut\.tif: rows 448 to 511, columns 100 to 163 cannot be read: .*the file is truncated"
        ):
            raster.read(Window(448, 100, 64, 64))


def test_damaged_tile(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(128, 128, 3), photometric="rgb", compression="zlib", tile=(64, 64))
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[3]
    content = bytearray(path.read_bytes())
    content[offset : offset + 200] = b"\x55" * 200
    path.write_bytes(content)
    with open_raster(path) as raster:
        raster.read(Window(0, 0, 64, 128))
        with pytest.raises(RasterError, match=r"rows 64 to 127, columns 64 to 127 cannot be read: tile 3 is damaged"):
            raster.read(Window(64, 64, 64, 64))


def _with_tag(path: Path, code: int, value: int) -> None:
    with tifffile.TiffFile(path, mode="r+") as file:
        page: Any = file.pages[0]
        page.tags[code].overwrite(value)


def test_absurd_sizes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(64, 64), tile=(64, 64), compression="zlib")
    _with_tag(tmp_path / "a.tif", 322, 65520)
    _with_tag(tmp_path / "a.tif", 323, 65520)
    with pytest.raises(RasterError, match=r"a\.tif: has tiles of 65520 x 65520 pixels \(4\.3 GB\); the limit"):
        open_raster(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", noise(64, 64), tile=(16, 16), compression="zlib")
    _with_tag(tmp_path / "b.tif", 257, 65000)
    with pytest.raises(RasterError, match=r"b\.tif: .*truncated or damaged"):
        open_raster(tmp_path / "b.tif")


def test_values_that_are_not_an_image(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 5), complex))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5), np.complex64))
    zarr.create_array(store=str(tmp_path / "a.zarr"), shape=(4, 5), dtype="complex64")
    for name in ("a.npy", "a.tif", "a.zarr"):
        with pytest.raises(RasterError, match=rf"{name}: holds complex values .* save the magnitude"):
            open_raster(tmp_path / name)
    np.save(tmp_path / "b.npy", np.zeros((40, 50, 60)))
    with pytest.raises(RasterError, match="has the shape 40 x 50 x 60, expected"):
        open_raster(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.asfortranarray(noise(40, 50)))
    with pytest.raises(RasterError, match="Fortran order; save it with np.ascontiguousarray"):
        open_raster(tmp_path / "c.npy")
    np.save(tmp_path / "d.npy", noise(40, 50))
    os.truncate(tmp_path / "d.npy", 1000)
    with pytest.raises(RasterError, match=r"d\.npy: .*truncated"):
        open_raster(tmp_path / "d.npy")
    group = zarr.create_group(store=str(tmp_path / "group.zarr"))
    group.create_array("0", shape=(4, 5), dtype="uint8")
    with pytest.raises(RasterError, match=r"group\.zarr: is a group of arrays, .*group\.zarr/0"):
        open_raster(tmp_path / "group.zarr")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(64, 64))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImportError, match=r"visionzoo\[raster\]"):
        open_raster(tmp_path / "a.tif")
    with pytest.raises(ImportError, match=r"visionzoo\[raster\]"):
        RasterWriter(tmp_path / "b.tif", height=4, width=4, bands=1, dtype="uint8", work=tmp_path / "w")
    assert not (tmp_path / "w").exists()
