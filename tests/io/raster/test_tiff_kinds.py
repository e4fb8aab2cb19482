"""Every kind of TIFF gives the stored values, or the intended colours: a matrix of cases compared with true arrays."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from visionzoo.io.image import load_image
from visionzoo.io.raster import RasterError, Window, open_raster, read_whole

from .files import GEO, TYPES, check_windows, imwrite, noise, packed, page, smooth, tiff, whole

# Storage


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", TYPES)
def test_types(tmp_path: Path, dtype: str, order: str) -> None:
    """Each type with every possible predictor, with interleaved samples and in planes, in tiles and in strips."""
    floats, wide = dtype.startswith("float"), dtype.endswith("64")
    for number, (planar, blocks, predictor) in enumerate(
        [
            ("contig", {"rowsperstrip": 7}, None),
            ("contig", {"tile": (16, 32)}, 3 if floats else 2),
            ("separate", {"tile": (32, 16)}, 2 if not floats and not wide else None),
            ("separate", {}, 3 if floats else None),
        ]
    ):
        pixels = noise(37, 45, 3, dtype=dtype, seed=number)
        imwrite(
            tmp_path / "a.tif",
            pixels if planar == "contig" else pixels.transpose(2, 0, 1),
            photometric="rgb",
            planarconfig=planar,
            byteorder=order,
            compression="zlib" if predictor else None,
            predictor=predictor,
            **blocks,
        )
        check_windows(tmp_path / "a.tif", pixels)


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "packbits", "lzma"])
def test_compressions(tmp_path: Path, compression: str) -> None:
    pixels = noise(50, 61, 3, dtype="uint16")
    for blocks in ({"tile": (32, 16)}, {"rowsperstrip": 9}):
        imwrite(tmp_path / "a.tif", pixels, photometric="rgb", compression=compression, bigtiff=True, **blocks)
        check_windows(tmp_path / "a.tif", pixels)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8, 10, 12, 14, 16])
def test_bits(tmp_path: Path, bits: int, samples: int) -> None:
    """Fewer than 8 bits are spread over 0 to 255, for colours too; 9 to 15 bits stay, and the value of white is known."""
    top = 2**bits - 1
    values = np.random.default_rng(0).integers(0, top, (11, 13, samples), endpoint=True)
    data = values.astype(">u2").tobytes() if bits == 16 else packed(values.reshape(11, -1), bits)
    tiff(tmp_path / "a.tif", page(11, 13, bits=bits, samples=samples, photometric=1 if samples == 1 else 2), data, ">")
    expected = (
        (values * 255 // top).astype(np.uint8) if bits < 8 else values.astype(np.uint8 if bits == 8 else np.uint16)
    )
    check_windows(tmp_path / "a.tif", expected)
    assert read_whole(tmp_path / "a.tif").white == (255 if bits <= 8 else top)


def test_float_colours_and_colours_of_565_bits(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((20, 30, 3), np.float32)
    imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    check_windows(tmp_path / "a.tif", pixels)
    values = np.random.default_rng(0).integers(0, 32, (6, 8, 3)) * [1, 2, 1]
    words = (values[..., 0] << 11 | values[..., 1] << 5 | values[..., 2]).astype("<u2")
    tiff(tmp_path / "b.tif", page(6, 8, bits=(5, 6, 5), samples=3, photometric=2), words.tobytes())
    assert np.abs(whole(tmp_path / "b.tif").astype(int) - values * 255 // [31, 63, 31]).max() <= 7


# Colours


def test_white_is_zero(tmp_path: Path) -> None:
    for bits in (1, 4):
        values = np.random.default_rng(0).integers(0, 2**bits, (9, 14))
        tiff(tmp_path / "a.tif", page(9, 14, bits=bits, photometric=0), packed(values, bits))
        check_windows(tmp_path / "a.tif", (255 - values * 255 // (2**bits - 1)).astype(np.uint8)[..., None])
    for dtype in ("uint8", "uint16", "int16", "uint32"):
        pixels = noise(9, 14, 1, dtype=dtype)
        imwrite(tmp_path / "b.tif", pixels[..., 0], photometric="miniswhite")
        limits = np.iinfo(dtype)
        check_windows(tmp_path / "b.tif", (limits.max + limits.min - pixels.astype(np.int64)).astype(dtype))
    pixels = noise(9, 14, 1, dtype="float32")  # for floats, the value of white is not known
    imwrite(tmp_path / "c.tif", pixels[..., 0], photometric="miniswhite")
    check_windows(tmp_path / "c.tif", pixels)


def test_alpha_is_not_inverted_with_the_grey(tmp_path: Path) -> None:
    pixels = noise(9, 14, 2)
    imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite", planarconfig="contig", extrasamples=["unassalpha"])
    check_windows(tmp_path / "a.tif", np.stack([255 - pixels[..., 0], pixels[..., 1]], -1))


def test_a_file_without_colour_information(tmp_path: Path) -> None:
    """Without the photometric tag, three bands are colours and 0 is black."""
    for samples in (1, 3):
        pixels = noise(9, 14, samples)
        tiff(tmp_path / "a.tif", page(9, 14, samples=samples, photometric=None), pixels.tobytes())
        check_windows(tmp_path / "a.tif", pixels)
        assert read_whole(tmp_path / "a.tif").colours == samples
    tiff(tmp_path / "b.tif", page(9, 14, photometric=2), pixels[..., 0].tobytes())  # one band cannot be RGB
    check_windows(tmp_path / "b.tif", pixels[..., :1])


def test_palettes(tmp_path: Path) -> None:
    image = Image.fromarray(noise(20, 26, 3)).quantize(32)
    image.save(tmp_path / "a.tif", compression="tiff_lzw")
    check_windows(tmp_path / "a.tif", np.asarray(image.convert("RGB")))
    table = noise(3, 16, dtype="uint16")
    values = np.random.default_rng(0).integers(0, 16, (9, 14))
    tiff(
        tmp_path / "b.tif",
        page(9, 14, bits=4, photometric=3) | {320: ("H", tuple(table.ravel().tolist()))},
        packed(values, 4),
    )
    check_windows(tmp_path / "b.tif", (table >> 8).astype(np.uint8).T[values])


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_cmyk(tmp_path: Path, name: str) -> None:
    Image.fromarray(smooth(20, 26)).convert("CMYK").save(tmp_path / name)
    check_windows(tmp_path / name, load_image(tmp_path / name))


def test_cmyk_of_other_types(tmp_path: Path) -> None:
    inks = np.asarray(Image.fromarray(smooth(20, 26)).convert("CMYK"))
    imwrite(tmp_path / "a.tif", inks, photometric="separated")
    for stored in (inks * np.uint16(257), inks.astype(np.float32) / 255):
        imwrite(tmp_path / "b.tif", stored, photometric="separated")
        assert np.array_equal(whole(tmp_path / "b.tif"), whole(tmp_path / "a.tif"))


def _srgb(lab: np.ndarray) -> np.ndarray:
    """(…, 3) L*a*b* under D50 -> sRGB in [0, 255], by the published formulas and the matrix adapted to D50 (Bradford)."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, (f - 16 / 116) * 3 * (6 / 29) ** 2) * [0.9642, 1, 0.8249]
    matrix = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = np.clip(xyz @ np.transpose(matrix), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["cielab", "icclab"])
