"""TIFFs of every kind are read with the right values or refused, with or without the extra `raster`."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, UnidentifiedImageError

from visionzoo.errors import MissingDependencyError
from visionzoo.io import image as image_module
from visionzoo.io.image import ImageError, load_image

RNG = np.random.default_rng(0)
WORDS = RNG.integers(0, 65536, (24, 20, 3), dtype=np.uint16)
BYTES = np.round(WORDS / 257).astype(np.uint8)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., :1], 3, axis=2)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    part = alpha[..., None] / 255
    return np.round(colours * part + 255 * (1 - part))


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise MissingDependencyError(
            "reading TIFF needs the package 'tifffile'; install it with: pip install 'visionzoo[raster]'"
        )

    monkeypatch.setattr(image_module, "read_whole", missing)
    monkeypatch.setattr(image_module, "open_raster", missing)


ALPHA = np.concatenate([BYTES, RNG.integers(0, 256, (24, 20, 1), dtype=np.uint8)], axis=2)
DEEP_ALPHA = ALPHA.astype(np.uint16) * 257
FLOATS = RNG.random((24, 20, 3)).astype(np.float32)
HEIGHTS = (RNG.random((24, 20)) * 4000 - 400).astype(np.float32)
TWELVE = RNG.integers(0, 4096, (24, 20), dtype=np.uint16)

KINDS: dict[str, tuple[dict[str, Any], np.ndarray]] = {
    "rgb8": ({"data": BYTES, "photometric": "rgb"}, BYTES),
    "rgb8 planar": (
        {"data": np.moveaxis(BYTES, 2, 0), "photometric": "rgb", "planarconfig": "separate"},
        BYTES,
    ),
    "rgb16": ({"data": WORDS, "photometric": "rgb"}, BYTES),
    "rgb16 planar": (
        {"data": np.moveaxis(WORDS, 2, 0), "photometric": "rgb", "planarconfig": "separate"},
        BYTES,
    ),
    "rgb16 planar deflate": (
        {
            "data": np.moveaxis(WORDS, 2, 0),
            "photometric": "rgb",
            "planarconfig": "separate",
            "compression": "zlib",
            "predictor": True,
        },
        BYTES,
    ),
    "rgba8": (
        {"data": ALPHA, "photometric": "rgb", "extrasamples": ["unassalpha"]},
        on_white(ALPHA[..., :3], ALPHA[..., 3]),
    ),
    "rgba16 planar": (
        {
            "data": np.moveaxis(DEEP_ALPHA, 2, 0),
            "photometric": "rgb",
            "planarconfig": "separate",
            "extrasamples": ["unassalpha"],
        },
        on_white(ALPHA[..., :3], ALPHA[..., 3]),
    ),
    "grey16": ({"data": WORDS[..., 0], "photometric": "minisblack"}, grey(BYTES)),
    "grey16 lzw": ({"data": WORDS[..., 0], "photometric": "minisblack", "compression": "lzw"}, grey(BYTES)),
    "grey8 inverted": ({"data": BYTES[..., 0], "photometric": "miniswhite"}, 255 - grey(BYTES)),
    "grey16 inverted": ({"data": WORDS[..., 0], "photometric": "miniswhite"}, 255 - grey(BYTES)),
    "bands of a satellite": (
        {"data": np.concatenate([WORDS, WORDS[..., ::-1]], 2), "photometric": "minisblack", "planarconfig": "contig"},
        BYTES,
    ),
    "planes of a microscope": (
        {"data": np.moveaxis(BYTES, 2, 0), "photometric": "minisblack", "planarconfig": "separate"},
        BYTES,
    ),
    "rgb float": ({"data": FLOATS, "photometric": "rgb"}, np.round(FLOATS * 255)),
    "rgb half": (
        {"data": FLOATS.astype(np.float16), "photometric": "rgb"},
        np.round(FLOATS.astype(np.float16).astype(np.float32) * 255),
    ),
    "heights": (
        {"data": HEIGHTS, "photometric": "minisblack"},
        grey(np.round((HEIGHTS - HEIGHTS.min()) / (HEIGHTS.max() - HEIGHTS.min()) * 255)[..., None]),
    ),
    "signed": (
        {"data": np.round(HEIGHTS).astype(np.int16), "photometric": "minisblack"},
        grey(np.round((HEIGHTS - HEIGHTS.min()) / (HEIGHTS.max() - HEIGHTS.min()) * 255)[..., None]),
    ),
    "double": (
        {"data": HEIGHTS.astype(np.float64), "photometric": "minisblack"},
        grey(np.round((HEIGHTS - HEIGHTS.min()) / (HEIGHTS.max() - HEIGHTS.min()) * 255)[..., None]),
    ),
}


def written(name: str, order: str) -> tuple[bytes, np.ndarray]:
    options, expected = KINDS[name]
    options = {**options}
    file = io.BytesIO()
    tifffile.imwrite(file, options.pop("data"), byteorder=order, metadata=None, **options)
    return file.getvalue(), expected


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", KINDS)
def test_values_are_what_the_file_means_in_both_byte_orders(tmp_path: Path, name: str, order: str) -> None:
    content, expected = written(name, order)
    (tmp_path / "a.tif").write_bytes(content)
    for source in (tmp_path / "a.tif", content):
        assert np.abs(load_image(source).astype(int) - expected).max() <= 1
    try:
        image = Image.open(tmp_path / "a.tif")
    except UnidentifiedImageError:
        return
    with image:  # not decoded yet
        assert np.array_equal(load_image(image), load_image(content))


@pytest.mark.usefixtures("without_extra")
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", KINDS)
def test_without_the_extra_values_are_right_or_the_extra_is_named(tmp_path: Path, name: str, order: str) -> None:
    content, expected = written(name, order)
    (tmp_path / "a.tif").write_bytes(content)
    try:
        pixels = load_image(tmp_path / "a.tif")
    except ImageError as error:
        assert name not in ("rgb8", "rgb16", "rgba8", "grey16", "grey8 inverted")
        assert "a.tif: " in str(error)
        assert "visionzoo[raster]" in str(error)
        return
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_a_tiff_that_pillow_has_decoded_wrongly_is_refused(tmp_path: Path) -> None:
    for name in ("rgb16 planar", "grey16 inverted"):
        (tmp_path / "a.tif").write_bytes(written(name, "<")[0])
        with Image.open(tmp_path / "a.tif") as image:
            image.load()
            with pytest.raises(ImageError, match="give its path"):
                load_image(image)


@pytest.mark.parametrize("order", ["<", ">"])
def test_dark_sixteen_bits_stay_dark(tmp_path: Path, order: str) -> None:
    """Values below 256 are nearly black in 16 bits, for any byte order."""
    tifffile.imwrite(tmp_path / "a.tif", TWELVE >> 4, byteorder=order, photometric="minisblack")
    assert load_image(tmp_path / "a.tif").max() == 1
    array = (TWELVE >> 4).astype(order + "u2")
    assert load_image(array).max() == 1


def tiff(tags: dict[int, tuple[int, int, Any]], data: bytes) -> bytes:
    """A little-endian TIFF of one strip: tag -> (type, count, value packed into four bytes)."""
    entries = sorted({**tags, 273: (4, 1, struct.pack("<I", 8)), 279: (4, 1, struct.pack("<I", len(data)))}.items())
    directory = struct.pack("<H", len(entries))
    tail, place = b"", 8 + len(data) + 2 + 12 * len(entries) + 4
    for tag, (kind, count, value) in entries:
        if len(value) > 4:
            value, tail = struct.pack("<I", place + len(tail)), tail + value
        directory += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + struct.pack("<I", 0) + tail


def short(*values: int) -> tuple[int, int, bytes]:
    return 3, len(values), struct.pack(f"<{len(values)}H", *values)


def test_orientation_stored_as_a_byte(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    size = {256: short(8), 257: short(6), 258: short(8), 259: short(1), 262: short(1), 277: short(1), 278: short(6)}
    (tmp_path / "a.tif").write_bytes(tiff({**size, 274: (1, 1, b"\x08")}, pixels.tobytes()))
    assert np.array_equal(load_image(tmp_path / "a.tif")[..., 0], np.rot90(pixels))


def test_three_samples_without_a_photometric_tag_are_colours(tmp_path: Path) -> None:
    size = {256: short(20), 257: short(24), 258: short(8, 8, 8), 259: short(1), 277: short(3), 278: short(24)}
    (tmp_path / "a.tif").write_bytes(tiff(size, BYTES.tobytes()))
    assert np.array_equal(load_image(tmp_path / "a.tif"), BYTES)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("extra", [True, False])
def test_orientation_of_a_tiff(tmp_path: Path, request: pytest.FixtureRequest, turn: int, extra: bool) -> None:
    if not extra:
        request.getfixturevalue("without_extra")
    exif = Image.Exif()
    exif[0x0112] = turn
    for name in ("a.tif", "a.png"):
        Image.fromarray(BYTES).save(tmp_path / name, exif=exif)
    assert np.array_equal(load_image(tmp_path / "a.tif"), load_image(tmp_path / "a.png"))


@pytest.mark.parametrize("extra", [True, False])
def test_old_style_jpeg(tmp_path: Path, request: pytest.FixtureRequest, extra: bool) -> None:
    """Scanners of the nineties wrote a whole JPEG file into the TIFF."""
    if not extra:
        request.getfixturevalue("without_extra")
    soft = np.asarray(Image.fromarray(BYTES).resize((64, 48), Image.Resampling.BICUBIC))
    stream = io.BytesIO()
    Image.fromarray(soft).save(stream, "JPEG", quality=95, subsampling=0)
    data = stream.getvalue()
    size = {256: short(64), 257: short(48), 258: short(8, 8, 8), 259: short(6), 262: short(6), 277: short(3)}
    place = {278: short(48), 513: (4, 1, struct.pack("<I", 8)), 514: (4, 1, struct.pack("<I", len(data)))}
    sampling = {530: short(1, 1)}
    (tmp_path / "a.tif").write_bytes(tiff({**size, **place, **sampling}, data))
    assert np.abs(load_image(tmp_path / "a.tif").astype(int) - load_image(data)).max() <= 2


def test_unknown_formats_are_named(tmp_path: Path) -> None:
    size = {
        256: short(20),
        257: short(24),
        258: short(8, 8, 8),
        259: short(1),
        262: short(99),
        277: short(3),
        278: short(24),
    }
    (tmp_path / "a.tif").write_bytes(tiff(size, BYTES.tobytes()))
    with pytest.raises(ImageError, match=r"^[^\n]*a\.tif: [^\n]*convert"):
        load_image(tmp_path / "a.tif")


def test_twelve_bits_are_spread(tmp_path: Path) -> None:
    """The highest 12-bit value is white, for any packing."""
    packed = np.zeros((2, 4), np.uint16)
    packed[:, 0] = 4095
    bits = "".join(f"{value:012b}" for value in packed.ravel())
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    size = {256: short(4), 257: short(2), 258: short(12), 259: short(1), 262: short(1), 277: short(1), 278: short(2)}
    (tmp_path / "a.tif").write_bytes(tiff(size, data))
    assert load_image(tmp_path / "a.tif")[..., 0].tolist() == [[255, 0, 0, 0]] * 2


def test_declared_no_data_is_white_and_does_not_stretch_the_rest(tmp_path: Path) -> None:
    values = HEIGHTS.copy()
    values[:4] = -9999
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="minisblack", metadata=None, extratags=[(42113, 2, 6, "-9999", True)]
    )
    there = HEIGHTS[4:]
    expected = np.round((there - there.min()) / (there.max() - there.min()) * 255)
    pixels = load_image(tmp_path / "a.tif")
    assert (pixels[:4] == 255).all()
    assert np.abs(pixels[4:, :, 0].astype(int) - expected).max() <= 1
