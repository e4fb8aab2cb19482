"""Images of any type to the network and back: values keep their meaning, and missing pixels stay missing."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

import tifffile

from visionzoo.errors import InputError
from visionzoo.io.raster import Raster, RasterWriter, Window, open_raster
from visionzoo.models.dehazexl.rasters import RasterImage, RasterResult, Scaling, all_windows, sample_windows

INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


def raster(path: Path, pixels: np.ndarray, nodata: str | None = None, **more: object) -> Raster:
    tags = [(42113, 2, 0, nodata, True)] if nodata is not None else None
    kind = "rgb" if pixels.shape[2] in (3, 4) else "minisblack"
    options = {"photometric": kind, "planarconfig": "contig"} | more
    tifffile.imwrite(path, pixels[..., 0] if pixels.shape[2] == 1 else pixels, metadata=None, extratags=tags, **options)  # pyright: ignore[reportArgumentType]
    return open_raster(path)


def result(image: RasterImage, folder: Path) -> RasterResult:
    shape = {name: getattr(image.raster, name) for name in ("height", "width", "bands", "dtype", "nodata", "alpha")}
    return RasterResult(image, RasterWriter(folder / "out.tif", **shape, work=folder / "work"))


# Values


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_round_trip(dtype: str) -> None:
    """Every value between black and white, and both ends of the type for values far beyond."""
    limits = np.iinfo(dtype)
    low = max(limits.min, limits.max - 70_000) if np.dtype(dtype).itemsize < 8 else limits.max // 2
    values = np.unique(np.linspace(low, min(limits.max, low + 60_000), 500).astype(dtype))
    scaling = Scaling(float(values.min()), float(values.max()), np.dtype(dtype))
    unit = scaling.to_unit(values)
    assert unit.dtype == torch.float32
    assert (float(unit.min()), float(unit.max())) == (0, 1)
    back = scaling.from_unit(unit.numpy())
    assert back.dtype == dtype
    # doubles above 2^62 have steps of up to 1024
    assert np.abs(back.astype(object) - values.astype(object)).max() <= (0 if values.itemsize < 8 else 1024)
    beyond = scaling.from_unit(np.array([-1e20, 1e20], np.float32))
    assert beyond[0] == limits.min
    assert limits.max - beyond[1] <= limits.max / 2**52


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_round_trip(dtype: str) -> None:
    values = np.linspace(-3, 900, 400).astype(dtype)
    scaling = Scaling(10, 500, np.dtype(dtype))
    back = scaling.from_unit(scaling.to_unit(values).numpy())
    assert back.dtype == dtype
    assert np.allclose(back, values, rtol=1e-3 if dtype == "float16" else 1e-6, atol=1e-4)
    assert np.isfinite(scaling.from_unit(np.array([-1e6, 1e6], np.float32))).all()


@given(low=st.floats(-1e9, 1e9), width=st.floats(1e-2, 1e6))
def test_small_differences_at_large_values(low: float, width: float) -> None:
    """Heights above sea level, times since an epoch, …: a large offset does not cost precision."""
    scaling = Scaling(low, low + width, np.dtype(np.float64))
    values = low + width * np.linspace(0, 1, 11)
    assert np.allclose(scaling.to_unit(values).numpy(), np.linspace(0, 1, 11), atol=1e-4)


@pytest.mark.parametrize(
    ("values", "want"),
    [
        (np.linspace(0, 255, 4096).astype(np.uint8), (0, 255)),
        (np.linspace(3, 9, 4096).astype(np.uint8), (0, 255)),
        (np.linspace(0, 0.9, 4096, dtype=np.float32), (0, 1)),
        (np.linspace(0, 0.01, 4096, dtype=np.float32), (0, 0.01)),
        (np.linspace(-1, 1, 4096, dtype=np.float32), (-1, 1)),
        (np.linspace(200, 3000, 4096).astype(np.uint16), (200, 3000)),
        (np.linspace(-90, 40, 4096).astype(np.int16), (-90, 40)),
    ],
)
def test_black_and_white_are_found(tmp_path: Path, values: np.ndarray, want: tuple[float, float]) -> None:
    mixed = np.random.RandomState(0).permutation(values.repeat(16)).reshape(256, 256, 1)
    scaling = RasterImage(raster(tmp_path / "a.tif", mixed)).scaling
    assert (scaling.low, scaling.high) == pytest.approx(want, abs=0.02 * (want[1] - want[0]))


def test_a_few_outliers_are_ignored(tmp_path: Path) -> None:
    pixels = np.random.RandomState(0).randint(100, 200, (300, 300, 3)).astype(np.uint16)
    pixels[100] = 101
    pixels[4, 4] = 65535
    scaling = RasterImage(raster(tmp_path / "a.tif", pixels)).scaling
    assert 90 < scaling.low < scaling.high < 210


def test_statistics_of_large_images_cover_the_whole_image(tmp_path: Path) -> None:
    """A tall image of two columns of windows, the left one empty: every other window would be empty."""
    tall = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint16, (256 * 300, 512))
    tall.flush()
    with open_raster(tmp_path / "a.npy") as opened:
        windows = list(sample_windows(opened))
        assert len(windows) == 256
        assert {window.left for window in windows} == {0, 256}
        assert windows == list(sample_windows(opened)), "unfinished work depends on it"
    with raster(tmp_path / "b.tif", np.zeros((300, 520, 3), np.uint8)) as opened:
        seen = np.zeros((300, 520), int)
        for window in all_windows(opened):
            seen[window.top : window.top + window.height, window.left : window.left + window.width] += 1
        assert (seen == 1).all()
        assert list(sample_windows(opened)) == list(all_windows(opened))


# Bands


@pytest.mark.parametrize(
    ("bands", "more", "want"),
    [(1, {}, [0]), (2, {}, [0]), (3, {}, [0, 1, 2]), (5, {}, [0, 1, 2]), (4, {"extrasamples": [2]}, [0, 1, 2]),
     (2, {"extrasamples": [2]}, [0])],
)  # fmt: skip
def test_which_bands_are_colours(tmp_path: Path, bands: int, more: dict, want: list[int]) -> None:
    image = RasterImage(raster(tmp_path / "a.tif", np.ones((20, 30, bands), np.uint8), **more))
    assert image.bands == want
    window = image.read(0, 0, 20, 30)
    assert window is not None
    assert window.shape == (3, 20, 30)


@pytest.mark.parametrize("bands", [(), (0, 1), (0, 1, 3), (0, 1, -1), (1, 1, 2), (0, 1, 2, 2)])
def test_invalid_bands(tmp_path: Path, bands: tuple[int, ...]) -> None:
    pixels = np.ones((8, 8, 4), np.uint8)
    with pytest.raises(InputError, match=r"a\.tif: has 3 bands of colours"):
        RasterImage(raster(tmp_path / "a.tif", pixels, extrasamples=[2]), bands)


@pytest.mark.parametrize("limits", [(1, 1), (2, 1), (0, np.inf), (np.nan, 1)])
def test_invalid_limits(tmp_path: Path, limits: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="the lower first"):
        RasterImage(raster(tmp_path / "a.tif", np.ones((8, 8, 3), np.uint8)), limits=limits)


# Missing parts


def test_missing_pixels(tmp_path: Path) -> None:
    """No-data in every colour, NaN in one, no alpha; no-data in one colour only is a dark red."""
    pixels = np.full((2, 4, 4), 5, np.float32)
    pixels[0, 0, :3] = -9
    pixels[0, 1, 0] = -9
    pixels[0, 2, 1] = np.nan
    pixels[0, 3, 2] = np.inf
    pixels[1, 0, 3] = 0
    image = RasterImage(raster(tmp_path / "a.tif", pixels, "-9", extrasamples=[2]), limits=(0, 10))
    there = image.read_valid(Window(0, 0, 2, 4))[1]
    assert there.tolist() == [[False, True, False, False], [False, True, True, True]]
    assert image.shows_something()
    window = image.read(0, 0, 2, 4)
    assert window is not None
    mean = (torch.from_numpy(pixels[..., :3][there]).mean(0) / 10).tolist()
    assert window[:, 0, 0].tolist() == window[:, 0, 3].tolist() == pytest.approx(mean)
    assert image.read(0, 2, 1, 2) is None
    assert RasterImage(raster(tmp_path / "b.tif", np.full((9, 9, 3), np.nan, np.float32))).shows_something() is False


@pytest.mark.parametrize(
    ("dtype", "nodata", "result_is"),
    [("uint8", 0, 1), ("uint8", 255, 254), ("int16", -5, -4), ("uint16", 65535, 65534)],
)
def test_a_result_is_never_no_data(tmp_path: Path, dtype: str, nodata: int, result_is: int) -> None:
    pixels = np.full((4, 4, 3), 100, dtype)
    pixels[0] = nodata
    image = RasterImage(raster(tmp_path / "a.tif", pixels, str(nodata)), limits=(0, 200))
    sink = result(image, tmp_path)
    sink.write(0, 0, torch.full((3, 4, 4), nodata / 200))
    got = sink.writer.read(Window(0, 0, 4, 4))
    assert (got[0] == nodata).all()
    assert (got[1:] == result_is).all()


def test_other_bands_and_pixels_stay_unchanged(tmp_path: Path) -> None:
    pixels = np.random.RandomState(0).randint(1, 255, (6, 5, 5)).astype(np.uint8)
    image = RasterImage(raster(tmp_path / "a.tif", pixels), (3, 0, 1))
    sink = result(image, tmp_path)
    sink.write(2, 1, torch.stack([torch.full((2, 3), value) for value in (0.0, 0.2, 1.0)]))
    sink.keep(0, 0, 1, 5)
    got = sink.writer.read(Window(0, 0, 6, 5))
    assert np.array_equal(got[2:4, 1:4, [2, 4]], pixels[2:4, 1:4, [2, 4]])
    assert (got[2:4, 1:4, [3, 0, 1]] == [0, 51, 255]).all()
    assert np.array_equal(got[0], pixels[0])
    assert sink.read(2, 1, 2, 3)[:, 0, 0].tolist() == pytest.approx([0, 0.2, 1])
    sink.keep_all()
    assert np.array_equal(sink.writer.read(Window(0, 0, 6, 5)), pixels)


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    sink = result(RasterImage(raster(tmp_path / "a.tif", np.ones((4, 4, 3), np.uint8))), tmp_path)
    with pytest.raises(InputError, match=r"a\.tif: the network gives no finite numbers; try --dtype float32"):
        sink.write(0, 0, torch.full((3, 4, 4), torch.nan))


@pytest.mark.parametrize("value", [-1e37, 3.4e38, np.finfo(np.float32).min, 1e30])
@pytest.mark.parametrize("declared", [None, "-3.40282e+38", "-9999"])
def test_fill_values_are_missing_whatever_is_declared(tmp_path: Path, value: float, declared: str | None) -> None:
    pixels = np.linspace(100, 200, 64 * 64, dtype=np.float32).reshape(64, 64, 1).copy()
    pixels[:8, :8] = value
    opened = raster(tmp_path / "a.tif", pixels, declared)
    with pytest.warns(UserWarning, match=r"a\.tif: declares .*; values of this size are taken for missing"):
        image = RasterImage(opened)
    sink = result(image, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is reported once
        sink.write(0, 0, torch.full((3, 64, 64), 0.5))
    assert 99 < image.scaling.low < image.scaling.high < 201
    got = sink.writer.read(Window(0, 0, 64, 64))
    assert (got[:8, :8] == np.float32(value)).all()
    assert np.allclose(got[8:], (image.scaling.low + image.scaling.high) / 2)


def test_declared_fill_values_give_no_warning(tmp_path: Path) -> None:
    pixels = np.linspace(100, 200, 64 * 64, dtype=np.float32).reshape(64, 64, 1).copy()
    pixels[:8, :8] = -3.4028235e38
    with raster(tmp_path / "a.tif", pixels, "-3.4028235e+38") as opened, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert RasterImage(opened).scaling.high < 201


@pytest.mark.parametrize(
    ("dtype", "alone", "message"),
    [
        ("float32", -1e20, "their differences would be lost"),
        ("int32", -(2**31), "their differences would be lost"),
        ("uint32", 2**32 - 1, "their differences would be lost"),
        ("int16", -32768, None),
        ("uint16", 65535, None),
    ],
)
def test_one_value_far_from_all_others(tmp_path: Path, dtype: str, alone: float, message: str | None) -> None:
    """It may mean "no data": it is named, and if the differences of the others would be lost, the image is refused."""
    pixels = np.linspace(100, 1100, 64 * 64).reshape(64, 64, 1).astype(dtype)
    pixels[:8, :8] = alone
    opened = raster(tmp_path / "a.tif", pixels)
    if message is None:
        with pytest.warns(
            UserWarning, match=rf"a\.tif: 1\.6% of the sampled values are {alone:.0f}, all others .*gdal_edit"
        ):
            RasterImage(opened)
    else:
        with pytest.raises(InputError, match=rf"a\.tif: .* are -?\d.*{message}; declare it .*or give --limits"):
            RasterImage(opened)
    assert RasterImage(opened, limits=(100, 1100)).scaling.high == 1100
    declared = raster(tmp_path / "b.tif", pixels, f"{alone:.17g}")
    assert RasterImage(declared).scaling.high < 1101


def test_no_data_of_an_inverted_image(tmp_path: Path) -> None:
    """0 is white and means no data: missing pixels stay missing, with the value that they have in the result."""
    pixels = np.full((8, 8, 1), 100, np.uint8)
    pixels[:2], pixels[2:4] = 0, 255
    image = RasterImage(raster(tmp_path / "a.tif", pixels, "0", photometric="miniswhite"))
    sink = result(image, tmp_path)
    sink.write(0, 0, torch.ones((3, 8, 8)))
    got = sink.writer.read(Window(0, 0, 8, 8))
    assert sink.writer.nodata == 255
    assert (got[:2] == 255).all()
    assert (got[2:] == 254).all()


def test_masked_pixels_stay_unchanged(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 3), 100, np.uint8)
    opened = raster(tmp_path / "c.tif", pixels)
    opened.close()
    tifffile.imwrite(tmp_path / "c.tif.msk", np.repeat([0, 255], 4)[:, None].repeat(8, 1).astype(np.uint8))
    image = RasterImage(open_raster(tmp_path / "c.tif"))
    sink = result(image, tmp_path)
    sink.write(0, 0, torch.ones((3, 8, 8)))
    got = sink.writer.read(Window(0, 0, 8, 8))
    assert (got[:4] == 100).all()
    assert (got[4:] == 255).all()
    assert image.read(0, 0, 4, 8) is None
