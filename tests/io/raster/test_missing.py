"""The pixels that are missing in the source, and no others, are missing in the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from visionzoo.io.raster import (
    RasterError,
    RasterProfile,
    Window,
    open_raster,
)
from visionzoo.io.raster.missing import is_extreme

from .files import copy, imwrite, noise, packed, page, smooth, write
from .files import tiff as tiff_by_hand


def test_no_data_and_alpha_are_kept(tmp_path: Path) -> None:
    pixels = noise(40, 50, 4, dtype="float32")
    for name in ("a.tif", "a.zarr"):
        for nodata in (-9999.0, 0.0, float("nan"), -3.4028234663852886e38, 0.1):
            write(tmp_path / name, pixels, nodata=nodata, alpha=3, overwrite=True)
            with open_raster(tmp_path / name) as raster:
                assert raster.nodata == pytest.approx(nodata, nan_ok=True)
                assert raster.alpha == 3
                assert not raster.profile.premultiplied
    write(tmp_path / "b.tif", pixels, alpha=3, profile=RasterProfile(premultiplied=True))
    with open_raster(tmp_path / "b.tif") as raster:
        assert raster.profile.premultiplied
    write(tmp_path / "c.tif", noise(40, 50, 6), alpha=5, profile=RasterProfile(photometric="grey"))
    with open_raster(tmp_path / "c.tif") as raster:
        assert raster.alpha == 5
        assert raster.profile.photometric == "grey"


def tagged(path: Path, stored: np.ndarray, nodata: Any, **options: Any) -> None:
    kind = (2, 0, nodata) if isinstance(nodata, str) else (12, 1, float(nodata))
    imwrite(path, stored, extratags=[(42113, *kind, True)], **options)


def both(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The pixels, and a mask of those that are not missing in any band."""
    with open_raster(path) as raster:
        pixels, missing = raster.read_with_missing(Window(0, 0, raster.height, raster.width))
    return pixels, ~missing.all(-1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("nodata", ["0", "1", "255", "65535"])
def test_no_data_is_of_stored_values(tmp_path: Path, bits: int, photometric: int, nodata: str) -> None:
    """Missing pixels stay missing even if values change, e.g. if black and white are swapped or few bits are spread."""
    stored = np.random.default_rng(0).integers(0, 2**bits, (20, 24))
    stored[:5] = min(int(nodata), 2**bits - 1)
    tags = page(20, 24, bits=bits, photometric=photometric) | {42113: ("B", (*nodata.encode(), 0))}
    data = stored.astype(">u2").tobytes() if bits == 16 else packed(stored, bits)
    tiff_by_hand(tmp_path / "a.tif", tags, data, ">")
    there = stored != int(nodata)
    assert np.array_equal(both(tmp_path / "a.tif")[1], there)
    pixels = copy(tmp_path / "a.tif", tmp_path / "b.tif")
    again, there_again = both(tmp_path / "b.tif")
    assert np.array_equal(again, pixels)
    assert np.array_equal(there_again, there)


@pytest.mark.parametrize(
    ("dtype", "nodata", "value"),
    [
        ("int16", "-32768", -32768),
        ("int16", -9999.0, -9999),  # a number in place of a text
        ("uint8", "255.0", 255),
        ("uint8", " 7 \n", 7),
        ("uint8", "7 7 7", 7),
        ("float32", "-9999,5", -9999.5),
        ("float32", "-3.4028235e+38", np.finfo(np.float32).min),
        ("float32", "-99.99", np.float32(-99.99)),
        ("float32", "nan", np.nan),
        ("float64", "-1.#QNAN", np.nan),
        ("int64", "-9223372036854775808", -(2**63)),
    ],
)
def test_declarations(tmp_path: Path, dtype: str, nodata: Any, value: Any) -> None:
    stored = np.arange(30, 50).reshape(4, 5).astype(dtype)
    stored[0] = value
    tagged(tmp_path / "a.tif", stored, nodata)
    there = both(tmp_path / "a.tif")[1]
    assert not there[0].any()
    assert there[1:].all()


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", "-1"), ("uint8", "256"), ("uint8", "1.5"), ("int16", "1e30")])
def test_no_data_values_that_no_pixel_can_have(tmp_path: Path, dtype: str, nodata: str) -> None:
    tagged(tmp_path / "a.tif", np.array([[0, 1, 2, 100]], dtype), nodata)
    assert both(tmp_path / "a.tif")[1].all()


def test_a_no_data_value_that_is_not_a_number_is_reported(tmp_path: Path) -> None:
    tagged(tmp_path / "a.tif", noise(4, 5), "none")
    with pytest.warns(
        UserWarning, match=r"a\.tif: the tag GDAL_NODATA declares 'none' as no-data, which is not a number"
    ):
        assert both(tmp_path / "a.tif")[1].all()
    imwrite(tmp_path / "b.tif", noise(40, 50) // 255 * 0)  # without a tag, 0 is a value as any other
    assert both(tmp_path / "b.tif")[1].all()


@pytest.mark.parametrize("name", ["b.tif", "b.png", "b.jpg", "b.webp"])
def test_a_mask_is_written_if_colours_contain_the_no_data_value(tmp_path: Path, name: str) -> None:
    """Two palette entries have the same colour; a copy has a mask inside or in a sidecar, even in lossy formats."""
    stored = np.random.default_rng(0).integers(0, 4, (20, 24)).astype(np.uint8)
    table = np.array([[0, 0, 200, 255], [0, 0, 100, 255], [0, 0, 50, 255]], np.uint16) * 257
    table = np.concatenate([table, np.zeros((3, 252), np.uint16)], 1)
    tagged(tmp_path / "a.tif", stored, "1", photometric="palette", colormap=table)
    assert np.array_equal(both(tmp_path / "a.tif")[1], stored != 1)
    copy(tmp_path / "a.tif", tmp_path / name)
    assert np.array_equal(both(tmp_path / name)[1], stored != 1)
    assert (tmp_path / f"{name}.msk").exists() == (name != "b.tif")


@pytest.mark.parametrize("name", ["b.png", "b.jpg", "b.webp"])
def test_formats_without_no_data(tmp_path: Path, name: str) -> None:
    """PNG has the value in a sidecar file; lossy formats, which would blur it, have a mask."""
    stored = smooth(40, 48) // 2 + 1
    stored[:8] = 0
    tagged(tmp_path / "a.tif", stored, "0", photometric="rgb")
    copy(tmp_path / "a.tif", tmp_path / name)
    assert np.array_equal(both(tmp_path / name)[1], stored.any(-1))


@pytest.mark.parametrize("inside", [True, False])
def test_masks_go_along(tmp_path: Path, inside: bool) -> None:
    """Masks are copied from a page of a TIFF or a sidecar of any image to either of them."""
    pixels, there = noise(300, 270, 3), noise(300, 270) > 100
    if inside:
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(pixels, photometric="rgb", metadata=None)
            file.write(there, subfiletype=4, photometric="mask", compression="zlib", metadata=None)
    else:
        Image.fromarray(pixels).save(tmp_path / "a.tif", compression="tiff_deflate")
        imwrite(tmp_path / "a.tif.msk", there.astype(np.uint8) * 255)
    assert np.array_equal(both(tmp_path / "a.tif")[1], there)
    copy(tmp_path / "a.tif", tmp_path / "b.tif")
    copy(tmp_path / "b.tif", tmp_path / "c.png")
    copy(tmp_path / "c.png", tmp_path / "d.tif")
    for name in ("b.tif", "c.png", "d.tif"):
        again, there_again = both(tmp_path / name)
        assert np.array_equal(again, pixels)
        assert np.array_equal(there_again, there)
    with pytest.warns(UserWarning, match=r"e\.npy: \.npy cannot hold the mask"):
        copy(tmp_path / "b.tif", tmp_path / "e.npy")


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    Image.fromarray(noise(20, 24)).save(tmp_path / "a.png")
    imwrite(tmp_path / "a.png.msk", noise(10, 12))
    with pytest.raises(
        RasterError, match=r"a\.png\.msk: is a mask of 12 x 10 pixels, the raster beside it has 24 x 20"
    ):
        open_raster(tmp_path / "a.png")


def test_a_mask_of_an_earlier_result_does_not_stay(tmp_path: Path) -> None:
    Image.fromarray(noise(20, 24)).save(tmp_path / "a.png")
    imwrite(tmp_path / "a.png.msk", noise(20, 24))
    write(tmp_path / "a.png", noise(20, 24, 1), overwrite=True)
    assert both(tmp_path / "a.png")[1].all()
    assert not (tmp_path / "a.png.msk").exists()


PAM = "<PAMDataset>{}</PAMDataset>"


def test_no_data_declared_in_a_sidecar(tmp_path: Path) -> None:
    band = '<PAMRasterBand band="{}"><NoDataValue>{}</NoDataValue></PAMRasterBand>'
    stored = noise(20, 24, 3) // 16
    Image.fromarray(stored).save(tmp_path / "a.png")
    (tmp_path / "a.png.aux.xml").write_text(PAM.format("".join(band.format(i, 3) for i in (1, 2, 3))))
    stored_is = (stored == 3).all(-1)
    stored_is[0, 0] = (stored[0, 0] == 3).all()
    assert np.array_equal(both(tmp_path / "a.png")[1], ~stored_is)
    with open_raster(tmp_path / "a.png") as raster:
        assert raster.nodata == 3
    # each band has another value, so there is a mask
    stored[:5] = (1, 2, 3)
    Image.fromarray(stored).save(tmp_path / "b.png")
    (tmp_path / "b.png.aux.xml").write_text(PAM.format("".join(band.format(i, i) for i in (1, 2, 3))))
    there = (stored != (1, 2, 3)).any(-1)
    assert np.array_equal(both(tmp_path / "b.png")[1], there)
    copy(tmp_path / "b.png", tmp_path / "c.tif")
    assert np.array_equal(both(tmp_path / "c.tif")[1], there)
    # of a palette it is a number, not a colour
    image = Image.fromarray(stored).quantize(16)
    image.save(tmp_path / "d.png")
    (tmp_path / "d.png.aux.xml").write_text(PAM.format(band.format(1, 5)))
    assert np.array_equal(both(tmp_path / "d.png")[1], np.asarray(image) != 5)
    assert np.array_equal(both(tmp_path / "d.png")[0], np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("value", [-1e37, 3.4e38, np.finfo(np.float32).min, 1e30, 9.96921e36])
def test_sizes_that_only_fill_values_have(value: float) -> None:
    values = np.array([0, -1e20, 1e29, value, np.nan, np.inf], np.float32)
    assert is_extreme(values).tolist() == [False, False, False, True, False, False]
    assert not is_extreme(np.array([2**31 - 1])).any()
    assert is_extreme(np.array([-65504, 65504, 1], np.float16)).tolist() == [True, False, False]
