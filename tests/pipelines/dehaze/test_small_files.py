"""A small image is written without staging on the disk, byte for byte like one that was staged."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

from visionzoo.errors import InputError
from visionzoo.pipelines.dehaze import DehazePipeline
from visionzoo.pipelines.dehaze import pipeline as dehaze_pipeline

from ...io.profiles import ADOBE_RGB, display
from .images import NODATA, geotiff, names, view


def _jpeg(path: Path) -> Path:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a maker", 6
    Path(f"{path}.aux.xml").write_text("<PAMDataset><Metadata><MDI key='where'>there</MDI></Metadata></PAMDataset>")
    path.with_suffix(".jgw").write_text("2\n0\n0\n-2\n1000\n5000\n")
    image = Image.fromarray(view(270, 300))
    image.save(path, quality=95, exif=exif, icc_profile=display(ADOBE_RGB, 2.2), dpi=(200, 200), comment=b"a remark")
    return path


def _png(path: Path) -> Path:
    Image.fromarray(view(270, 300, 4)).save(path, dpi=(150, 150))
    return path


def _deep_png(path: Path) -> Path:
    pyvips = pytest.importorskip("pyvips")
    pixels = view(270, 300).astype(np.uint16) * 200
    pyvips.Image.new_from_array(pixels, interpretation="rgb16").pngsave(str(path), bitdepth=16)
    return path


def _tiff(path: Path) -> Path:
    pixels = view(270, 300).astype(np.uint16) * 20 + 1
    pixels[30:60, 40:80] = NODATA
    return geotiff(path, pixels, nodata=str(NODATA))


def _array(path: Path) -> Path:
    np.save(path, view(270, 300).astype(np.float32) / 255)
    return path


@pytest.mark.parametrize(
    ("make", "source", "target"),
    [
        (_jpeg, "in.jpg", "out.jpg"),
        (_jpeg, "in.jpg", "out.png"),
        (_jpeg, "in.jpg", "out.tif"),
        (_png, "in.png", "out.png"),
        (_png, "in.png", "out.webp"),
        (_deep_png, "in.png", "out.png"),
        (_tiff, "in.tif", "out.tif"),
        (_tiff, "in.tif", "out.zarr"),
        (_array, "in.npy", "out.npy"),
    ],
)
def test_in_memory_and_streamed_outputs_are_equal(
    pipe: DehazePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, source: str, target: str
) -> None:
    (tmp_path / "from").mkdir()
    path = make(tmp_path / "from" / source)
    for folder, most in (("short", 64), ("long", 0)):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(dehaze_pipeline, "SMALL_TILES", most)
        pipe.run(path, tmp_path / folder / target, progress=False)
    files = {
        folder: {
            file.relative_to(tmp_path / folder): file.read_bytes()
            for file in sorted((tmp_path / folder).rglob("*"))
            if file.is_file() and file.name != f"{target}.json"
        }
        for folder in ("short", "long")
    }
    assert files["short"]
    assert files["short"] == files["long"]


def test_no_other_file_is_written(pipe: DehazePipeline, tmp_path: Path) -> None:
    """No folder of work in progress, not even for a moment: only temporary names of the result and its sidecar."""
    source, made, watching = _jpeg(tmp_path / "in.jpg"), [], [True]

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if watching[0] and event == "os.mkdir":
            made.append(args[0])

    sys.addaudithook(watch)
    pipe.run(source, tmp_path / "out.jpg", progress=False)
    watching[0] = False
    assert made == []
    assert "out.jpg.part" not in names(tmp_path)


def test_a_failure_leaves_nothing(pipe: DehazePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _png(tmp_path / "in.png")
    monkeypatch.setattr(dehaze_pipeline.RasterResult, "write", _raise)
    with pytest.raises(InputError, match="no finite numbers"):
        pipe.run(source, tmp_path / "out.png", progress=False)
    assert names(tmp_path) == ["in.png"]


def test_work_that_was_left_by_a_larger_image_is_deleted(pipe: DehazePipeline, tmp_path: Path) -> None:
    source, work = _png(tmp_path / "in.png"), tmp_path / "out.png.part"
    work.mkdir()
    (work / "belongs_to").write_text("another image")
    pipe.run(source, tmp_path / "out.png", progress=False)
    assert names(tmp_path) == ["in.png", "out.png"]


def _raise(*_: Any) -> None:
    raise InputError("no finite numbers")
