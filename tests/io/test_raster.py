"""Pictures read and written by windows: every window is what the whole picture has there, and nothing else is decoded."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image, ImageCms

from visionzoo.io.image import load_image
from visionzoo.io.raster import RasterError, RasterProfile, RasterWriter, Window, open_raster, pictures, tiff, writer
from visionzoo.io.raster import base as raster_base
from visionzoo.io.raster import raw as raster_raw

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")
GEO = [
    (33550, 12, 3, (10.0, 10.0, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 399960.0, 5700000.0, 0.0), True),
    (34735, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True),
    (42113, 2, 0, "-9999", True),
]


def noise(*shape: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return (rng.standard_normal(shape) * 100).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def smooth(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 that JPEG hardly changes."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], -1).astype(np.uint8)


def whole(path: Path, **options: Any) -> np.ndarray:
    with open_raster(path, **options) as raster:
        return raster.read(Window(0, 0, raster.height, raster.width))


def check_windows(path: Path, expected: np.ndarray, **options: Any) -> None:
    """Windows of many places and sizes are slices of what is expected."""
    with open_raster(path, **options) as raster:
        assert (raster.height, raster.width, raster.bands) == expected.shape
        assert raster.dtype == expected.dtype
        rng = np.random.default_rng(1)
        windows = [Window(0, 0, raster.height, raster.width), Window(raster.height - 1, raster.width - 1, 1, 1)]
        for _ in range(12):
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
    """Write by windows that do not fit any grid, in the wrong order."""
    height, width, bands = pixels.shape
    work = path.with_name(f"{path.name}.work")
    with RasterWriter(path, height=height, width=width, bands=bands, dtype=pixels.dtype, work=work, **options) as out:
        for top in reversed(range(0, height, 100)):
            for left in range(0, width, 70):
                out.write(top, left, pixels[top : top + 100, left : left + 70])
        out.finish()


# What is read


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_tiff_of_tiles(tmp_path: Path, dtype: str, bands: int) -> None:
    pixels = noise(150, 130, bands, dtype=dtype)
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        tile=(64, 48),
        compression="zlib",
        predictor=True,
        photometric="minisblack",
        planarconfig="contig" if bands > 1 else None,
    )
    check_windows(tmp_path / "a.tif", pixels)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd", "packbits", "lzma"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("blocks", [{"tile": (32, 64)}, {"rowsperstrip": 7}, {"rowsperstrip": 150}])
def test_tiff_of_any_layout(
    tmp_path: Path, compression: str | None, planar: str, order: str, blocks: dict[str, Any]
) -> None:
    pixels = noise(150, 130, 3, dtype="uint16")
    stored = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
    tifffile.imwrite(
        tmp_path / "a.tif",
        stored,
        photometric="rgb",
        planarconfig=planar,
        byteorder=order,
        compression=compression,
        bigtiff=order == ">",
        **blocks,
    )
    check_windows(tmp_path / "a.tif", pixels)


def test_jpeg_in_tiff_is_rgb(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        smooth(200, 180),
        tile=(64, 64),
        compression="jpeg",
        photometric="rgb",  # stored as YCbCr
        subsampling=(2, 2),
        compressionargs={"level": 95},
    )
    pixels = whole(tmp_path / "a.tif")
    assert np.abs(pixels.astype(int) - smooth(200, 180)).mean() < 2
    assert np.abs(pixels.astype(int) - load_image(tmp_path / "a.tif")).max() <= 2
    check_windows(tmp_path / "a.tif", pixels)


def test_palette_one_bit_and_inverted_tiff(tmp_path: Path) -> None:
    picture = Image.fromarray(noise(40, 52, 3)).quantize(32)
    picture.save(tmp_path / "palette.tif", compression="tiff_lzw")
    check_windows(tmp_path / "palette.tif", np.asarray(picture.convert("RGB")))
    bits = Image.fromarray(noise(40, 52)).convert("1")
    for compression in ("raw", "tiff_lzw", *(["group4"] if hasattr(imagecodecs, "CCITTFAX4") else [])):
        bits.save(tmp_path / "bits.tif", compression=compression)
        check_windows(tmp_path / "bits.tif", np.asarray(bits).astype(np.uint8)[..., None] * 255)
    pixels = noise(40, 52, 1)
    tifffile.imwrite(tmp_path / "white.tif", pixels, photometric="miniswhite", compression="zlib")
    check_windows(tmp_path / "white.tif", 255 - pixels)


def test_cmyk_as_load_image_does(tmp_path: Path) -> None:
    picture = Image.fromarray(smooth(40, 52)).convert("CMYK")
    for name in ("a.tif", "a.jpg"):
        picture.save(tmp_path / name)
        check_windows(tmp_path / name, load_image(tmp_path / name))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(smooth(40, 60)).save(tmp_path / "a.jpg", exif=exif)
    check_windows(tmp_path / "a.jpg", load_image(tmp_path / "a.jpg"))
    Image.fromarray(smooth(40, 60)).save(tmp_path / "a.tif", exif=exif, compression="tiff_deflate")
    check_windows(tmp_path / "a.tif", load_image(tmp_path / "a.tif"))
    with open_raster(tmp_path / "a.jpg") as raster:
        assert not raster.profile.exif or 0x0112 not in _exif(raster.profile.exif)


def _exif(data: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(data)
    return exif


def test_a_georeferenced_tiff_is_not_turned(tmp_path: Path) -> None:
    pixels = noise(40, 60, 3)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extratags=[*GEO, (274, 3, 1, 6, True)])
    check_windows(tmp_path / "a.tif", pixels)


@pytest.mark.parametrize("small_first", [False, True])
def test_the_full_resolution_of_a_pyramid(tmp_path: Path, small_first: bool) -> None:
    pixels = noise(128, 192, 3)
    levels = [(pixels, 0), (np.ascontiguousarray(pixels[::2, ::2]), 1), (np.ascontiguousarray(pixels[::4, ::4]), 1)]
    with tifffile.TiffWriter(tmp_path / "cog.tif") as file:
        for level, kind in reversed(levels) if small_first else levels:
            file.write(level, tile=(32, 32), photometric="rgb", compression="zlib", subfiletype=kind, metadata=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_windows(tmp_path / "cog.tif", pixels)


def test_further_pages_are_told_of(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(3, 40, 50), photometric="minisblack")
    with pytest.warns(UserWarning, match=r"a\.tif: holds 3 pages; the first"):
        assert whole(tmp_path / "a.tif").shape == (40, 50, 1)


def test_tiles_that_are_not_stored_are_no_data(tmp_path: Path) -> None:
    tile = noise(32, 32, dtype="int16")
    tifffile.imwrite(
        tmp_path / "sparse.tif",
        iter([tile, None, None, tile]),
        shape=(64, 64),
        dtype="int16",
        tile=(32, 32),
        compression="zlib",
        extratags=GEO,
    )
    expected = np.full((64, 64, 1), -9999, np.int16)
    expected[:32, :32, 0] = expected[32:, 32:, 0] = tile
    check_windows(tmp_path / "sparse.tif", expected)


def test_strips_that_are_not_stored_are_no_data(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    for nodata, expected in (("7", 7), ("-9999", 0)):  # no pixel of uint8 can be -9999
        tifffile.imwrite(path, noise(64, 60), rowsperstrip=16, extratags=[(42113, 2, 0, nodata, True)], metadata=None)
        with tifffile.TiffFile(path, mode="r+") as file:
            file.pages[0].tags[279].overwrite([960, 0, 960, 960])
        pixels = noise(64, 60, 1)
        pixels[16:32] = expected
        check_windows(path, pixels)


def test_what_a_geotiff_says(tmp_path: Path) -> None:
    pixels = noise(40, 60, 4, dtype="int16")
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16), extratags=GEO
    )
    with open_raster(tmp_path / "a.tif") as raster:
        assert raster.nodata == -9999
        assert raster.alpha == 3
        assert raster.block == (16, 16)
        assert raster.profile.compression == "none"
        assert {code for code, *_ in raster.profile.tags} == {33550, 33922, 34735}
    tifffile.imwrite(
        tmp_path / "b.tif", pixels.astype(np.uint8), photometric="rgb", extrasamples=["unspecified"], extratags=GEO
    )
    with open_raster(tmp_path / "b.tif") as raster:  # no pixel of uint8 can be -9999
        assert raster.nodata is None
        assert raster.profile.nodata == -9999
        assert raster.alpha is None


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(("shape", "first"), [((70, 90), False), ((70, 90, 4), False), ((4, 70, 90), True)])
@pytest.mark.parametrize("dtype", ["uint8", ">u2", "float32", "bool"])
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


@pytest.mark.parametrize(
    ("mode", "bands", "alpha"),
    [("1", 1, None), ("L", 1, None), ("LA", 2, 1), ("P", 3, None), ("RGB", 3, None), ("RGBA", 4, 3), ("I;16", 1, None)],
)
@pytest.mark.parametrize("large", [False, True])
def test_png(
    tmp_path: Path, mode: str, bands: int, alpha: int | None, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(pictures, "SMALL_PIXELS", 100)
    if mode == "I;16":
        picture = Image.fromarray(noise(40, 60, dtype="uint16"))
    else:
        picture = Image.fromarray(noise(40, 60, 4)).convert("RGB" if mode == "P" else mode).convert(mode)
    picture.save(tmp_path / "a.png")
    expected = np.asarray(picture.convert("RGB") if mode == "P" else picture)
    expected = expected.astype(np.uint8) * 255 if mode == "1" else expected
    scratch = tmp_path / "scratch"
    check_windows(tmp_path / "a.png", expected.reshape(40, 60, bands), scratch=scratch)
    with open_raster(tmp_path / "a.png", scratch=scratch) as raster:
        assert raster.alpha == alpha
        assert large == any(scratch.glob("*/*"))
    assert not large or not any(scratch.iterdir())  # what was unpacked is gone


@pytest.mark.parametrize("palette_alpha", [False, True])
def test_transparency_becomes_a_band(tmp_path: Path, palette_alpha: bool) -> None:
    picture = Image.fromarray(noise(40, 60) // 64)
    if palette_alpha:
        picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    picture.save(tmp_path / "a.png", transparency=2)
    with open_raster(tmp_path / "a.png") as raster:
        assert raster.alpha == raster.bands - 1
        pixels = raster.read(Window(0, 0, 40, 60))
    assert np.array_equal(pixels[..., -1] == 0, np.asarray(picture) == 2)


@pytest.mark.parametrize("bands", [2, 3, 4])
def test_deep_png_keeps_its_bits(tmp_path: Path, bands: int) -> None:
    pixels = noise(40, 60, bands, dtype="uint16")
    write(tmp_path / "a.png", pixels, alpha=bands - 1 if bands != 3 else None)
    check_windows(tmp_path / "a.png", pixels)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_large_jpeg_is_unpacked(tmp_path: Path, orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "SMALL_PIXELS", 100)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "maker"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(smooth(400, 600)).save(
        tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif, icc_profile=icc, dpi=(300, 300)
    )
    pixels = whole(tmp_path / "a.jpg")
    assert np.abs(pixels.astype(int) - load_image(tmp_path / "a.jpg")).max() <= 2  # another decoder
    check_windows(tmp_path / "a.jpg", pixels)
    with open_raster(tmp_path / "a.jpg") as raster:
        assert raster.profile.icc == icc
        assert raster.profile.resolution == pytest.approx((300, 300, 2), rel=1e-3)
        kept = _exif(raster.profile.exif or b"")
        assert kept[0x010F] == "maker"
        assert 0x0112 not in kept


def test_a_large_cmyk_jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(smooth(40, 60)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    monkeypatch.setattr(pictures, "SMALL_PIXELS", 100)
    assert np.abs(whole(tmp_path / "a.jpg").astype(int) - load_image(tmp_path / "a.jpg")).max() <= 2


def test_webp_gif_and_names_that_are_not_ascii(tmp_path: Path) -> None:
    path = tmp_path / "Grüße 写真.webp"
    Image.fromarray(noise(40, 60, 4)).save(path, lossless=True, exact=True)
    check_windows(path, noise(40, 60, 4))
    Image.fromarray(noise(40, 60, 3)).quantize(32).save(tmp_path / "a.gif")
    check_windows(tmp_path / "a.gif", load_image(tmp_path / "a.gif"))


def test_strips_too_large_for_memory_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "LARGEST_STRIP", 1000)
    pixels = noise(200, 130, 3, dtype="uint16")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", compression="zlib", rowsperstrip=200, extratags=GEO)
    check_windows(tmp_path / "a.tif", pixels, scratch=tmp_path / "scratch")
    with open_raster(tmp_path / "a.tif") as raster:
        assert len(raster.profile.tags) == 3
    assert not any((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("blocks", [{"tile": (64, 64)}, {"rowsperstrip": 16}])
def test_a_block_is_decoded_once_for_a_row_of_windows(
    tmp_path: Path, blocks: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(512, 512, 3), photometric="rgb", compression="zlib", **blocks)
    decoded: list[int] = []
    original = tiff._TiffRaster._segment
    monkeypatch.setattr(
        tiff._TiffRaster,
        "_segment",
        lambda self, number, *rest: decoded.append(number) or original(self, number, *rest),
    )
    with open_raster(tmp_path / "a.tif") as raster:
        raster.read(Window(10, 10, 20, 20))
        assert len(decoded) <= 2  # only what the window touches
        for top in range(0, 512, 100):
            for left in range(0, 512, 100):
                raster.read(Window(top, left, min(100, 512 - top), min(100, 512 - left)))
    assert len(decoded) == len(set(decoded))


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster_base, "CACHE_BYTES", (0, 40_000))
    pixels = noise(512, 512, 3)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", compression="zlib", tile=(64, 64))
    with open_raster(tmp_path / "a.tif") as raster:
        assert np.array_equal(raster.read(Window(0, 0, 512, 512)), pixels)
        assert sum(block.nbytes for block in raster._kept.values()) <= 40_000


# What is refused


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"hello, this is no picture at all", "not an image"),
        (b"II*\0", "cut off or damaged"),
        (b"II*\0\x08\0\0\0", "cut off or damaged"),
        (b"II*\0\xff\xff\xff\0", "cut off or damaged"),
        (b"MM\0+\0\x08\0\0\0\0\0\0\0\0\0\x10", "cut off or damaged"),
        (b"\x93NUMPY\x01\0", "npy"),
        (b"\x93NUMPY\x01\0\x08\0{'a': (\n", "npy"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not an image|damaged"),
    ],
)
def test_files_that_are_no_pictures(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(RasterError, match=rf"a\.bin: .*({says})") as caught:
        open_raster(tmp_path / "a.bin")
    assert "\n" not in str(caught.value)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match=r"none\.tif: no such file"):
        open_raster(tmp_path / "none.tif")
    with pytest.raises(RasterError, match="is a folder, expected a picture file or a zarr array"):
        open_raster(tmp_path)


@pytest.mark.parametrize(
    "window",
    [Window(0, 0, 41, 10), Window(-1, 0, 5, 5), Window(0, 55, 10, 6), Window(3, 3, 0, 5), Window(3, 3, -2, 5)],
)
def test_windows_beyond_the_picture(tmp_path: Path, window: Window) -> None:
    np.save(tmp_path / "a.npy", noise(40, 60))
    with (
        open_raster(tmp_path / "a.npy") as raster,
        pytest.raises(RasterError, match="not within the picture of 40 rows"),
    ):
        raster.read(window)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("blocks", [{"tile": (64, 64)}, {"rowsperstrip": 16}])
def test_a_tiff_that_is_cut_off(tmp_path: Path, compression: str | None, blocks: dict[str, Any]) -> None:
    path = tmp_path / "cut.tif"
    pixels = noise(512, 512, 3)
    tifffile.imwrite(path, pixels, photometric="rgb", compression=compression, **blocks)
    os.truncate(path, path.stat().st_size // 2)
    with open_raster(path) as raster:  # the header is whole
        assert np.array_equal(raster.read(Window(0, 0, 64, 64)), pixels[:64, :64])
        with pytest.raises(
            RasterError, match=r"cut\.tif: rows 448 to 511, columns 100 to 163 cannot be read: .*the file is cut off"
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
        file.pages[0].tags[code].overwrite(value)


def test_unknown_compression(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(64, 64), compression="zlib")
    _with_tag(tmp_path / "a.tif", 259, 60123)
    with pytest.raises(
        RasterError, match=r"a\.tif: its compression \(60123\) is unknown; .*imagecodecs.*gdal_translate"
    ):
        open_raster(tmp_path / "a.tif")


def test_absurd_sizes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(64, 64), tile=(64, 64), compression="zlib")
    _with_tag(tmp_path / "a.tif", 322, 65520)
    _with_tag(tmp_path / "a.tif", 323, 65520)
    with pytest.raises(RasterError, match=r"a\.tif: has tiles of 65520 x 65520 pixels \(4\.3 GB\); the limit"):
        open_raster(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", noise(64, 64), tile=(16, 16), compression="zlib")
    _with_tag(tmp_path / "b.tif", 257, 65000)
    with pytest.raises(RasterError, match=r"b\.tif: .*cut off or damaged"):
        open_raster(tmp_path / "b.tif")


def test_no_room_to_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "SMALL_PIXELS", 100)
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 1000})())
    with pytest.raises(RasterError, match=r"a\.png: 64 x 64 pixels take 0\.0 MB unpacked, .*free some space"):
        open_raster(tmp_path / "a.png", scratch=tmp_path / "scratch")
    assert not any((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_truncated_pictures(tmp_path: Path, name: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:
        monkeypatch.setattr(pictures, "SMALL_PIXELS", 100)
    Image.fromarray(noise(300, 300, 3)).save(tmp_path / name)
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size // 2)
    with pytest.raises(RasterError, match=rf"{name}: damaged or truncated image") as caught:
        open_raster(tmp_path / name, scratch=tmp_path / "scratch")
    assert "\n" not in str(caught.value)


def test_values_that_are_no_picture(tmp_path: Path) -> None:
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
    with pytest.raises(RasterError, match=r"d\.npy: .*cut off"):
        open_raster(tmp_path / "d.npy")
    group = zarr.create_group(store=str(tmp_path / "group.zarr"))
    group.create_array("0", shape=(4, 5), dtype="uint8")
    with pytest.raises(RasterError, match=r"group\.zarr: is a group of arrays, .*group\.zarr/0"):
        open_raster(tmp_path / "group.zarr")


def test_exif_that_does_not_fit_is_told_of(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 70_000
    with pytest.warns(UserWarning, match=r"the EXIF data \(\d+ bytes\) do not fit into \.jpg"):
        write(tmp_path / "a.jpg", smooth(40, 50), profile=RasterProfile(exif=exif.tobytes()))
    assert whole(tmp_path / "a.jpg").shape == (40, 50, 3)


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


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(64, 64))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImportError, match=r"visionzoo\[raster\]"):
        open_raster(tmp_path / "a.tif")
    with pytest.raises(ImportError, match=r"visionzoo\[raster\]"):
        RasterWriter(tmp_path / "b.tif", height=4, width=4, bands=1, dtype="uint8", work=tmp_path / "w")
    assert not (tmp_path / "w").exists()


# What is written


@pytest.mark.parametrize("ending", [".tif", ".zarr", ".npy"])
@pytest.mark.parametrize("dtype", [*DTYPES, "uint64", "int64"])
@pytest.mark.parametrize("bands", [1, 4, 6])
def test_round_trip(tmp_path: Path, ending: str, dtype: str, bands: int) -> None:
    pixels = noise(301, 290, bands, dtype=dtype)
    write(tmp_path / f"a{ending}", pixels)
    check_windows(tmp_path / f"a{ending}", pixels)


@pytest.mark.parametrize(("bands", "alpha"), [(1, None), (2, 1), (3, None), (4, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("large", [False, True])
def test_round_trip_of_png(
    tmp_path: Path, bands: int, alpha: int | None, dtype: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(pictures, "SMALL_PIXELS", 100)
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


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", ["b.jpg", "b.png", "b.webp", "b.tif"])
def test_what_a_photo_says_is_kept(tmp_path: Path, name: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"><a>kept</a></x:xmpmeta>'
    Image.fromarray(smooth(40, 60)).save(tmp_path / "a.jpg", exif=exif, icc_profile=icc, dpi=(300, 300), xmp=xmp)
    if large:
        monkeypatch.setattr(pictures, "SMALL_PIXELS", 100)
        monkeypatch.setattr(writer, "SMALL_PIXELS", 100)
    with open_raster(tmp_path / "a.jpg") as raster:
        pixels, profile = raster.read(Window(0, 0, raster.height, raster.width)), raster.profile
    assert pixels.shape == (60, 40, 3)
    write(tmp_path / name, pixels, profile=profile)
    with open_raster(tmp_path / name) as raster:
        assert (raster.height, raster.width) == (60, 40)  # not turned twice
        assert raster.profile.icc == icc
        assert raster.profile.xmp is not None
        assert b"<a>kept</a>" in raster.profile.xmp
        assert b"Orientation" not in raster.profile.xmp
        if name != "b.webp":
            assert raster.profile.resolution == pytest.approx((300, 300, 2), rel=1e-3)
        if name != "b.tif":
            assert _exif(raster.profile.exif or b"")[0x010F] == "maker"


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "packbits", "jpeg"])
def test_what_a_geotiff_says_is_kept(tmp_path: Path, compression: str | None) -> None:
    metadata = (
        '<GDALMetadata>\n  <Item name="AREA">Zürich</Item>\n  <Item name="STATISTICS_MEAN" sample="0">7</Item>\n</GDALMetadata>'
    ).encode() + b"\0"
    words = [(42112, 2, len(metadata), metadata, True), (315, 2, 0, "someone", True)]
    tifffile.imwrite(
        tmp_path / "a.tif",
        smooth(200, 300),
        photometric="rgb",
        tile=(512, 512),
        compression=compression,
        extratags=[*GEO, *words],
        resolution=(120.5, 60),
        resolutionunit="CENTIMETER",
        description="a field",
        metadata=None,
    )
    with open_raster(tmp_path / "a.tif") as raster:
        profile, pixels = raster.profile, raster.read(Window(0, 0, 200, 300))
    write(tmp_path / "b.tif", pixels, profile=profile)
    check_windows(tmp_path / "b.tif", pixels)
    with tifffile.TiffFile(tmp_path / "a.tif") as source, tifffile.TiffFile(tmp_path / "b.tif") as file:
        page, before = file.pages[0], source.pages[0]
        for code in (33550, 33922, 34735, 42113, 315, 270, 282, 283, 296):
            assert page.tags[code].value == before.tags[code].value, code
            assert page.tags[code].dtype == before.tags[code].dtype
        assert page.tags[42112].value == '<GDALMetadata>\n  <Item name="AREA">Zürich</Item>\n</GDALMetadata>'
        assert page.tile == (512, 512)
        lossless = {None: 1, "lzw": 5, "zstd": 50000, "packbits": 32773}
        assert page.compression == lossless.get(compression, 8)
        assert 305 not in page.tags


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


def test_bigtiff_when_it_may_exceed_4_gb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.io.raster import encode_tiff

    monkeypatch.setattr(encode_tiff, "_CLASSIC_LIMIT", 10_000)
    write(tmp_path / "a.tif", noise(100, 100, 3))
    assert (tmp_path / "a.tif").read_bytes()[:4] == b"II+\0"
    check_windows(tmp_path / "a.tif", noise(100, 100, 3))


def test_a_description_of_the_layout_is_not_kept(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(3, 40, 50, 3)[:1], photometric="rgb")  # tifffile notes its shape
    with open_raster(tmp_path / "a.tif") as raster:
        assert raster.profile.tags == ()


def test_a_profile_of_other_colours_is_not_kept(tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write(tmp_path / "a.png", noise(40, 50, 1), profile=RasterProfile(icc=icc))
    with open_raster(tmp_path / "a.png") as raster:
        assert raster.profile.icc is None


def test_what_is_lost_is_told(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(40, 50, 3), photometric="rgb", extratags=GEO)
    with open_raster(tmp_path / "a.tif") as raster:
        profile = raster.profile
    with pytest.warns(
        UserWarning, match=r"b\.npy: \.npy cannot hold the no-data value \(-9999\) and georeference of the source"
    ):
        write(tmp_path / "b.npy", noise(40, 50, 3), profile=profile)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("a.jpg", {"dtype": "uint16"}, r"\.jpg holds uint8, the picture is uint16; choose \.tif"),
        ("a.jpg", {"bands": 4}, r"holds 1 or 3 bands, the picture has 4; choose \.tif"),
        ("a.jpg", {"width": 65501}, r"up to 65500 pixels a side"),
        ("a.webp", {"height": 16384}, r"up to 16383 pixels a side"),
        ("a.webp", {"dtype": "float32"}, r"holds uint8, the picture is float32"),
        ("a.png", {"bands": 5}, r"holds 1, 2, 3 or 4 bands, the picture has 5"),
        ("a.png", {"dtype": "float32"}, r"holds uint8 or uint16, the picture is float32"),
        ("a.png", {"bands": 4}, r"band 3 would be shown as alpha"),
        ("a.png", {"bands": 4, "alpha": 3, "profile": RasterProfile(premultiplied=True)}, "premultiplied"),
        ("a.tif", {"bands": 4, "alpha": 4}, "band 4 cannot be alpha"),
        ("a.tif", {"dtype": "complex64"}, "holds complex values"),
        ("a.tif", {"height": 0}, "are no picture"),
        ("a.bmp", {}, r"unknown extension \.bmp; choose one of \.tif"),
        ("a", {}, r"unknown extension \(none\)"),
        ("none/a.tif", {}, "the folder .* does not exist"),
        ("none/a.zarr", {}, "the folder .* does not exist"),
        ("there.tif", {}, "exists already"),
        ("there.zarr", {}, "exists already"),
        ("folder.tif", {"overwrite": True}, "is a folder"),
    ],
)
def test_refused_before_any_work(tmp_path: Path, name: str, options: dict[str, Any], says: str) -> None:
    (tmp_path / "there.tif").write_bytes(b"x")
    (tmp_path / "there.zarr").mkdir()
    (tmp_path / "folder.tif").mkdir()
    shape = {"height": 40, "width": 50, "bands": 3, "dtype": "uint8"}
    with pytest.raises(RasterError, match=says) as caught:
        RasterWriter(tmp_path / name, **(shape | options), work=tmp_path / "work")
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("ending", [".tif", ".zarr", ".png"])
def test_an_existing_output_is_replaced_at_the_end_only(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
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


def test_a_killed_writer_goes_on(tmp_path: Path) -> None:
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
    shape = {"height": 300, "width": 200, "bands": 3, "dtype": "uint8", "work": tmp_path / "work"}
    with RasterWriter(tmp_path / "a.tif", **shape) as out:
        assert out.resumed
        out.write(150, 0, np.full((150, 200, 3), 9, np.uint8))
        out.finish()
    pixels = whole(tmp_path / "a.tif")
    assert (pixels[:150] == 7).all()
    assert (pixels[150:] == 9).all()
    for other in ({"height": 301}, {"bands": 1}, {"dtype": "uint16"}):
        with pytest.raises(
            RasterError, match=r"work: holds another unfinished picture \(200 x 300 .*delete that folder"
        ):
            RasterWriter(tmp_path / "b.tif", **(shape | other))
    os.truncate(tmp_path / "work" / "pixels.raw", 100)
    with pytest.raises(RasterError, match="unfinished picture in it is damaged; delete that folder"):
        RasterWriter(tmp_path / "b.tif", **shape)
    (tmp_path / "work" / "pixels.json").unlink()  # killed while the room was taken
    with RasterWriter(tmp_path / "b.tif", **shape) as out:
        assert not out.resumed


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    shape = {"height": 300, "width": 200, "bands": 3, "dtype": "uint8", "work": tmp_path / "work"}
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
            with pytest.raises(RasterError, match=r"a\.tif: the disk is full; .*the pixels are kept in .*work"):
                out.finish()
        assert [p.name for p in tmp_path.iterdir()] == ["work"]
        out.finish()
    assert np.array_equal(whole(tmp_path / "a.tif"), noise(300, 200, 3))


def test_a_file_system_that_takes_no_room_in_advance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    write(tmp_path / "a.npy", noise(1500, 800, 3))
    check_windows(tmp_path / "a.npy", noise(1500, 800, 3))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("ending", [".tif", ".png", ".zarr"])
def test_memory_does_not_grow_with_the_picture(tmp_path: Path, ending: str) -> None:
    """8192 x 8192 x 3 is 201 MB; reading and writing all of it by windows must take less than 150 MB."""
    kind = "RssAnon:" if ending == ".png" else "VmHWM:"  # libvips maps the staged file: pages that are no program's own
    side = 8192
    tile = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 256, 3))
    tifffile.imwrite(
        tmp_path / "in.tif",
        (np.roll(tile, number, axis=0) for number in range((side // 256) ** 2)),
        shape=(side, side, 3),
        dtype="uint8",
        photometric="rgb",
        tile=(256, 256),
        compression="zlib",
    )
    script = f"""
        import threading, time
        import numpy as np, tifffile, imagecodecs, pyvips, zarr
        from visionzoo.io.raster import RasterWriter, Window, open_raster
        def memory():
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith({kind!r}))
        most = before = memory()
        def watch():
            global most
            while True:
                most = max(most, memory())
                time.sleep(0.005)
        threading.Thread(target=watch, daemon=True).start()
        with open_raster({str(tmp_path / "in.tif")!r}) as raster, RasterWriter(
            {str(tmp_path / "out")!r} + {ending!r}, height=raster.height, width=raster.width, bands=3, dtype=raster.dtype,
            profile=raster.profile, work={str(tmp_path / "work")!r}) as out:
            for top in range(0, {side}, 256):
                for left in range(0, {side}, 256):
                    out.write(top, left, raster.read(Window(top, left, 256, 256)))
            out.finish()
        print(max(most, memory()) - before)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True, text=True, timeout=600
    )
    print(ending, ran.stdout)
    assert float(ran.stdout) < 150
    with open_raster(tmp_path / "in.tif") as source, open_raster(tmp_path / f"out{ending}") as copy:
        for top, left in ((0, 0), (4000, 7000), (side - 300, side - 300)):
            window = Window(top, left, 300, 300)
            assert np.array_equal(source.read(window), copy.read(window))
