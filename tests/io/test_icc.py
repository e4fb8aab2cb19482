"""Embedded profiles are converted to sRGB, so that a network sees the intended colours."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from visionzoo.io.files import bundled
from visionzoo.io.icc import srgb_transform
from visionzoo.io.image import load_image

from .profiles import ADOBE_RGB, DISPLAY_P3, PROPHOTO, display, grey_display, press

SRGB = ImageCms.createProfile("sRGB")
WIDE = {
    "Adobe RGB": display(ADOBE_RGB, 2.2),
    "Display P3": display(DISPLAY_P3, 2.2),
    "ProPhoto": display(PROPHOTO, 1.8),
}


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with Image.open(bundled("photos", "coffee_1.jpg")) as image:
        return image.convert("RGB").resize((96, 64))


def as_stored(image: Image.Image, profile: bytes) -> Image.Image:
    """The image as stored by a program that works with the colours of `profile`."""
    made = ImageCms.profileToProfile(
        image,
        SRGB,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
    )
    assert made is not None
    return made


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_wide_gamut_photos_look_like_the_original(tmp_path: Path, photo: Image.Image, name: str, suffix: str) -> None:
    stored = as_stored(photo, WIDE[name])
    unconverted = np.abs(np.asarray(stored, int) - np.asarray(photo, int)).mean()
    assert unconverted > 4  # makes sure that the test can fail
    path = tmp_path / f"wide{suffix}"
    options = {".jpg": {"quality": 98, "subsampling": 0}, ".webp": {"lossless": True}}.get(suffix, {})
    stored.save(path, icc_profile=WIDE[name], **options)
    pixels = load_image(path).astype(int)
    # a level in ProPhoto is several levels in sRGB, so JPEG's losses count more
    assert np.abs(pixels - np.asarray(photo, int)).mean() < (unconverted / 5 if suffix == ".jpg" else 1)
    with Image.open(path) as image:
        assert np.array_equal(load_image(image), pixels)
        image.load()
        assert np.array_equal(load_image(image), pixels)
    assert np.array_equal(load_image(path.read_bytes()), pixels)


def test_sixteen_bits_and_alpha_are_converted_too(tmp_path: Path, photo: Image.Image) -> None:
    profile = WIDE["Adobe RGB"]
    stored = as_stored(photo, profile)
    tifffile.imwrite(
        tmp_path / "deep.tif",
        np.asarray(stored).astype(np.uint16) * 257,
        photometric="rgb",
        extratags=[(34675, 7, len(profile), profile, True)],
    )
    assert np.abs(load_image(tmp_path / "deep.tif").astype(int) - np.asarray(photo, int)).mean() < 1
    stored.putalpha(Image.new("L", stored.size, 255))
    stored.save(tmp_path / "alpha.png", icc_profile=profile)
    assert np.abs(load_image(tmp_path / "alpha.png").astype(int) - np.asarray(photo, int)).mean() < 1


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_profiles(tmp_path: Path, mode: str) -> None:
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (4, 1)))
    (ramp if mode == "L" else ramp.convert("LA")).save(tmp_path / "a.png", icc_profile=grey_display(1.0))
    linear = np.arange(256) / 255
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    pixels = load_image(tmp_path / "a.png")
    assert np.abs(pixels[0] - curve[:, None]).max() <= 1.5


def test_inks_are_what_the_press_prints(tmp_path: Path) -> None:
    cases: tuple[tuple[str, dict[str, Any]], ...] = (("a.jpg", {"quality": 98}), ("a.tif", {}))
    for name, options in cases:
        Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / name, icc_profile=press(), **options)
        assert np.abs(load_image(tmp_path / name).astype(int) - 119).max() <= 4  # L* = 50
        Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / name, icc_profile=press(), **options)
        assert load_image(tmp_path / name).min() >= 252


def test_editions_of_srgb_change_nothing(tmp_path: Path, photo: Image.Image) -> None:
    profile = ImageCms.ImageCmsProfile(SRGB).tobytes()
    assert srgb_transform(profile, "RGB") is None
    photo.save(tmp_path / "a.png", icc_profile=profile)
    assert np.array_equal(load_image(tmp_path / "a.png"), np.asarray(photo))


def test_a_transform_is_built_once_per_profile() -> None:
    assert srgb_transform(bytes(WIDE["ProPhoto"]), "RGB") is srgb_transform(b"" + WIDE["ProPhoto"], "RGB")


@pytest.mark.parametrize("profile", [b"not a profile", WIDE["ProPhoto"][:200], WIDE["ProPhoto"][:128] + b"\xff" * 300])
def test_a_damaged_profile_gives_one_warning(tmp_path: Path, photo: Image.Image, profile: bytes) -> None:
    photo.save(tmp_path / "a.png", icc_profile=profile)
    with pytest.warns(UserWarning, match=r"a\.png: the ICC profile is damaged") as caught:
        assert np.array_equal(load_image(tmp_path / "a.png"), np.asarray(photo))
    assert len(caught) == 1


def test_a_profile_of_another_colour_space_is_ignored(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.png", icc_profile=grey_display(1.0))
    photo.convert("L").save(tmp_path / "b.png", icc_profile=WIDE["ProPhoto"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(load_image(tmp_path / "a.png"), np.asarray(photo))
        assert np.array_equal(load_image(tmp_path / "b.png")[..., 0], np.asarray(photo.convert("L")))


def test_lab_is_converted(tmp_path: Path) -> None:
    lab = Image.new("LAB", (8, 8))
    lab.paste((138, 209, 198), (0, 0, 8, 8))  # red: L* 54, a* 81, b* 70
    lab.save(tmp_path / "a.tif")
    assert np.abs(load_image(tmp_path / "a.tif")[4, 4].astype(int) - (255, 0, 0)).max() <= 6
    stored = np.tile(np.array([138, 209, 198], np.uint8), (8, 8, 1))  # the other of TIFF's two kinds has an offset
    tifffile.imwrite(tmp_path / "b.tif", stored, photometric="icclab")
    assert np.array_equal(load_image(tmp_path / "b.tif"), load_image(tmp_path / "a.tif"))


def test_reduced_jpegs_keep_orientation_and_colours(
    tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding at a fraction of the size changes only the size."""
    large = photo.resize((960, 640))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = as_stored(large, WIDE["ProPhoto"]).transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "a.jpg", icc_profile=WIDE["ProPhoto"], exif=exif, quality=98, subsampling=0)
    small = load_image(tmp_path / "a.jpg", max_side=96)
    assert small.shape == (64, 96, 3)
    assert np.abs(small.astype(int) - np.asarray(large.resize((96, 64), Image.Resampling.BOX), int)).mean() < 2.5
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.array_equal(load_image(image, max_side=96), small)
        assert image.size == (640, 960)  # untouched
        image.load()
        assert np.abs(load_image(image, max_side=96).astype(int) - small).mean() < 2
    stored.save(  # as a phone stores it, with a second image behind
        tmp_path / "c.jpg",
        "MPO",
        save_all=True,
        append_images=[stored.resize((8, 8))],
        exif=exif,
        quality=98,
        subsampling=0,
        icc_profile=WIDE["ProPhoto"],
    )
    with Image.open(tmp_path / "c.jpg") as image:
        assert image.format == "MPO"
        assert np.array_equal(load_image(image, max_side=96), load_image(tmp_path / "c.jpg", max_side=96))
    monkeypatch.setenv("VISIONZOO_MAX_PIXELS", "100000")  # decoded at its full size, it would be refused
    assert np.abs(load_image(tmp_path / "c.jpg", max_side=96).astype(int) - small).mean() < 1
    Image.new("CMYK", (640, 320), (255, 0, 0, 0)).save(tmp_path / "b.jpg", icc_profile=press(), quality=98)
    pixels = load_image(tmp_path / "b.jpg", max_side=64)
    assert pixels.shape == (32, 64, 3)
    assert np.abs(pixels.astype(int) - 119).max() <= 4
