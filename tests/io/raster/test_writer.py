"""Pixels written by windows are read back unchanged, even after a kill or a full disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from visionzoo.io.image import load_image
from visionzoo.io.raster import (
    RasterError,
    RasterProfile,
    RasterWriter,
    decoded,
    encode_tiff,
    open_raster,
    writer,
)
from visionzoo.io.raster import raw as raster_raw

from .files import TYPES, check_windows, noise, smooth, whole, write


@pytest.mark.parametrize("extension", [".tif", ".zarr", ".npy"])
@pytest.mark.parametrize("dtype", TYPES)
def test_round_trip(tmp_path: Path, extension: str, dtype: str) -> None:
    pixels = noise(101, 90, 4, dtype=dtype)
    write(tmp_path / f"a{extension}", pixels)
    check_windows(tmp_path / f"a{extension}", pixels)


@pytest.mark.parametrize("extension", [".tif", ".zarr", ".npy"])
def test_round_trip_of_several_tiles(tmp_path: Path, extension: str) -> None:
    for bands in (1, 6):
        pixels = noise(301, 530, bands)
        write(tmp_path / f"a{bands}{extension}", pixels)
        check_windows(tmp_path / f"a{bands}{extension}", pixels)


@pytest.mark.parametrize(("bands", "alpha"), [(1, None), (2, 1), (3, None), (4, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("large", [False, True])
def test_round_trip_of_png(
    tmp_path: Path, bands: int, alpha: int | None, dtype: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(decoded, "SMALL_PIXELS", 100)
        monkeypatch.setattr(writer, "SMALL_PIXELS", 100)
    pixels = noise(120, 90, bands, dtype=dtype)
    write(tmp_path / "a.png", pixels, alpha=alpha)
    check_windows(tmp_path / "a.png", pixels)
    with open_raster(tmp_path / "a.png") as raster:
        assert raster.alpha == alpha


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.webp"])
@pytest.mark.parametrize("large", [False, True])
def test_lossy_formats(tmp_path: Path, name: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:
        monkeypatch.setattr(writer, "SMALL_PIXELS", 100)
    write(tmp_path / name, smooth(300, 200))
    assert np.abs(load_image(tmp_path / name).astype(int) - smooth(300, 200)).max() <= 8
    assert np.abs(whole(tmp_path / name).astype(int) - smooth(300, 200)).max() <= 8


def test_grey_jpeg(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", smooth(300, 200)[..., :1])
    assert whole(tmp_path / "a.jpg").shape == (300, 200, 1)


def test_bigtiff_when_it_may_exceed_4_gb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(encode_tiff, "_CLASSIC_LIMIT", 10_000)
    write(tmp_path / "a.tif", noise(100, 100, 3))
    assert (tmp_path / "a.tif").read_bytes()[:4] == b"II+\0"
    check_windows(tmp_path / "a.tif", noise(100, 100, 3))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.jpg", {"dtype": "uint16"}, r"\.jpg holds uint8, the image is uint16; choose \.tif"),
        ("a.jpg", {"bands": 4}, r"holds 1 or 3 bands, the image has 4; choose \.tif"),
        ("a.jpg", {"width": 65501}, r"up to 65500 pixels per side"),
        ("a.webp", {"height": 16384}, r"up to 16383 pixels per side"),
        ("a.webp", {"dtype": "float32"}, r"holds uint8, the image is float32"),
        ("a.png", {"bands": 5}, r"holds 1, 2, 3 or 4 bands, the image has 5"),
        ("a.png", {"dtype": "float32"}, r"holds uint8 or uint16, the image is float32"),
        ("a.png", {"bands": 4}, r"band 3 would be shown as alpha"),
        ("a.png", {"bands": 4, "alpha": 3, "profile": RasterProfile(premultiplied=True)}, "premultiplied"),
        ("a.tif", {"bands": 4, "alpha": 4}, "band 4 cannot be alpha"),
        ("a.tif", {"dtype": "complex64"}, "holds complex values"),
        ("a.tif", {"height": 0}, "must be at least 1"),
        ("a.bmp", {}, r"unknown extension \.bmp; choose one of \.tif"),
        ("a", {}, r"unknown extension \(none\)"),
        ("none/a.tif", {}, "the folder .* does not exist"),
        ("none/a.zarr", {}, "the folder .* does not exist"),
        ("there.tif", {}, "exists already"),
        ("there.zarr", {}, "exists already"),
        ("folder.tif", {"overwrite": True}, "is a folder"),
    ],
)
def test_refused_before_any_work(tmp_path: Path, name: str, options: dict[str, Any], message: str) -> None:
    (tmp_path / "there.tif").write_bytes(b"x")
    (tmp_path / "there.zarr").mkdir()
    (tmp_path / "folder.tif").mkdir()
    shape: dict[str, Any] = {"height": 40, "width": 50, "bands": 3, "dtype": "uint8"}
    with pytest.raises(RasterError, match=message) as caught:
        RasterWriter(tmp_path / name, **(shape | options), work=tmp_path / "work")
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("extension", [".tif", ".zarr", ".png"])
def test_an_existing_output_is_replaced_at_the_end_only(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a{extension}"
    old, new = noise(40, 50, 3), noise(60, 70, 3, seed=1)
    write(path, old)
    with RasterWriter(path, height=60, width=70, bands=3, dtype="uint8", work=tmp_path / "work", overwrite=True) as out:
        out.write(0, 0, new)
        assert np.array_equal(whole(path), old)
        out.finish()
    assert np.array_equal(whole(path), new)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, f"{path.name}.work", "work"}  # nothing left behind


def test_wrong_windows_are_refused(tmp_path: Path) -> None:
    with RasterWriter(tmp_path / "a.tif", height=40, width=50, bands=3, dtype="uint8", work=tmp_path / "work") as out:
        for top, left, pixels in [
            (0, 0, noise(10, 10, 2)),
            (0, 0, noise(10, 10, 3, dtype="uint16")),
            (0, 0, noise(10, 10)),
            (35, 0, noise(10, 10, 3)),
            (0, -1, noise(10, 10, 3)),
        ]:
            with pytest.raises(RasterError, match=r"a\.tif: "):
                out.write(top, left, pixels)


def test_a_killed_writer_resumes(tmp_path: Path) -> None:
    script = f"""
        import os, signal
        import numpy as np
        from visionzoo.io.raster import RasterWriter
        out = RasterWriter({str(tmp_path / "a.tif")!r}, height=300, width=200, bands=3, dtype="uint8",
                           work={str(tmp_path / "work")!r})
        assert not out.resumed
        out.write(0, 0, np.full((150, 200, 3), 7, np.uint8))
        out.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == -9
    assert not (tmp_path / "a.tif").exists()
    shape: dict[str, Any] = {"height": 300, "width": 200, "bands": 3, "dtype": "uint8", "work": tmp_path / "work"}
    with RasterWriter(tmp_path / "a.tif", **shape) as out:
        assert out.resumed
        out.write(150, 0, np.full((150, 200, 3), 9, np.uint8))
        out.finish()
    pixels = whole(tmp_path / "a.tif")
    assert (pixels[:150] == 7).all()
    assert (pixels[150:] == 9).all()
    others: list[dict[str, Any]] = [{"height": 301}, {"bands": 1}, {"dtype": "uint16"}]
    for other in others:
        with pytest.raises(RasterError, match=r"work: holds another unfinished image \(200 x 300 .*delete that folder"):
            RasterWriter(tmp_path / "b.tif", **(shape | other))
    os.truncate(tmp_path / "work" / "pixels.raw", 100)
    with pytest.raises(RasterError, match="unfinished image in it is damaged; delete that folder"):
        RasterWriter(tmp_path / "b.tif", **shape)
    (tmp_path / "work" / "pixels.json").unlink()  # killed while the room was taken
    with RasterWriter(tmp_path / "b.tif", **shape) as out:
        assert not out.resumed


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    shape: dict[str, Any] = {"height": 300, "width": 200, "bands": 3, "dtype": "uint8", "work": tmp_path / "work"}
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full, raising=False)
        with pytest.raises(RasterError, match="work: the disk is full; free some space"):
            RasterWriter(tmp_path / "a.tif", **shape)
        assert not (tmp_path / "work" / "pixels.raw").exists()
    with RasterWriter(tmp_path / "a.tif", **shape) as out:
        out.write(0, 0, noise(300, 200, 3))
        with monkeypatch.context() as patch:
            patch.setattr(raster_raw.RawPixels, "write", full)
            with pytest.raises(RasterError, match="the disk is full"):
                out.write(0, 0, noise(300, 200, 3))
        with monkeypatch.context() as patch:
            patch.setattr(tifffile.TiffWriter, "write", full)
            with pytest.raises(RasterError, match=r"a\.tif: the disk is full; free some space"):
                out.finish()
        assert [p.name for p in tmp_path.iterdir()] == ["work"]
        out.finish()
    assert np.array_equal(whole(tmp_path / "a.tif"), noise(300, 200, 3))


def test_a_file_system_without_preallocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    write(tmp_path / "a.npy", noise(800, 500, 3))
    check_windows(tmp_path / "a.npy", noise(800, 500, 3))
