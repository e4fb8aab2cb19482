"""Sidecar files of a raster are read as part of it, and written for results made from it."""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionzoo.io.raster import RasterError, open_raster
from visionzoo.io.raster.georeference import transform_of

from .files import GEO, copy, imwrite, noise, whole

WORLD = "0.5\n0\n0\n-0.5\n500000.25\n4599999.75\n"
NOTES = """<PAMDataset>
  <SRS>EPSG:32633</SRS>
  <GeoTransform>500000, 0.5, 0, 4600000, 0, -0.5</GeoTransform>
  <Metadata><MDI key="TAKEN">2024-05-01</MDI></Metadata>
  <PAMRasterBand band="1">
    <Description>red</Description>
    <NoDataValue>0</NoDataValue>
    <Histograms><HistItem/></Histograms>
    <Metadata><MDI key="STATISTICS_MEAN">7</MDI><MDI key="WAVELENGTH">665</MDI></Metadata>
  </PAMRasterBand>
</PAMDataset>"""


def image(path: Path) -> None:
    if path.suffix == ".tif":
        imwrite(path, noise(20, 24, 3), photometric="rgb")
    else:
        Image.fromarray(noise(20, 24, 3)).save(path)


@pytest.mark.parametrize(
    ("source", "beside", "result", "expected"),
    [
        ("a.jpg", "a.jgw", "b.jpg", "b.jgw"),
        ("a.jpeg", "a.wld", "b.jpeg", "b.jgw"),
        ("a.tif", "a.tfw", "b.tif", "b.tfw"),
        ("a.tif", "a.TFW", "b.png", "b.pgw"),
        ("a.tif", "a.tifw", "b.webp", "b.wld"),
        ("a.png", "a.pgw", "b.tif", "b.tfw"),
        ("a.webp", "a.wld", "b.tiff", "b.tfw"),
        ("a.tif", "a.prj", "b.png", "b.prj"),
        ("a.tif", "a_rpc.txt", "b.tif", "b_rpc.txt"),
        ("a.tif", "a_RPC.TXT", "b.tif", "b_RPC.TXT"),
        ("a.tif", "a.RPB", "b.jpg", "b.RPB"),
        ("a.tif", "a.IMD", "b.tif", "b.IMD"),
    ],
)
def test_sidecars_of_images(tmp_path: Path, source: str, beside: str, result: str, expected: str) -> None:
    image(tmp_path / source)
    (tmp_path / beside).write_text(WORLD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy(tmp_path / source, tmp_path / result)
    assert (tmp_path / expected).read_text() == WORLD
    assert {p.name for p in tmp_path.iterdir()} == {source, beside, result, expected, f"{result}.work"}


@pytest.mark.parametrize("result", ["b.tif", "b.png", "b.jpg"])
def test_notes_of_gdal(tmp_path: Path, result: str) -> None:
    """Metadata about the source's pixels are dropped. No-data is stored as the format allows: as a tag, in the notes, or as a mask."""
    image(tmp_path / "a.png")
    (tmp_path / "a.png.aux.xml").write_text(NOTES)
    copy(tmp_path / "a.png", tmp_path / result)
    root = ET.parse(tmp_path / f"{result}.aux.xml").getroot()
    assert root.findtext("SRS") == "EPSG:32633"
    assert root.findtext("GeoTransform") == "500000, 0.5, 0, 4600000, 0, -0.5"
    assert root.findtext("Metadata/MDI") == "2024-05-01"
    band = root.find("PAMRasterBand")
    assert band is not None
    assert band.findtext("Description") == "red"
    assert band.find("Histograms") is None
    assert [item.get("key") for item in band.iter("MDI")] == ["WAVELENGTH"]


def test_damaged_metadata_files_are_reported(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    for content in ("x", "<html></html>", '<PAMDataset><PAMRasterBand band="one"/></PAMDataset>'):
        (tmp_path / "a.jpg.aux.xml").write_text(content)
        with pytest.warns(UserWarning, match=r"a\.jpg\.aux\.xml: cannot be read \(.*\); it is ignored"):
            whole(tmp_path / "a.jpg")


@pytest.mark.parametrize("beside", ["a.jgw", "a_rpc.txt", "a.jpg.aux.xml"])
def test_a_georeferenced_image_is_not_turned(tmp_path: Path, beside: str) -> None:
    """Coordinates count from the stored corner, so the orientation tag stays."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(20, 24, 3)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / beside).write_text(NOTES if beside.endswith("xml") else WORLD)
    for name in ("b.jpg", "c.tif", "d.png"):
        copy(tmp_path / "a.jpg", tmp_path / name)
        with open_raster(tmp_path / name) as raster, Image.open(tmp_path / name) as image:
            assert (raster.height, raster.width) == (20, 24)
            assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize("names", [("a.tif.ovr",), ("a.xmp",), ("a.tab", "a.tif.points")])
def test_metadata_that_is_not_copied_is_reported_once(tmp_path: Path, names: tuple[str, ...]) -> None:
    image(tmp_path / "a.tif")
    for name in names:
        (tmp_path / name).write_text("x")
    with pytest.warns(UserWarning, match=rf"b\.tif: not carried over: .*{names[-1]}") as told:
        copy(tmp_path / "a.tif", tmp_path / "b.tif")
    assert len(told) == 1


def test_the_georeference_of_a_tiff_is_written_to_sidecars_of_other_formats(tmp_path: Path) -> None:
    """It is written as a world file and in GDAL's notes with the coordinate system, and read from there back into a TIFF."""
    metadata = '<GDALMetadata><Item name="TAKEN">2024</Item><Item name="D" sample="0" role="description">red</Item></GDALMetadata>'
    imwrite(tmp_path / "a.tif", noise(20, 24), extratags=[*GEO, (42112, 2, 0, metadata, True)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("b.png", "b2.jpg"):
            copy(tmp_path / "a.tif", tmp_path / name)
        copy(tmp_path / "b.png", tmp_path / "c.tif")
    for name in ("b.pgw", "b2.jgw", "c.tfw"):
        assert [float(line) for line in (tmp_path / name).read_text().split()] == [10, 0, 0, -10, 399965, 5699995]
    for name in ("b.png", "b2.jpg", "c.tif"):
        root = ET.parse(tmp_path / f"{name}.aux.xml").getroot()
        assert root.findtext("SRS") == "EPSG:32633"
        transform = [float(value) for value in (root.findtext("GeoTransform") or "").split(",")]
        assert transform == [399960, 10, 0, 5700000, 0, -10]
        assert root.findtext("Metadata/MDI") == "2024"
        assert root.findtext("PAMRasterBand/Description") == "red"


def test_coordinates_of_centres() -> None:
    """GeoKey 1025 = 2: the tie point is the centre of a pixel."""
    tags = [(33550, 12, 3, (2.0, 2.0, 0.0)), (33922, 12, 6, (0.0, 0.0, 0.0, 100.0, 200.0, 0.0))]
    keys = (34735, 3, 8, (1, 1, 0, 1, 1025, 0, 1, 2))
    assert transform_of((*tags, keys)) == (99, 2, 0, 201, 0, -2)
    matrix = (34264, 12, 16, (2.0, 1.0, 0.0, 100.0, 1.0, -2.0, 0.0, 200.0, *(0.0,) * 7, 1.0))
    assert transform_of((matrix,)) == (100, 2, 1, 200, 1, -2)
    assert transform_of(()) is None


def test_a_georeference_that_a_world_file_cannot_hold(tmp_path: Path) -> None:
    points = tuple(float(value) for value in range(18))
    imwrite(tmp_path / "a.tif", noise(20, 24), extratags=[(33922, 12, 18, points, True)])
    with pytest.warns(UserWarning, match=r"b\.png: \.png cannot hold the georeference of the source"):
        copy(tmp_path / "a.tif", tmp_path / "b.png")


def test_files_of_another_raster_are_not_replaced(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    (tmp_path / "a.jgw").write_text(WORLD)
    (tmp_path / "b.jgw").write_text("another raster's")
    with pytest.raises(RasterError, match=r"b\.jgw: exists already; choose another name or add --overwrite"):
        copy(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert not (tmp_path / "b.jpg").exists()
    copy(tmp_path / "a.jpg", tmp_path / "b.jpg", overwrite=True)
    assert (tmp_path / "b.jgw").read_text() == WORLD
    copy(tmp_path / "a.jpg", tmp_path / "a.jpeg")  # they are already there, and stay
    assert (tmp_path / "a.jgw").read_text() == WORLD


def test_arrays_have_no_sidecar_files(tmp_path: Path) -> None:
    image(tmp_path / "a.tif")
    (tmp_path / "a.tfw").write_text(WORLD)
    with pytest.warns(UserWarning, match=r"b\.npy: \.npy cannot hold the georeference"):
        copy(tmp_path / "a.tif", tmp_path / "b.npy")
    assert np.array_equal(np.load(tmp_path / "b.npy"), noise(20, 24, 3))
