"""When, where and by whom an image was taken is kept, or named in a warning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from visionzoo.io.raster import (
    RasterProfile,
    Window,
    open_raster,
    pictures,
    writer,
)

from .files import GEO, check_windows, noise, smooth, whole, write


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


def _exif(data: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(data)
    return exif


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


def test_exif_that_does_not_fit_is_told_of(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 70_000
    with pytest.warns(UserWarning, match=r"the EXIF data \(\d+ bytes\) do not fit into \.jpg"):
        write(tmp_path / "a.jpg", smooth(40, 50), profile=RasterProfile(exif=exif.tobytes()))
    assert whole(tmp_path / "a.jpg").shape == (40, 50, 3)
