"""Any exception of a decoder becomes a one-line error about that file."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from visionzoo.io.image import ImageError, image_size, load_image
from visionzoo.io.raster import RasterError, open_raster

from .odd_files import dds

RAISED = [
    NotImplementedError("Unimplemented DXGI format 93"),
    struct.error("unpack requires a buffer of 4 bytes"),
    zlib.error("Error -3 while decompressing data"),
    KeyError(7),
    IndexError("index out of range"),
    TypeError("'NoneType' object is not subscriptable"),
    AttributeError("no attribute"),
    AssertionError(),
    ZeroDivisionError("division by zero"),
    RecursionError("maximum recursion depth exceeded"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    EOFError("no more frames"),
    OverflowError("too large"),
    MemoryError(),
    OSError("broken data stream"),
    OSError(5, "Input/output error"),
    Image.DecompressionBombError("exceeds the limit"),
    ValueError("two\nlines"),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("stage", ["_open", "load"])
def test_any_error_of_a_decoder_is_the_file_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, stage: str
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "odd.png")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, stage, fail)
    with pytest.raises(ImageError, match=r"^[^\n]*odd\.png: [^\n]{10,}$"):
        load_image(tmp_path / "odd.png")
    with pytest.raises(RasterError, match=r"^[^\n]*odd\.png: [^\n]{10,}$"):
        open_raster(tmp_path / "odd.png")
    if stage == "load":
        with Image.open(tmp_path / "odd.png") as image, pytest.raises(ImageError, match=r"odd\.png: "):
            load_image(image)


def test_a_kind_of_file_that_pillow_knows_but_cannot_decode(tmp_path: Path) -> None:
    (tmp_path / "texture.jpg").write_bytes(dds(93))
    with pytest.raises(ImageError, match=r"texture\.jpg: .*Pillow cannot decode.*DXGI format 93"):
        load_image(tmp_path / "texture.jpg")
    with pytest.raises(ImageError, match=r"texture\.jpg: "):
        image_size(tmp_path / "texture.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0" + b"\0" * 64, "is HEIC, .*convert it to JPEG"),
        (b"\0\0\0\x18ftypisom\0\0\0\0" + b"\0" * 64, "is a video"),
        (b"\x1aE\xdf\xa3" + b"\0" * 64, "is a video"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 64, "is JPEG XL"),
        (b"<?xml version='1.0'?><svg></svg>", "is an SVG drawing"),
        (b"%PDF-1.7\n", "is a PDF document"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=rf"a\.jpg: {message}"):
        load_image(tmp_path / "a.jpg")


def test_damaged_exif_does_not_refuse_the_image(tmp_path: Path) -> None:
    Image.new("RGB", (8, 4), (250, 0, 0)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\0" * 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_image(tmp_path / "a.jpg").shape == (4, 8, 3)


def test_size_is_that_of_the_upright_image_and_needs_the_header_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "a.png", "a.tif"):
        Image.fromarray(np.zeros((10, 30, 3), np.uint8)).save(tmp_path / name, exif=exif)
        assert load_image(tmp_path / name).shape == (30, 10, 3)
    monkeypatch.setattr(Image.Image, "load", None)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    for name in ("a.jpg", "a.png", "a.tif"):
        assert image_size(tmp_path / name) == (10, 30)
