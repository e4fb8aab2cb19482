"""Memory: decoded pixels are kept only as long as windows need them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tifffile

from visionzoo.io.raster import (
    Window,
    open_raster,
    tiff,
)
from visionzoo.io.raster import base as raster_base

from .files import GEO, check_windows, noise


def test_strips_too_large_for_memory_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "LARGEST_STRIP", 1000)
    pixels = noise(200, 130, 3, dtype="uint16")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", compression="zlib", rowsperstrip=200, extratags=GEO)
    check_windows(tmp_path / "a.tif", pixels, scratch=tmp_path / "scratch")
    with open_raster(tmp_path / "a.tif") as raster:
        assert len(raster.profile.tags) == 3
    assert not any((tmp_path / "scratch").iterdir())


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster_base, "CACHE_BYTES", (0, 40_000))
    pixels = noise(512, 512, 3)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", compression="zlib", tile=(64, 64))
    with open_raster(tmp_path / "a.tif") as raster:
        assert np.array_equal(raster.read(Window(0, 0, 512, 512)), pixels)
        assert sum(block.nbytes for block in raster._kept.values()) <= 40_000


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("extension", "side", "limit"),
    [
        (".tif", 4096, 25),
        (".zarr", 4096, 25),
        (".png", 8192, 150),  # libvips has buffers of its own
    ],
)
def test_memory_does_not_grow_with_the_image(tmp_path: Path, extension: str, side: int, limit: int) -> None:
    """4096 x 4096 x 3 is 50 MB, 8192 x 8192 x 3 201 MB; reading and writing it by windows, with small caches, takes less."""
    kind = (
        "RssAnon:" if extension == ".png" else "VmHWM:"
    )  # libvips maps the staged file, whose pages do not count as the program's own
    tile = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 256, 3))
    tifffile.imwrite(
        tmp_path / "in.tif",
        (np.roll(tile, number, axis=0) for number in range((side // 256) ** 2)),
        shape=(side, side, 3),
        dtype="uint8",
        photometric="rgb",
        tile=(256, 256),
        compression="packbits",
    )
    script = f"""
        import threading, time
        import numpy as np, tifffile, imagecodecs, pyvips, zarr
        from visionzoo.io.raster import RasterWriter, Window, base, encode_tiff, open_raster
        base.CACHE_BYTES = (1 << 20, 8 << 20)
        encode_tiff._IN_FLIGHT = 1 << 20
        def memory():
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith({kind!r}))
        def copy(side, name):
            with open_raster({str(tmp_path / "in.tif")!r}) as raster, RasterWriter(
                {str(tmp_path)!r} + "/" + name + {extension!r}, height=side, width=side, bands=3, dtype=raster.dtype,
                profile=raster.profile, work={str(tmp_path)!r} + "/work" + name) as out:
                for top in range(0, side, 256):
                    for left in range(0, side, 256):
                        out.write(top, left, raster.read(Window(top, left, 256, 256)))
                out.finish()
        copy(512, "first")  # loads what is loaded late
        most = before = memory()
        def watch():
            global most
            while True:
                most = max(most, memory())
                time.sleep(0.005)
        threading.Thread(target=watch, daemon=True).start()
        copy({side}, "out")
        print(max(most, memory()) - before)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True, text=True, timeout=600
    )
    print(extension, ran.stdout)
    assert float(ran.stdout) < limit
    with open_raster(tmp_path / "in.tif") as source, open_raster(tmp_path / f"out{extension}") as copy:
        for top, left in ((0, 0), (4000, 3000), (side - 300, side - 300)):
            window = Window(top, left, min(300, side - top), 300)
            assert np.array_equal(source.read(window), copy.read(window))