@pytest.mark.parametrize("bits", [8, 16])
def test_lab(tmp_path: Path, kind: str, bits: int) -> None:
    stored = np.array([[(255, 0, 0), (0, 0, 0), (128, 0, 0), (150, 30, 20), (102, -20, 10), (180, -10, -30)]]).repeat(
        4, 0
    )
    expected = _srgb(stored * [100 / 255, 1, 1])
    stored[..., 1:] += 128 if kind == "icclab" else 0
    data = stored.astype(np.uint8) if bits == 8 else stored.astype(np.uint16) * [257, 256, 256]
    data = data.astype(np.uint8 if bits == 8 else np.uint16).tobytes()
    tiff(tmp_path / "a.tif", page(4, 6, bits=bits, samples=3, photometric=8 if kind == "cielab" else 9), data)
    got = whole(tmp_path / "a.tif")
    assert got.dtype == np.uint8
    assert np.abs(got - expected).max() <= 3


def _subsampled(ycbcr: np.ndarray) -> bytes:
    """Units of 2 x 2 values of Y, then one Cb and one Cr, as TIFF stores them."""
    blocks = ycbcr.reshape(ycbcr.shape[0] // 2, 2, ycbcr.shape[1] // 2, 2, 3).transpose(0, 2, 1, 3, 4)
    y = blocks[..., 0].reshape(*blocks.shape[:2], 4)
    c = blocks[..., 1:].reshape(*blocks.shape[:2], 4, 2).astype(int).mean(2).round().astype(np.uint8)
    return np.concatenate([y, c], -1).tobytes()


def test_ycbcr(tmp_path: Path) -> None:
    image = Image.fromarray(smooth(40, 60))
    ycbcr = np.asarray(image.convert("YCbCr"))
    imwrite(tmp_path / "a.tif", ycbcr, photometric="ycbcr", subsampling=(1, 1))
    back = np.asarray(image.convert("YCbCr").convert("RGB"))
    assert np.abs(whole(tmp_path / "a.tif").astype(int) - back).max() <= 1
    about = page(40, 60, samples=3, photometric=6)
    for orientation in (1, 6):
        more = {530: ("H", (2, 2)), 274: ("H", orientation), 532: ("R", (0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1))}
        tiff(tmp_path / "b.tif", about | more, _subsampled(ycbcr))
        expected = smooth(40, 60) if orientation == 1 else np.rot90(smooth(40, 60), -1)
        got = whole(tmp_path / "b.tif").astype(int)
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 12, "colours of 2 x 2 pixels are one"


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
def test_jpeg_in_tiff(tmp_path: Path, subsampling: tuple[int, int]) -> None:
    imwrite(
        tmp_path / "a.tif",
        smooth(100, 90),
        tile=(32, 32),
        compression="jpeg",
        photometric="rgb",  # stored as YCbCr
        subsampling=subsampling,
        compressionargs={"level": 95},
    )
    pixels = whole(tmp_path / "a.tif")
    assert np.abs(pixels.astype(int) - smooth(100, 90)).mean() < 2
    check_windows(tmp_path / "a.tif", pixels)


@pytest.mark.parametrize("apart", [False, True])
def test_old_jpeg_in_tiff(tmp_path: Path, apart: bool) -> None:
    """A strip is a whole JPEG, or only its scan, with the tables somewhere else in the file."""
    buffer = io.BytesIO()
    Image.fromarray(smooth(40, 64)).save(buffer, "JPEG", quality=95, subsampling=0)
    data = buffer.getvalue()
    tags = page(40, 64, samples=3, photometric=6, compression=6)
    tags |= {512: ("H", 1), 513: ("L", 8), 514: ("L", len(data)), 530: ("H", (1, 1))}
    if apart:
        scan = data.index(b"\xff\xda")
        scan += 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
        tags |= {273: ("L", 8 + scan), 279: ("L", len(data) - scan)}
    tiff(tmp_path / "a.tif", tags, data)
    assert np.abs(whole(tmp_path / "a.tif").astype(int) - smooth(40, 64)).mean() < 2


# Turned


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, options in (("a.jpg", {}), ("a.tif", {"compression": "tiff_deflate"})):
        Image.fromarray(smooth(20, 30)).save(tmp_path / name, exif=exif, **options)
        check_windows(tmp_path / name, load_image(tmp_path / name))
    pixels = np.random.default_rng(0).random((20, 30, 3), np.float32)
    imwrite(tmp_path / "b.tif", pixels, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    turns = [
        lambda x: x,
        np.fliplr,
        lambda x: np.rot90(x, 2),
        np.flipud,
        lambda x: x.swapaxes(0, 1),
        lambda x: np.rot90(x, -1),
        lambda x: np.rot90(x, 2).swapaxes(0, 1),
        np.rot90,
    ]
    check_windows(tmp_path / "b.tif", np.ascontiguousarray(turns[orientation - 1](pixels)))


def test_orientation_of_another_type(tmp_path: Path) -> None:
    pixels = noise(9, 14, 1)
    tiff(tmp_path / "a.tif", page(9, 14) | {274: ("B", 6)}, pixels.tobytes())
    check_windows(tmp_path / "a.tif", np.rot90(pixels, -1))


def test_a_georeferenced_tiff_is_not_turned(tmp_path: Path) -> None:
    pixels = noise(20, 30, 3)
    imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extratags=[*GEO, (274, 3, 1, 6, True)])
    check_windows(tmp_path / "a.tif", pixels)


# Pages


@pytest.mark.parametrize("small_first", [False, True])
def test_the_full_resolution_of_a_pyramid(tmp_path: Path, small_first: bool, recwarn: pytest.WarningsRecorder) -> None:
    pixels = noise(64, 96, 3)
    levels = [(pixels, 0), (np.ascontiguousarray(pixels[::2, ::2]), 1), (np.ascontiguousarray(pixels[::4, ::4]), 1)]
    with tifffile.TiffWriter(tmp_path / "cog.tif") as file:
        for level, kind in reversed(levels) if small_first else levels:
            file.write(level, tile=(32, 32), photometric="rgb", compression="zlib", subfiletype=kind, metadata=None)
    check_windows(tmp_path / "cog.tif", pixels)
    for side, step in ((96, 1), (49, 1), (48, 2), (24, 4), (1, 4)):
        assert np.array_equal(read_whole(tmp_path / "cog.tif", max_side=side).pixels, pixels[::step, ::step]), side
    assert not recwarn


def test_sub_directories(tmp_path: Path) -> None:
    """Reduced copies below the image; or the image below a thumbnail, as in raw photos."""
    pixels = noise(64, 96, 3)
    small = np.ascontiguousarray(pixels[::2, ::2])
    for first, second, kinds in ((pixels, small, (0, 1)), (small, pixels, (1, 0))):
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(first, photometric="rgb", subifds=1, subfiletype=kinds[0], metadata=None)
            file.write(second, photometric="rgb", subfiletype=kinds[1], metadata=None)
        check_windows(tmp_path / "a.tif", pixels)
        assert np.array_equal(read_whole(tmp_path / "a.tif", max_side=40).pixels, small)


@pytest.mark.parametrize("kind", ["pages", "slices"])
def test_further_pages_are_reported(tmp_path: Path, kind: str) -> None:
    stack = noise(3, 32, 48)
    options: dict[str, Any] = {"volumetric": True, "tile": (16, 16, 16)} if kind == "slices" else {}
    imwrite(tmp_path / "a.tif", stack, photometric="minisblack", **options)
    with pytest.warns(UserWarning, match=rf"a\.tif: holds 3 {kind}; the first"):
        assert np.array_equal(whole(tmp_path / "a.tif")[..., 0], stack[0])


def test_pixels_that_are_not_stored_are_no_data(tmp_path: Path) -> None:
    tile = noise(32, 32, dtype="int16")
    tifffile.imwrite(
        tmp_path / "tiles.tif",
        iter([tile, None, None, tile]),
        shape=(64, 64),
        dtype="int16",
        tile=(32, 32),
        compression="zlib",
        extratags=GEO,
    )
    expected = np.full((64, 64, 1), -9999, np.int16)
    expected[:32, :32, 0] = expected[32:, 32:, 0] = tile
    check_windows(tmp_path / "tiles.tif", expected)
    for nodata, value in (("7", 7), ("-9999", 0)):  # no pixel of uint8 can be -9999
        path = tmp_path / "strips.tif"
        imwrite(path, noise(64, 60), rowsperstrip=16, extratags=[(42113, 2, 0, nodata, True)])
        with tifffile.TiffFile(path, mode="r+") as file:
            file.pages[0].tags[279].overwrite([960, 0, 960, 960])
        pixels = noise(64, 60, 1)
        pixels[16:32] = value
        check_windows(path, pixels)


# Refused files


def test_kinds_that_cannot_be_read(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", page(9, 14, photometric=32845, samples=3), noise(9, 14, 3).tobytes())
    with pytest.raises(RasterError, match=r"a\.tif: its colours \(.*, 3 samples\) cannot be read; convert it to RGB"):
        open_raster(tmp_path / "a.tif")
    imwrite(tmp_path / "b.tif", noise(16, 16), compression="zlib")
    with tifffile.TiffFile(tmp_path / "b.tif", mode="r+") as file:
        file.pages[0].tags[259].overwrite(60123)
    with pytest.raises(
        RasterError, match=r"b\.tif: its compression \(60123\) is unknown; .*imagecodecs.*gdal_translate"
    ):
        open_raster(tmp_path / "b.tif")
    imwrite(tmp_path / "c.tif", np.zeros((4, 5), np.complex64))
    with pytest.raises(RasterError, match=r"c\.tif: holds complex values .* save the magnitude"):
        open_raster(tmp_path / "c.tif")


def test_a_block_is_decoded_once_for_a_row_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionzoo.io.raster import tiff as reader

    decoded: list[int] = []
    original = reader._TiffRaster._segment
    monkeypatch.setattr(
        reader._TiffRaster,
        "_segment",
        lambda self, number, *rest: decoded.append(number) or original(self, number, *rest),
    )
    for blocks in ({"tile": (64, 64)}, {"rowsperstrip": 16}):
        imwrite(tmp_path / "a.tif", noise(256, 256, 3), photometric="rgb", compression="zlib", **blocks)
        decoded.clear()
        with open_raster(tmp_path / "a.tif") as raster:
            raster.read(Window(10, 10, 20, 20))
            assert len(decoded) <= 2  # only what the window touches
            for top in range(0, 256, 100):
                for left in range(0, 256, 100):
                    raster.read(Window(top, left, min(100, 256 - top), min(100, 256 - left)))
        assert len(decoded) == len(set(decoded))
