"""JPEG, PNG, WebP and others as rasters: in memory, or unpacked on disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from visionzoo.io.image import load_image
from visionzoo.io.raster import (
    RasterError,
    Window,
    decoded,
    open_raster,
)

from .files import check_windows, noise, smooth, whole, write


@pytest.mark.parametrize(
    ("mode", "bands", "alpha"),
    [("1", 1, None), ("L", 1, None), ("LA", 2, 1), ("P", 3, None), ("RGB", 3, None), ("RGBA", 4, 3), ("I;16", 1, None)],
)
@pytest.mark.parametrize("large", [False, True])
def test_png(
    tmp_path: Path, mode: str, bands: int, alpha: int | None, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(decoded, "SMALL_PIXELS", 100)
    if mode == "I;16":
        image = Image.fromarray(noise(40, 60, dtype="uint16"))
    else:
        image = Image.fromarray(noise(40, 60, 4)).convert("RGB" if mode == "P" else mode).convert(mode)
    image.save(tmp_path / "a.png")
    expected = np.asarray(image.convert("RGB") if mode == "P" else image)
    expected = expected.astype(np.uint8) * 255 if mode == "1" else expected
    scratch = tmp_path / "scratch"
    check_windows(tmp_path / "a.png", expected.reshape(40, 60, bands), scratch=scratch)
    with open_raster(tmp_path / "a.png", scratch=scratch) as raster:
        assert raster.alpha == alpha
        assert large == any(scratch.glob("*/*"))
    assert not large or not any(scratch.iterdir())  # what was unpacked is gone


@pytest.mark.parametrize("palette_alpha", [False, True])
def test_transparency_becomes_a_band(tmp_path: Path, palette_alpha: bool) -> None:
    image = Image.fromarray(noise(40, 60) // 64)
    if palette_alpha:
        image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    image.save(tmp_path / "a.png", transparency=2)
    with open_raster(tmp_path / "a.png") as raster:
        assert raster.alpha == raster.bands - 1
        pixels = raster.read(Window(0, 0, 40, 60))
    assert np.array_equal(pixels[..., -1] == 0, np.asarray(image) == 2)


@pytest.mark.parametrize("bands", [2, 3, 4])
def test_deep_png_keeps_its_bits(tmp_path: Path, bands: int) -> None:
    pixels = noise(40, 60, bands, dtype="uint16")
    write(tmp_path / "a.png", pixels, alpha=bands - 1 if bands != 3 else None)
    check_windows(tmp_path / "a.png", pixels)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_large_jpeg_is_unpacked(tmp_path: Path, orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "SMALL_PIXELS", 100)
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


def _exif(data: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(data)
    return exif


def test_a_large_cmyk_jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(smooth(40, 60)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    monkeypatch.setattr(decoded, "SMALL_PIXELS", 100)
    assert np.abs(whole(tmp_path / "a.jpg").astype(int) - load_image(tmp_path / "a.jpg")).max() <= 2


def test_webp_gif_and_names_that_are_not_ascii(tmp_path: Path) -> None:
    path = tmp_path / "Grüße 写真.webp"
    Image.fromarray(noise(40, 60, 4)).save(path, lossless=True, exact=True)
    check_windows(path, noise(40, 60, 4))
    Image.fromarray(noise(40, 60, 3)).quantize(32).save(tmp_path / "a.gif")
    check_windows(tmp_path / "a.gif", load_image(tmp_path / "a.gif"))


def test_no_room_to_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "SMALL_PIXELS", 100)
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 1000})())
    with pytest.raises(RasterError, match=r"a\.png: 64 x 64 pixels take 0\.0 MB unpacked, .*free some space"):
        open_raster(tmp_path / "a.png", scratch=tmp_path / "scratch")
    assert not any((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_truncated_images(tmp_path: Path, name: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:
        monkeypatch.setattr(decoded, "SMALL_PIXELS", 100)
    Image.fromarray(noise(300, 300, 3)).save(tmp_path / name)
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size // 2)
    with pytest.raises(RasterError, match=rf"{name}: damaged or truncated image") as caught:
        open_raster(tmp_path / name, scratch=tmp_path / "scratch")
    assert "\n" not in str(caught.value)
