"""Rasters: any depth, pixels without data, more bands than colours, zarr."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

import tifffile

from visionzoo.errors import InputError
from visionzoo.models.dehazexl import DehazeXL
from visionzoo.pipelines.dehaze import DehazePipeline

from ...command import run
from .images import NODATA, eight_bits, forward, geotiff, names, view


def test_sixteen_bits(pipe: DehazePipeline, network: DehazeXL, tmp_path: Path) -> None:
    pixels = view(280, 300).astype(np.uint16) * 10 + 500
    source = geotiff(tmp_path / "in.tif", pixels)
    pipe.run(source, tmp_path / "out.tif", progress=False, limits=(400, 4400))
    want = (forward(network, (pixels - 400.0) / 4000) * 4000 + 400).clip(0, 65535)
    assert np.abs(tifffile.imread(tmp_path / "out.tif") - want).max() < 1
    pipe.run(source, tmp_path / "found.tif", progress=False)
    options = json.loads((tmp_path / "found.tif.json").read_text())["options"]
    assert options["black"] == pytest.approx(pixels.min(), abs=30)
    assert options["white"] == pytest.approx(pixels.max(), abs=30)
    with pytest.raises(InputError, match=r"o\.jpg: \.jpg holds uint8, the image is uint16; choose \.tif"):
        pipe.run(source, tmp_path / "o.jpg", progress=False)
    assert names(tmp_path) == ["found.tif", "in.tif", "out.tif"]


def test_floats_outside_of_0_to_1(pipe: DehazePipeline, network: DehazeXL, tmp_path: Path) -> None:
    """Values beyond black and white pass unchanged; within [0, 1], nothing is stretched."""
    pixels = view(260, 270).astype(np.float32) / 255 * 3 - 1
    source = geotiff(tmp_path / "in.tif", pixels)
    pipe.run(source, tmp_path / "out.tif", progress=False, limits=(0, 1))
    assert np.abs(tifffile.imread(tmp_path / "out.tif") - forward(network, pixels)).max() < 1e-4
    geotiff(source, view(260, 270).astype(np.float32) / 255 * 0.9)
    pipe.run(source, tmp_path / "out.tif", progress=False, overwrite=True)
    options = json.loads((tmp_path / "out.tif.json").read_text())["options"]
    assert (options["black"], options["white"]) == (0, 1)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_missing_pixels_stay(pipe: DehazePipeline, tmp_path: Path, dtype: type) -> None:
    """No-data and NaN stay bit-equal, and other pixels never become no-data."""
    pixels = (view(300, 520).astype(np.uint16) * 12 + 1).astype(dtype)
    gone = np.zeros((300, 520), bool)
    gone[:40] = gone[100:110, 200:] = True
    pixels[gone] = 0
    holes = np.zeros_like(gone)
    if dtype == np.float32:
        holes[150:160] = True
        pixels[holes, 1] = np.nan
    pipe.run(geotiff(tmp_path / "in.tif", pixels, "0"), tmp_path / "out.tif", progress=False)
    got = tifffile.imread(tmp_path / "out.tif")
    assert got[gone | holes].tobytes() == pixels[gone | holes].tobytes()
    assert np.isfinite(got[~holes]).all()
    assert (got[~gone & ~holes] != 0).all(), "a result of exactly 0 would be no data"
    assert (got != pixels)[~gone & ~holes].mean() > 0.9
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert float(file.pages[0].tags[NODATA].value) == 0  # pyright: ignore


def test_missing_tiles_change_nothing_else(pipe: DehazePipeline, network: DehazeXL, tmp_path: Path) -> None:
    pixels = view(256, 512).astype(np.uint16) * 10 + 1
    pixels[:, 256:] = 0
    pipe.run(geotiff(tmp_path / "in.tif", pixels, "0"), tmp_path / "out.tif", progress=False, limits=(0, 2551))
    want = (forward(network, pixels[:, :256] / 2551) * 2551).clip(1, 65535)
    got = tifffile.imread(tmp_path / "out.tif")
    assert np.abs(got[:, :256] - want).max() < 1
    assert (got[:, 256:] == 0).all()


def test_nothing_there(pipe: DehazePipeline, tmp_path: Path) -> None:
    """Images without a single valid pixel are returned unchanged; one with very few is dehazed."""
    empty = np.full((300, 280, 3), 7, np.uint16)
    pipe.run(geotiff(tmp_path / "in.tif", empty, "7"), tmp_path / "out.tif", progress=False)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), empty)
    clear = np.dstack([view(280, 300), np.zeros((280, 300), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "in.png")
    pipe.run(tmp_path / "in.png", tmp_path / "out.png", progress=False)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), clear)
    empty[1, 1], empty[277, 2] = 100, 900
    pipe.run(geotiff(tmp_path / "in.tif", empty, "7"), tmp_path / "out.tif", progress=False, overwrite=True)
    changed = (tifffile.imread(tmp_path / "out.tif") != empty).any(-1)
    assert set(zip(*np.nonzero(changed), strict=True)) <= {(1, 1), (277, 2)}


def test_other_bands_stay(capsys: pytest.CaptureFixture, network: DehazeXL, weights: Path, tmp_path: Path) -> None:
    """--bands 3,2,1: blue comes first in the file, and infrared is not touched."""
    pixels = view(256, 260, bands=5)
    source = geotiff(tmp_path / "in.tif", pixels, photometric="minisblack")
    words = ["dehaze", source, "--checkpoint", weights, "--bands", "3,2,1"]
    assert run(capsys, *words, "-o", tmp_path / "out.tif")[0] == 0
    got = tifffile.imread(tmp_path / "out.tif")
    assert np.array_equal(got[..., 3:], pixels[..., 3:])
    want = eight_bits(forward(network, pixels[..., [2, 1, 0]] / 255))
    assert np.abs(got[..., [2, 1, 0]] - want).max() <= 1
    assert run(capsys, *words[:4], "--bands", "5", "-o", tmp_path / "grey.tif")[0] == 0
    got = tifffile.imread(tmp_path / "grey.tif")
    assert np.array_equal(got[..., :4], pixels[..., :4])
    assert not np.array_equal(got[..., 4], pixels[..., 4])


def test_zarr(pipe: DehazePipeline, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    Image.fromarray(view(50, 60)).save(tmp_path / "in.png")
    pipe.run(tmp_path / "in.png", tmp_path / "out.zarr", progress=False)
    pipe.run(tmp_path / "in.png", tmp_path / "out.png", progress=False)
    want = np.asarray(Image.open(tmp_path / "out.png"))
    assert np.array_equal(zarr.open(store=str(tmp_path / "out.zarr"), mode="r")[:], want)
    with pytest.raises(InputError, match="exists already"):
        pipe.run(tmp_path / "in.png", tmp_path / "out.zarr", progress=False)
    pipe.run(tmp_path / "out.zarr", tmp_path / "back.png", progress=False)
    pipe.run(tmp_path / "in.png", tmp_path / "out.zarr", progress=False, overwrite=True)
