"""The time, place and author of an image are kept, or named in a warning."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational

from visionzoo.io.raster import RasterProfile, Window, decoded, encode_tiff, open_raster, writer
from visionzoo.io.raster.metadata import photoshop_of_iptc

from .files import GEO, check_windows, copy, imwrite, noise, smooth, whole, write


def test_georeference_of_a_geotiff(tmp_path: Path) -> None:
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
def test_the_metadata_of_a_photo_is_kept(
    tmp_path: Path, name: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"><a>kept</a></x:xmpmeta>'
    Image.fromarray(smooth(40, 60)).save(tmp_path / "a.jpg", exif=exif, icc_profile=icc, dpi=(300, 300), xmp=xmp)
    if large:
        monkeypatch.setattr(decoded, "SMALL_PIXELS", 100)
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
def test_the_georeference_of_a_geotiff_is_kept(tmp_path: Path, compression: str | None) -> None:
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
        page: Any = file.pages[0]
        before: Any = source.pages[0]
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


def test_lost_metadata_is_reported(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(40, 50, 3), photometric="rgb", extratags=GEO)
    with open_raster(tmp_path / "a.tif") as raster:
        profile = raster.profile
    with pytest.warns(
        UserWarning, match=r"b\.npy: \.npy cannot hold the no-data value \(-9999\) and georeference of the source"
    ):
        write(tmp_path / "b.npy", noise(40, 50, 3), profile=profile)


def test_exif_that_does_not_fit_is_reported(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 70_000
    with pytest.warns(UserWarning, match=r"the EXIF data \(\d+ bytes\) do not fit into \.jpg"):
        write(tmp_path / "a.jpg", smooth(40, 50), profile=RasterProfile(exif=exif.tobytes()))
    assert whole(tmp_path / "a.jpg").shape == (40, 50, 3)
    with pytest.warns(UserWarning, match=r"the IPTC data \(\d+ bytes\) do not fit into \.jpg"):
        write(tmp_path / "b.jpg", smooth(40, 50), profile=RasterProfile(iptc=b"x" * 70_000))
    assert whole(tmp_path / "b.jpg").shape == (40, 50, 3)


# Between formats

IPTC = b"\x1c\x02\x37\x00\x0820240501" + b"\x1c\x02\x5a\x00\x06Zurich"
"""Date created and city."""


def photo(path: Path, **options: Any) -> None:
    """A photo with time and place, taken by a camera that was held upright."""
    exif = Image.Exif()
    for code, value in {0x010F: "maker", 0x0132: "2024:05:01 10:00:00", 0x013B: "someone", 0x013C: "computer",
                        0x8298: "(c) someone", 0x010E: "a lake", 0x0112: 6}.items():  # fmt: skip
        exif[code] = value
    inner, gps = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
    inner |= {
        0x9003: "2024:05:01 10:00:00",
        0x829A: IFDRational(1, 250),
        0x927C: b"note of the maker",
        0xA002: 60,
        0xA003: 40,
    }
    inner[0xA005] = {1: "R98"}
    gps |= {1: "N", 2: (50.0, 1.0, 2.5), 5: b"\0", 29: "2024:05:01"}
    about = photoshop_of_iptc(IPTC)
    if path.suffix == ".jpg":
        options |= {"extra": b"\xff\xed" + (len(about) + 2).to_bytes(2, "big") + about}
    image = Image.fromarray(smooth(40, 60))
    image.save(path, exif=exif, xmp=b'<x tiff:Orientation="6"><a>kept</a></x>', **options)


def metadata_of(path: Path) -> tuple[Image.Exif, dict[int, Any], dict[int, Any]]:
    """EXIF data as Pillow reads them from a file: the first directory, the inner one, GPS."""
    with Image.open(path) as image:
        exif = image.getexif()
        return exif, dict(exif.get_ifd(0x8769)), dict(exif.get_ifd(0x8825))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("to", [".tif", ".jpg", ".png", ".webp"])
@pytest.mark.parametrize("through", [None, ".tif", ".png"])
def test_when_and_where_a_photo_was_taken(
    tmp_path: Path, through: str | None, to: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.jpg")
    source = tmp_path / "a.jpg"
    if large:
        monkeypatch.setattr(decoded, "SMALL_PIXELS", 100)
        monkeypatch.setattr(writer, "SMALL_PIXELS", 100)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if through:
            copy(source, tmp_path / f"b{through}")
            source = tmp_path / f"b{through}"
        copy(source, tmp_path / f"c{to}")
    exif, inner, gps = metadata_of(tmp_path / f"c{to}")
    words = {code: exif.get(code) for code in (0x010F, 0x0132, 0x013B, 0x8298, 0x010E, 0x013C)}
    unnamed = large and (to != ".tif" or through == ".png")  # libvips drops the host computer, which is reported
    assert list(words.values()) == [
        *("maker", "2024:05:01 10:00:00", "someone", "(c) someone", "a lake", None if unnamed else "computer")
    ]
    assert exif.get(0x0112, 1) == 1, "the pixels are upright"
    assert (inner[0x9003], inner[0x927C], float(inner[0x829A])) == ("2024:05:01 10:00:00", b"note of the maker", 0.004)
    assert (inner[0xA002], inner[0xA003]) == (40, 60)
    assert (gps[1], tuple(map(float, gps[2])), gps[29]) == ("N", (50, 1, 2.5), "2024:05:01")
    with open_raster(tmp_path / f"c{to}") as raster:
        assert (raster.height, raster.width) == (60, 40)
        assert raster.profile.xmp == b"<x><a>kept</a></x>"
        holds = to in (".tif", ".jpg") and through != ".png"
        assert (raster.profile.iptc == IPTC) == holds
    lost = [str(warning.message) for warning in told]
    assert any("cannot hold the IPTC data" in line for line in lost) != holds
    assert any("the host computer in the EXIF data cannot be written into a large" in line for line in lost) == unnamed
    assert len(lost) == (not holds) + unnamed


def test_exif_in_a_big_tiff_of_either_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "a.jpg")
    monkeypatch.setattr(encode_tiff, "_CLASSIC_LIMIT", 0)
    copy(tmp_path / "a.jpg", tmp_path / "b.tif")
    assert (tmp_path / "b.tif").read_bytes()[:4] == b"II+\0"
    copy(tmp_path / "b.tif", tmp_path / "c.jpg")
    assert metadata_of(tmp_path / "c.jpg")[2][29] == "2024:05:01"
    for order in "<>":
        for big in (False, True):
            imwrite(
                tmp_path / "d.tif",
                noise(9, 9),
                byteorder=order,
                bigtiff=big,
                extratags=[(306, 2, 0, "2024:05:01 10:00:00", True)],
            )
            copy(tmp_path / "d.tif", tmp_path / "e.png", overwrite=True)
            assert metadata_of(tmp_path / "e.png")[0][306] == "2024:05:01 10:00:00"


def test_a_tiff_keeps_what_pillow_wrote(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "a.tif", exif=image.getexif())
    for name in ("b.tif", "c.jpg"):
        copy(tmp_path / "a.tif", tmp_path / name)
        exif, inner, gps = metadata_of(tmp_path / name)
        assert (exif[306], inner[0x9003], gps[1]) == ("2024:05:01 10:00:00", "2024:05:01 10:00:00", "N")


def test_text_metadata_is_kept(tmp_path: Path) -> None:
    about = PngInfo()
    about.add_text("Creation Time", "2024-05-01")
    about.add_itxt("Author", "Zoë")
    Image.fromarray(noise(9, 9, 3)).save(tmp_path / "a.png", pnginfo=about)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("b.png", "c.jpg", "d.tif"):
            copy(tmp_path / "a.png", tmp_path / name)
    with Image.open(tmp_path / "b.png") as image:
        written: Any = image
        assert written.text == {"Creation Time": "2024-05-01", "Author": "Zoë"}
    with Image.open(tmp_path / "c.jpg") as image:
        assert image.info["comment"].decode() == "Creation Time: 2024-05-01\nAuthor: Zoë"
    assert metadata_of(tmp_path / "d.tif")[0][270].startswith("Creation Time: 2024-05-01\nAuthor: Zo")
    with pytest.warns(
        UserWarning, match=r"e\.webp: \.webp cannot hold the remarks Creation Time, Author of the source"
    ):
        copy(tmp_path / "a.png", tmp_path / "e.webp")


def test_damaged_exif_is_reported(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    copy(tmp_path / "a.jpg", tmp_path / "b.tif")
    content = bytearray((tmp_path / "b.tif").read_bytes())
    place = content.rindex(b"\x69\x87\4\0\1\0\0\0")
    content[place + 8 : place + 12] = b"\xff\xff\xff\0"  # beyond the end of the file
    (tmp_path / "b.tif").write_bytes(content)
    with pytest.warns(UserWarning, match=r"b\.tif: the EXIF data are damaged and not kept"):
        assert whole(tmp_path / "b.tif").shape == (60, 40, 3)
