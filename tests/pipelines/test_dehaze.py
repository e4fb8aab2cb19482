"""Taking haze off files: the network's own numbers, nothing lost when something goes wrong, and large pictures gone on with."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

import tifffile

import visionzoo
from tests.golden import seeded
from visionzoo.cli import main
from visionzoo.errors import InputError
from visionzoo.io.extensions import VIDEOS_WRITTEN
from visionzoo.io.image import load_image
from visionzoo.io.raster import writer as raster_writer
from visionzoo.io.video import VideoWriter
from visionzoo.jobs import make_plan
from visionzoo.models.dehazexl import DehazeXL, DehazeXLConfig
from visionzoo.models.dehazexl.placement import StreamOptions
from visionzoo.pipelines.dehaze import DehazePipeline, DehazeResult
from visionzoo.pipelines.dehaze.files import KINDS
from visionzoo.weights import WeightsError, save_safetensors

from ..io.odd_files import dds

NODATA = 42113


@pytest.fixture(scope="session")
def network() -> DehazeXL:
    """A network of no use, but whose every weight counts."""
    model = DehazeXL(
        DehazeXLConfig(
            embed_dim=8,
            depths=(1, 2, 1, 1),
            heads=(1, 1, 2, 2),
            bottleneck_heads=4,
            decoder_depths=(1, 2, 1, 1),
            decoder_heads=(4, 2, 2, 1),
        )
    ).eval()
    model.load_state_dict(seeded.fill(model.state_dict()))
    return model


@pytest.fixture
def pipe(network: DehazeXL) -> DehazePipeline:
    return DehazePipeline(network)


@pytest.fixture(scope="session")
def weights(network: DehazeXL, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    DehazePipeline(network).save_pretrained(folder)
    return folder / "model.safetensors"


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def view(height: int, width: int, bands: int = 3, seed: int = 0) -> np.ndarray:
    """(height, width, bands) uint8, smooth."""
    cells = np.random.RandomState(seed).randint(0, 256, (height // 24 + 2, width // 24 + 2, bands)).astype(np.uint8)
    large = [
        Image.fromarray(cells[..., band]).resize((width, height), Image.Resampling.BICUBIC) for band in range(bands)
    ]
    return np.stack([np.asarray(band) for band in large], -1)


def forward(model: DehazeXL, unit: np.ndarray) -> np.ndarray:
    """(H, W, 3) in [0, 1] -> what the network itself makes of it, not clamped."""
    with torch.no_grad():
        return model(torch.from_numpy(unit.astype(np.float32)).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()


def eight_bits(unit: np.ndarray) -> np.ndarray:
    return (unit.clip(0, 1) * 255).round()


def geotiff(path: Path, pixels: np.ndarray, nodata: str | None = None, **more: Any) -> Path:
    if pixels.ndim == 3:
        more = {"photometric": "rgb" if pixels.shape[2] in (3, 4) else "minisblack", "planarconfig": "contig"} | more
    tags = [(NODATA, 2, 0, nodata, True)] if nodata is not None else None
    tifffile.imwrite(path, pixels, metadata=None, extratags=tags, **more)
    return path


def run(capsys: pytest.CaptureFixture, *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return int(stop.value.code or 0), out, err


def names(folder: Path) -> list[str]:
    """Files below a folder without sidecars."""
    files = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in files if not name.endswith(".json"))


# Right pixels


@pytest.mark.parametrize("ending", [".png", ".tif", ".webp", ".jpg", ".npy"])
def test_one_picture(
    capsys: pytest.CaptureFixture, network: DehazeXL, weights: Path, photo: Callable, tmp_path: Path, ending: str
) -> None:
    """What is written is what the network gives for the same pixels, up to rounding (or the format's loss)."""
    source, target = photo("hazy.jpg", size=(300, 270), quality=95), tmp_path / f"clear{ending}"
    code, out, err = run(capsys, "dehaze", source, "-o", target, "--checkpoint", weights)
    assert (code, out) == (0, "")
    assert "written: " in err
    assert "(300 x 270, " in err
    want = eight_bits(forward(network, np.asarray(Image.open(source)) / 255))
    got = np.load(target) if ending == ".npy" else np.asarray(Image.open(target))
    assert (got.dtype, got.shape) == (np.uint8, (270, 300, 3))
    if ending in (".png", ".tif", ".npy"):
        assert np.abs(got - want).max() <= 1
    else:
        assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.8
    saved = json.loads((tmp_path / f"clear{ending}.json").read_text())
    assert (saved["result"]["width"], saved["result"]["height"], saved["result"]["error"]) == (300, 270, None)
    assert saved["options"]["weights"] == DehazePipeline(network).fingerprint
    assert saved["options"]["checkpoint"] == str(weights)
    assert saved["environment"]["versions"]["torch"]
    assert names(tmp_path) == sorted([f"clear{ending}", "hazy.jpg"])


def test_blended(pipe: DehazePipeline, tmp_path: Path) -> None:
    """The same as blending in memory."""
    pixels = view(300, 400).astype(np.float32) / 255
    geotiff(tmp_path / "in.tif", pixels)
    blend = StreamOptions(blend=True)
    pipe.run(tmp_path / "in.tif", tmp_path / "out.tif", progress=False, stream=blend, limits=(0, 1))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    want = pipe.restore_tensor(tensor, blend).permute(1, 2, 0).numpy()
    assert np.abs(tifffile.imread(tmp_path / "out.tif") - want).max() < 1e-4
    assert np.abs(pipe.restore_tensor(tensor).permute(1, 2, 0).numpy() - want).mean() > 0.01


def test_networks_that_smooth_within_patches_are_blended_unless_told_otherwise(
    network: DehazeXL, inside: Path, capsys: pytest.CaptureFixture
) -> None:
    model = DehazeXL(replace(network.config, smoothing=16)).eval()
    model.load_state_dict(network.state_dict())
    smooth = DehazePipeline(model)
    picture = view(200, 300)
    blended, plain = (smooth(picture, blend=blend).image for blend in (True, False))  # pyright: ignore
    assert not np.array_equal(blended, plain)
    assert np.array_equal(smooth(picture).image, blended)  # pyright: ignore
    rough = DehazePipeline(network)
    assert np.array_equal(rough(picture).image, rough(picture, blend=False).image)  # pyright: ignore
    smooth.save_pretrained("smooth")
    Image.fromarray(picture).save("in.png")
    for name, words in (("a", []), ("b", ["--no-blend"]), ("c", ["--blend"])):
        weights = "smooth/model.safetensors"
        assert run(capsys, "dehaze", "in.png", "-o", f"{name}.png", "--checkpoint", weights, "-q", *words)[0] == 0
        assert json.loads(Path(f"{name}.png.json").read_text())["options"]["blend"] is (name != "b")
    default, without, asked = (load_image(f"{name}.png") for name in "abc")
    assert np.array_equal(default, asked)
    assert np.array_equal(without, plain)
    assert not np.array_equal(default, plain)


def test_a_folder_that_is_called_samples_is_told_from_the_command(inside: Path, capsys: pytest.CaptureFixture) -> None:
    assert "./samples" not in run(capsys, "dehaze", "samples", "-o", "samples")[2]
    assert "run: visionzoo dehaze ./samples -o" in run(capsys, "dehaze", "samples", "-o", "hazy")[2]
    assert names(inside / "hazy") == names(inside / "samples")


def test_upright(pipe: DehazePipeline, photo: Callable, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    result = pipe.run(photo("in.jpg", size=(120, 80), exif=exif), tmp_path / "out.jpg", progress=False)[0]
    assert (result.width, result.height) == (80, 120)
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.size == (80, 120)
        assert image.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (2, 3), (257, 255)], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_odd_sizes(pipe: DehazePipeline, tmp_path: Path, size: tuple[int, int], dtype: type) -> None:
    pixels = (view(*size).astype(np.float64) * (1 if dtype == np.uint8 else 9)).astype(dtype)
    pipe.run(geotiff(tmp_path / "in.tif", pixels), tmp_path / "out.tif", progress=False)
    got = tifffile.imread(tmp_path / "out.tif").reshape(*size, 3)
    assert got.dtype == dtype
    assert np.isfinite(got).all()


# Rasters


def test_sixteen_bits(pipe: DehazePipeline, network: DehazeXL, tmp_path: Path) -> None:
    pixels = view(280, 300).astype(np.uint16) * 10 + 500
    source = geotiff(tmp_path / "in.tif", pixels)
    pipe.run(source, tmp_path / "out.tif", progress=False, limits=(400, 4400))
    want = (forward(network, (pixels - 400.0) / 4000) * 4000 + 400).clip(0, 65535)
    assert np.abs(tifffile.imread(tmp_path / "out.tif") - want).max() < 1
    pipe.run(source, tmp_path / "found.tif", progress=False)
    options = json.loads((tmp_path / "found.tif.json").read_text())["options"]
    assert options["black"] == pytest.approx(pixels.min(), abs=30)
    assert options["white"] == pytest.approx(pixels.max(), abs=30)
    with pytest.raises(InputError, match=r"o\.jpg: \.jpg holds uint8, the image is uint16; choose \.tif"):
        pipe.run(source, tmp_path / "o.jpg", progress=False)
    assert names(tmp_path) == ["found.tif", "in.tif", "out.tif"]


def test_floats_outside_of_0_to_1(pipe: DehazePipeline, network: DehazeXL, tmp_path: Path) -> None:
    """Values beyond black and white go in and come out as they are; within [0, 1] nothing is stretched."""
    pixels = view(260, 270).astype(np.float32) / 255 * 3 - 1
    source = geotiff(tmp_path / "in.tif", pixels)
    pipe.run(source, tmp_path / "out.tif", progress=False, limits=(0, 1))
    assert np.abs(tifffile.imread(tmp_path / "out.tif") - forward(network, pixels)).max() < 1e-4
    geotiff(source, view(260, 270).astype(np.float32) / 255 * 0.9)
    pipe.run(source, tmp_path / "out.tif", progress=False, overwrite=True)
    options = json.loads((tmp_path / "out.tif.json").read_text())["options"]
    assert (options["black"], options["white"]) == (0, 1)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_missing_pixels_stay(pipe: DehazePipeline, tmp_path: Path, dtype: type) -> None:
    """No-data and NaN come back bit by bit, other pixels are never turned into no-data."""
    pixels = (view(300, 520).astype(np.uint16) * 12 + 1).astype(dtype)
    gone = np.zeros((300, 520), bool)
    gone[:40] = gone[100:110, 200:] = True
    pixels[gone] = 0
    holes = np.zeros_like(gone)
    if dtype == np.float32:
        holes[150:160] = True
        pixels[holes, 1] = np.nan
    pipe.run(geotiff(tmp_path / "in.tif", pixels, "0"), tmp_path / "out.tif", progress=False)
    got = tifffile.imread(tmp_path / "out.tif")
    assert got[gone | holes].tobytes() == pixels[gone | holes].tobytes()
    assert np.isfinite(got[~holes]).all()
    assert (got[~gone & ~holes] != 0).all(), "a result of exactly 0 would be no data"
    assert (got != pixels)[~gone & ~holes].mean() > 0.9
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert float(file.pages[0].tags[NODATA].value) == 0  # pyright: ignore


def test_missing_tiles_change_nothing_else(pipe: DehazePipeline, network: DehazeXL, tmp_path: Path) -> None:
    pixels = view(256, 512).astype(np.uint16) * 10 + 1
    pixels[:, 256:] = 0
    pipe.run(geotiff(tmp_path / "in.tif", pixels, "0"), tmp_path / "out.tif", progress=False, limits=(0, 2551))
    want = (forward(network, pixels[:, :256] / 2551) * 2551).clip(1, 65535)
    got = tifffile.imread(tmp_path / "out.tif")
    assert np.abs(got[:, :256] - want).max() < 1
    assert (got[:, 256:] == 0).all()


def test_nothing_there(pipe: DehazePipeline, tmp_path: Path) -> None:
    """Pictures without a single pixel come back as they are; one with next to nothing is dehazed."""
    empty = np.full((300, 280, 3), 7, np.uint16)
    pipe.run(geotiff(tmp_path / "in.tif", empty, "7"), tmp_path / "out.tif", progress=False)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), empty)
    clear = np.dstack([view(280, 300), np.zeros((280, 300), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "in.png")
    pipe.run(tmp_path / "in.png", tmp_path / "out.png", progress=False)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), clear)
    empty[1, 1], empty[277, 2] = 100, 900
    pipe.run(geotiff(tmp_path / "in.tif", empty, "7"), tmp_path / "out.tif", progress=False, overwrite=True)
    changed = (tifffile.imread(tmp_path / "out.tif") != empty).any(-1)
    assert set(zip(*np.nonzero(changed), strict=True)) <= {(1, 1), (277, 2)}


def test_other_bands_stay(capsys: pytest.CaptureFixture, network: DehazeXL, weights: Path, tmp_path: Path) -> None:
    """--bands 3,2,1: blue comes first in the file, and infrared is not touched."""
    pixels = view(256, 260, bands=5)
    source = geotiff(tmp_path / "in.tif", pixels, photometric="minisblack")
    words = ["dehaze", source, "--checkpoint", weights, "--bands", "3,2,1"]
    assert run(capsys, *words, "-o", tmp_path / "out.tif")[0] == 0
    got = tifffile.imread(tmp_path / "out.tif")
    assert np.array_equal(got[..., 3:], pixels[..., 3:])
    want = eight_bits(forward(network, pixels[..., [2, 1, 0]] / 255))
    assert np.abs(got[..., [2, 1, 0]] - want).max() <= 1
    assert run(capsys, *words[:4], "--bands", "5", "-o", tmp_path / "grey.tif")[0] == 0
    got = tifffile.imread(tmp_path / "grey.tif")
    assert np.array_equal(got[..., :4], pixels[..., :4])
    assert not np.array_equal(got[..., 4], pixels[..., 4])


def test_alpha_stays(pipe: DehazePipeline, network: DehazeXL, tmp_path: Path) -> None:
    pixels = view(256, 256, bands=4)
    pixels[..., 3] = 255
    pixels[:30, :, 3], pixels[30:60, :, 3] = 0, 90
    Image.fromarray(pixels).save(tmp_path / "in.png")
    pipe.run(tmp_path / "in.png", tmp_path / "out.png", progress=False)
    got = np.asarray(Image.open(tmp_path / "out.png"))
    assert np.array_equal(got[..., 3], pixels[..., 3])
    assert np.array_equal(got[:30], pixels[:30]), "what cannot be seen stays"
    assert not np.array_equal(got[30:60, :, :3], pixels[30:60, :, :3])
    with pytest.raises(InputError, match=r"bands of colours; .* got \(counted from 1\) 2, 3, 4"):
        pipe.run(tmp_path / "in.png", tmp_path / "no.png", progress=False, bands=(1, 2, 3))


def test_grey(pipe: DehazePipeline, network: DehazeXL, tmp_path: Path) -> None:
    grey = view(256, 300)[..., 0]
    want = eight_bits(forward(network, np.repeat(grey[..., None], 3, 2) / 255).mean(-1))
    for name, pixels in (("l.png", grey), ("la.png", np.dstack([grey, np.full_like(grey, 200)]))):
        Image.fromarray(pixels).save(tmp_path / name)
        pipe.run(tmp_path / name, tmp_path / f"out_{name}", progress=False)
        got = np.asarray(Image.open(tmp_path / f"out_{name}"))
        assert got.shape == pixels.shape
        assert np.abs(got.reshape(256, 300, -1)[..., 0] - want).max() <= 1


@pytest.mark.parametrize(
    ("value", "dtype"), [(0, np.uint8), (255, np.uint8), (7, np.uint16), (1e9, np.float32), (1e30, np.float64)]
)
def test_one_value_everywhere(pipe: DehazePipeline, tmp_path: Path, value: float, dtype: type) -> None:
    geotiff(tmp_path / "in.tif", np.full((50, 60, 3), value, dtype))
    pipe.run(tmp_path / "in.tif", tmp_path / "out.tif", progress=False)
    assert np.isfinite(tifffile.imread(tmp_path / "out.tif")).all()


def test_zarr(pipe: DehazePipeline, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    Image.fromarray(view(50, 60)).save(tmp_path / "in.png")
    pipe.run(tmp_path / "in.png", tmp_path / "out.zarr", progress=False)
    pipe.run(tmp_path / "in.png", tmp_path / "out.png", progress=False)
    want = np.asarray(Image.open(tmp_path / "out.png"))
    assert np.array_equal(zarr.open(store=str(tmp_path / "out.zarr"), mode="r")[:], want)
    with pytest.raises(InputError, match="exists already"):
        pipe.run(tmp_path / "in.png", tmp_path / "out.zarr", progress=False)
    pipe.run(tmp_path / "out.zarr", tmp_path / "back.png", progress=False)
    pipe.run(tmp_path / "in.png", tmp_path / "out.zarr", progress=False, overwrite=True)


# Many files


def test_folders(capsys: pytest.CaptureFixture, weights: Path, photo: Callable, inside: Path) -> None:
    """The folder's order of things is kept, and a second run finds nothing to do, wherever the outputs are."""
    for name in ("a.jpg", "sub/a.JPG", "sub/deep/b.bmp", "c.gif", ".hidden/d.jpg"):
        photo(f"in/{name}", size=(40, 30))
    words = ["dehaze", "in", "-o", "in/clear", "--checkpoint", weights]
    code, _, err = run(capsys, *words)
    assert (code, err.splitlines()[-1]) == (0, "4 files dehazed")
    assert names(inside / "in" / "clear") == ["a.jpg", "c.png", "sub/a.JPG", "sub/deep/b.png"]
    before = {file: file.stat().st_mtime_ns for file in (inside / "in").rglob("*")}
    code, _, err = run(capsys, *words)
    assert code == 0
    assert "0 files dehazed" in err
    assert "4 files skipped, as the output exists already; --overwrite makes it again" in err
    assert before == {file: file.stat().st_mtime_ns for file in (inside / "in").rglob("*")}
    (inside / "in/clear/c.png").unlink()
    code, out, _ = run(capsys, *words, "--json")
    assert [Path(row["source"]).name for row in json.loads(out) if row["seconds"]] == ["c.gif"]
    code, _, err = run(capsys, *words, "--overwrite", "--format", "tif")
    assert "4 files dehazed" in err
    assert (inside / "in/clear/sub/a.tif").exists()


def test_patterns(inside: Path, photo: Callable) -> None:
    """Relative and absolute patterns, pictures and videos at once."""
    for name in ("d/x/1.jpg", "d/y/1.jpg", "d/2.png"):
        photo(name, size=(8, 8))
    for name in ("d/x/clip.mp4", "d/._clip.mp4", "d/words.txt"):
        (inside / name).touch()
    wanted = ["2.png", "x/1.jpg", "x/clip.mp4", "y/1.jpg"]

    def planned(*sources: object) -> list[str]:
        return sorted(
            target.relative_to("out").as_posix()
            for _, target in make_plan([str(s) for s in sources], Path("out"), KINDS).pairs
        )

    for start in (Path("d"), inside / "d"):
        assert planned(start) == planned(start / "**") == wanted
        assert planned(start / "*/*") == wanted[1:]
        assert planned(start / "x/*") == ["1.jpg", "clip.mp4"]
        assert planned(start / "*.png", start / "y/1.jpg", start / "2.png") == ["1.jpg", "2.png"]
    with pytest.raises(InputError, match=r"d/\*\.webp: no images or videos found"):
        planned("d/*.webp")
    with pytest.raises(InputError, match=r"x/1\.jpg would both become out/1\.jpg|y/1\.jpg and .*both become"):
        planned("d/x/1.jpg", "d/y/1.jpg")
    photo("d/2.gif", size=(8, 8))
    with pytest.raises(InputError, match=r"both become out/2\.png"):
        planned("d")


def test_videos_get_an_ending_that_can_be_written(inside: Path) -> None:
    pytest.importorskip("av")
    for name in ("a.mkv", "b.WMV", "c.ts", "d.MP4"):
        (inside / name).touch()
    for number, ending in enumerate(VIDEOS_WRITTEN):
        VideoWriter(inside / f"{number}{ending}", fps=10)  # takes it; writes nothing yet
    planned = {source.name: target.name for source, target in make_plan(".", Path("out"), KINDS, "png").pairs}
    assert planned == {"a.mkv": "a.mkv", "b.WMV": "b.mp4", "c.ts": "c.mp4", "d.MP4": "d.MP4"}
    for target, says in (("x.ts", "unknown extension"), ("x.png", "is a video"), ("x.gif", "unknown extension")):
        with pytest.raises(InputError, match=says):
            make_plan("a.mkv", Path(target), KINDS)
    with pytest.raises(InputError, match="with several inputs, the output must be a folder"):
        make_plan(".", Path("x.wmv"), KINDS)


def test_broken_pictures_among_good_ones(
    capsys: pytest.CaptureFixture, weights: Path, photo: Callable, inside: Path
) -> None:
    for name in ("a.jpg", "c.jpg"):
        photo(f"in/{name}", size=(40, 30))
    (inside / "in/b.jpg").write_bytes((inside / "in/a.jpg").read_bytes()[:200])
    (inside / "in/d.png").write_bytes(dds(93))
    words = ["dehaze", "in", "-o", "out", "--checkpoint", weights]
    code, _, err = run(capsys, *words)
    assert code == 1
    warned = [line for line in err.splitlines() if line.startswith("visionzoo: warning: ")]
    assert [re.findall(r"in/(\w\.\w+):", line) for line in warned] == [["b.jpg"], ["d.png"]]
    assert "2 files dehazed" in err
    assert "2 of 4 files could not be dehazed" in err.splitlines()[-1]
    assert names(inside / "out") == ["a.jpg", "c.jpg"]
    for name in ("a.jpg", "c.jpg"):
        (inside / "in" / name).write_text("words")
    shutil.rmtree("out")
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "none of the 4 files could be dehazed, e.g. in/a.jpg: " in err.splitlines()[-1]
    assert names(inside / "out") == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["gone.jpg", "-o", "out.png"], r"gone\.jpg: no such file or folder"),
        (["empty", "-o", "out"], "empty: no images or videos found"),
        (["a.jpg", "-o", "b.png"], r"b\.png: exists already; choose another name or add --overwrite"),
        (["a.jpg", "-o", "x.gif"], r"x\.gif: unknown extension \.gif; images are written as \.tif, .*\.mp4"),
        (["a.jpg", "-o", "x.xyz"], r"x\.xyz: unknown extension \.xyz"),
        (["a.jpg", "b.png", "-o", "x.gif"], r"x\.gif: with several inputs, the output must be a folder"),
        (["a.jpg", "b.png", "-o", "x.jpg"], r"x\.jpg: with several inputs, the output must be a folder"),
        (["a.jpg", "-o", "x.mp4"], r"x\.mp4: a\.jpg is an image"),
        (["a.jpg", "-o", "no/x.jpg"], r"no/x\.jpg: the folder .*no does not exist; make it first"),
        (["a.jpg", "-o", "text"], "text: is a file, expected a folder"),
        (["a.jpg", "-o", "text/sub"], "text/sub: cannot be made a folder"),
        (["a.jpg", "-o", "a.jpg", "--overwrite"], r"a\.jpg: is the input itself, which is never replaced"),
        ([".", "-o", "."], r"is the input itself"),
        (["a.jpg", "-o", "x.png", "--bands", "1,2"], "--bands takes 1 or 3 numbers"),
        (["a.jpg", "-o", "x.png", "--bands", "0,1,2"], "--bands counts from 1, got 0,1,2"),
        (["a.jpg", "-o", "x.png", "--bands", "1,2,4"], r"a\.jpg: has 3 bands of colours; .* 1, 2, 4"),
        (["a.jpg", "-o", "x.png", "--bands", "1,1,1"], r"a\.jpg: has 3 bands of colours; .* 1, 1, 1"),
        (["a.jpg", "-o", "x.png", "--limits", "9,9"], "the lower first; got 9, 9"),
        (["a.jpg", "-o", "x.png", "--limits", "0,inf"], "the lower first; got 0, inf"),
        (["a.jpg", "-o", "x.png", "--limits", "a"], "--limits takes 2 numbers"),
        (["a.jpg", "-o", "out", "--format", "gif"], r"written as \.tif, .*; got gif"),
        (["a.jpg", "-o", "x.png", "--smooth", "1"], "smooth is at least 0 and below 1, got 1"),
        (["a.jpg", "-o", "x.png", "--tiles", "0"], "at least 1"),
        (["a.jpg", "-o", "x.png", "--device", "cuda:77"], "not available"),
        (["a.jpg", "-o", "x.png", "--checkpoint", "text"], "text: "),
        (["text", "-o", "x.png"], "text: not an image"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    capsys: pytest.CaptureFixture, weights: Path, photo: Callable, inside: Path, words: list[str], says: str
) -> None:
    photo("a.jpg", size=(40, 30))
    photo("b.png", size=(40, 30))
    (inside / "text").write_text("words")
    (inside / "empty").mkdir()
    given = words if "--checkpoint" in words else [*words, "--checkpoint", weights]
    code, _, err = run(capsys, "dehaze", *given)
    errors = [line for line in err.splitlines() if line.startswith("visionzoo: error: ")]
    assert (code, len(errors)) == (2, 1)
    assert re.search(says, errors[0])
    assert names(inside) == ["a.jpg", "b.png", "text"]


def test_endings_are_refused_before_weights_load(capsys: pytest.CaptureFixture, photo: Callable, inside: Path) -> None:
    photo("a.jpg", size=(8, 8))
    code, _, err = run(capsys, "dehaze", "a.jpg", "-o", "x.gif", "--checkpoint", "gone.safetensors")
    assert code == 2
    assert "unknown extension" in err


def test_overwrite(pipe: DehazePipeline, photo: Callable, tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    pipe.run(photo("a.jpg"), target, progress=False)
    before = target.read_bytes()
    pipe.run(photo("b.jpg", seed=1), target, progress=False, overwrite=True)
    assert target.read_bytes() != before


# Large pictures that are interrupted


class Encodes:
    """Counts the patches that are encoded."""

    def __init__(self, pipe: DehazePipeline, monkeypatch: pytest.MonkeyPatch):
        self.count = 0
        real = pipe.model.encode

        def encode(patches: Tensor) -> list[Tensor]:
            self.count += len(patches)
            return real(patches)

        monkeypatch.setattr(pipe.model, "encode", encode)

    def take(self) -> int:
        count, self.count = self.count, 0
        return count


def stops(step: str, at: int) -> Callable[[str, int, int], None]:
    """A progress callback that Ctrl-C comes in."""

    def show(name: str, done: int, _: int) -> None:
        if name == step and done >= at:
            raise KeyboardInterrupt

    return show


def large(path: Path, seed: int = 0) -> Path:
    """81 tiles."""
    tifffile.imwrite(path, view(2304, 2304, seed=seed), photometric="rgb", tile=(256, 256), compression="zlib")
    return path


def test_a_large_picture_is_gone_on_with(pipe: DehazePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, work = large(tmp_path / "in.tif"), tmp_path / "out.tif", tmp_path / "out.tif.part"
    encodes, options = Encodes(pipe, monkeypatch), StreamOptions(patches_at_once=1, skips="recompute")
    pipe.raster(source, tmp_path / "whole.tif", options=options)
    assert encodes.take() == 162
    left = r"out\.tif\.part: run the same command again to resume"
    with pytest.raises(KeyboardInterrupt, match=left):
        pipe.raster(source, target, options=options, progress=stops("encode", 50))
    assert encodes.take() == 50
    with pytest.raises(KeyboardInterrupt, match=left):
        pipe.raster(source, target, options=options, progress=stops("decode", 30))
    assert encodes.take() == 31 + 30
    assert work.is_dir()
    assert not target.exists()
    # other settings and another input begin anew
    shutil.copytree(work, tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        pipe.raster(
            source,
            target,
            options=StreamOptions(patches_at_once=1, skips="recompute", blend=True),
            progress=stops("encode", 3),
        )
    assert encodes.take() == 3
    with pytest.raises(KeyboardInterrupt):
        pipe.raster(large(tmp_path / "other.tif", 1), target, options=options, progress=stops("encode", 2))
    assert encodes.take() == 2
    shutil.rmtree(work)
    (tmp_path / "kept").rename(work)
    pipe.raster(source, target, options=options)
    assert encodes.take() == 51
    assert target.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert names(tmp_path) == ["in.tif", "other.tif", "out.tif", "whole.tif"]


def test_ctrl_c_says_how_to_go_on(
    capsys: pytest.CaptureFixture, weights: Path, photo: Callable, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = DehazeXL.encode, 0

    def interrupted(self: DehazeXL, patches: Tensor) -> list[Tensor]:
        nonlocal calls
        calls += 1
        if calls > limit:
            raise KeyboardInterrupt
        return real(self, patches)

    monkeypatch.setattr(DehazeXL, "encode", interrupted)
    limit = 0
    large(inside / "in.tif")
    photo("a.jpg")
    code, _, err = run(capsys, "dehaze", "a.jpg", "-o", "out.jpg", "--checkpoint", weights)
    assert (code, err.splitlines()[-1]) == (130, "visionzoo: error: interrupted; no file was written")
    calls, limit = 0, 2
    code, _, err = run(capsys, "dehaze", "in.tif", "-o", "out.tif", "--checkpoint", weights)
    assert code == 130
    assert "interrupted; finished work is kept in out.tif.part: run the same command again to resume" in err
    assert sorted(file.name for file in inside.iterdir()) == ["a.jpg", "in.tif", "out.tif.part"]
    calls, limit = 0, 1
    photo("b.jpg")
    code, _, err = run(capsys, "dehaze", "a.jpg", "b.jpg", "-o", "out", "--checkpoint", weights, "--skips", "host")
    assert code == 130
    assert "1 of 2 files are finished: run the same command again to resume" in err
    assert names(inside / "out") == ["a.jpg"]


def test_a_folder_in_the_way(pipe: DehazePipeline, photo: Callable, tmp_path: Path) -> None:
    source, target, work = photo("a.jpg"), tmp_path / "out.png", tmp_path / "out.png.part"
    work.mkdir()
    (work / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match=r"out\.png\.part: exists and was not made by this command"):
        pipe.run(source, target, progress=False)
    assert (work / "precious.txt").read_text() == "mine"
    shutil.rmtree(work)
    work.write_text("a file")
    with pytest.raises(InputError, match=r"out\.png\.part: exists and was not made by this command"):
        pipe.run(source, target, progress=False)
    work.unlink()
    work.mkdir()  # an empty one is nobody's
    pipe.run(source, target, progress=False)
    assert names(tmp_path) == ["a.jpg", "out.png"]


# Damage, full disks, little memory


def test_a_huge_file_that_is_cut_off(
    capsys: pytest.CaptureFixture, weights: Path, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is done, the rest is named; with the file mended it works."""
    whole = large(inside / "whole.tif").read_bytes()
    (inside / "in.tif").write_bytes(whole[: len(whole) * 6 // 10])
    words = ["dehaze", "in.tif", "-o", "out.tif", "--checkpoint", weights]
    code, _, err = run(capsys, *words)
    assert code == 2
    errors = [line for line in err.splitlines() if line.startswith("visionzoo: error: ")]
    assert len(errors) == 1
    assert re.search(r"in\.tif: rows \d+ to \d+, columns \d+ to \d+ cannot be read: .*cut off", errors[0])
    assert "finished work is kept in out.tif.part: run the same command again to resume" in errors[0]
    assert (inside / "out.tif.part").is_dir()
    assert not (inside / "out.tif").exists()
    (inside / "in.tif").write_bytes(whole)
    monkeypatch.setattr(DehazeXL, "forward", lambda *_: pytest.fail("the whole picture at once"))
    assert run(capsys, *words)[0] == 0
    assert names(inside) == ["in.tif", "out.tif", "whole.tif"]


def fills_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the disk has no room for pixels."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(raster_writer.RawPixels, "write", full)


def test_a_full_disk(
    capsys: pytest.CaptureFixture, weights: Path, photo: Callable, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said once, also among many files: none of them would fit."""
    for name in ("in/a.jpg", "in/b.jpg", "in/c.jpg"):
        photo(name)
    fills_up(monkeypatch)
    for words in (["in/a.jpg", "-o", "out.jpg"], ["in", "-o", "out"]):
        code, _, err = run(capsys, "dehaze", *words, "--checkpoint", weights)
        assert code == 2
        assert len(err.splitlines()) == 1
        assert "the disk is full; free some space and run the command again" in err
    assert names(inside) == ["in/a.jpg", "in/b.jpg", "in/c.jpg"]


def test_a_full_disk_before_the_first_pixel(
    pipe: DehazePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to go on from, and nothing stays behind."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(raster_writer, "allocate", full)
    with pytest.raises(InputError, match="the disk is full") as caught:
        pipe.run(large(tmp_path / "in.tif"), tmp_path / "out.tif", progress=False)
    assert "resume" not in str(caught.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.tif"]


def test_too_little_memory(pipe: DehazePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning, the same picture; and one line where not even one tile fits."""
    Image.fromarray(view(512, 512)).save(tmp_path / "in.png")
    pipe.run(tmp_path / "in.png", tmp_path / "want.png", progress=False)
    real, most = pipe.model.encode, 1

    def limited(patches: Tensor) -> list[Tensor]:
        if len(patches) > most:
            raise torch.OutOfMemoryError("no memory")
        return real(patches)

    monkeypatch.setattr(pipe.model, "encode", limited)
    with pytest.warns(UserWarning, match="out of memory; continuing with batches of 1") as said:
        pipe.run(tmp_path / "in.png", tmp_path / "out.png", progress=False, stream=StreamOptions(patches_at_once=2))
    assert len(said) == 1
    got, want = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("out.png", "want.png"))
    assert np.abs(got - want).max() <= 1
    most = 0
    with pytest.raises(InputError, match="not enough memory on cpu, even for one tile"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.run(tmp_path / "in.png", tmp_path / "no.png", progress=False)
    assert names(tmp_path) == ["in.png", "out.png", "want.png"]


def test_numbers_that_are_not_finite(network: DehazeXL, photo: Callable, tmp_path: Path) -> None:
    broken = DehazeXL(network.config).eval()
    with torch.no_grad():
        for weight in broken.decoder.parameters():
            weight.fill_(torch.nan)
    pipe = DehazePipeline(broken)
    with pytest.raises(InputError, match=r"a\.jpg: the network gives no finite numbers"):
        pipe.run(photo("a.jpg"), tmp_path / "out.jpg", progress=False)
    with pytest.raises(InputError, match="the network gives no finite numbers"):
        pipe(photo("a.jpg"))
    assert names(tmp_path) == ["a.jpg"]


# What a result depends on


def test_attribute(capsys: pytest.CaptureFixture, weights: Path, photo: Callable, inside: Path) -> None:
    photo("hazy.jpg", size=(120, 90))
    photo("clear.png", size=(120, 90), seed=1)
    words = ["dehaze", "attribute", "hazy.jpg", "--region", "20,10,30,40", "--steps", "2", "--checkpoint", weights]
    assert run(capsys, *words, "-o", "map.png")[0] == 0
    with Image.open("map.png") as image:
        assert image.height == 90
        assert image.width > 120
    code, out, _ = run(capsys, *words, "-o", "map.npz", "--clear", "clear.png", "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["region"] == {"left": 20, "top": 10, "width": 30, "height": 40}
    stored = np.load("map.npz")
    assert (stored["saliency"].shape, stored["values"].shape) == ((90, 120), (3, 90, 120))
    assert stored["saliency"].max() == pytest.approx(1)
    assert facts["share_inside"] == pytest.approx(
        stored["saliency"][10:50, 20:50].sum() / stored["saliency"].sum(), abs=1e-5
    )
    saved = json.loads((inside / "map.npz.json").read_text())
    assert (saved["clear"], saved["options"]["checkpoint"]) == ("clear.png", str(weights))
    code, _, err = run(capsys, *words, "-o", "map.png")
    assert code == 2
    assert "exists already" in err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"--region": "110,10,30,40"}, r"the window of 30 x 40 pixels at row 10, column 110 is not inside 120 x 90"),
        ({"--region": "1,2,3"}, "--region takes 4 numbers"),
        ({"--region": "0,0,0,9"}, "is not inside"),
        ({"-o": "map.tif"}, r"map\.tif: a map is written as \.png, .*\.npz"),
        ({"-o": "no/map.png"}, "the folder .* does not exist"),
        ({"--clear": "small.png"}, r"small\.png: is 60 x 40, but hazy\.jpg is 120 x 90"),
        ({"--clear": "gone.png"}, r"gone\.png: no such file"),
        ({"--steps": "0"}, "steps is at least 1"),
    ],
)
def test_attribute_says_what_is_wrong(
    capsys: pytest.CaptureFixture, weights: Path, photo: Callable, inside: Path, changes: dict[str, str], says: str
) -> None:
    photo("hazy.jpg", size=(120, 90))
    photo("small.png", size=(60, 40))
    given = {"--region": "20,10,30,40", "-o": "map.png", "--checkpoint": str(weights), "--steps": "1"} | changes
    code, _, err = run(capsys, "dehaze", "attribute", "hazy.jpg", *(word for pair in given.items() for word in pair))
    assert code == 2
    assert len([line for line in err.splitlines() if "error: " in line]) == 1
    assert re.search(says, err)
    assert names(inside) == ["hazy.jpg", "small.png"]


# The pipeline object


def test_pictures_of_every_kind_agree(pipe: DehazePipeline, network: DehazeXL, photo: Callable) -> None:
    path = photo("a.png", size=(300, 200))
    pixels = np.array(Image.open(path))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    kinds = [path, str(path), path.read_bytes(), Image.open(path), pixels, tensor, tensor / 255]
    results = pipe(kinds)
    assert isinstance(results, list)
    want = eight_bits(forward(network, pixels / 255))
    for result in results:
        assert (result.image.dtype, result.image.shape) == (np.uint8, (200, 300, 3))
        assert np.abs(result.image - want).max() <= 1
    assert results[0].source == str(path)
    single = pipe(path)
    assert isinstance(single, DehazeResult)
    assert np.array_equal(single.image, results[0].image)
    assert pipe([]) == []
    with pytest.raises(InputError, match=r"gone\.png: no such file"):
        pipe("gone.png")


def test_pipeline_by_name(network: DehazeXL, weights: Path, photo: Callable) -> None:
    trained = DehazeXL(network.config).train()
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    made = visionzoo.pipeline("dehaze", model=trained)
    assert isinstance(made, DehazePipeline)
    assert made.to("cpu") is made
    made(photo("a.jpg"))
    assert trained.training, "the user's network stays as it is"
    assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())
    assert isinstance(visionzoo.pipeline("dehaze", checkpoint=weights), DehazePipeline)
    with pytest.raises(InputError, match="cuda:99"):
        made.to("cuda:99")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_save_and_load(network: DehazeXL, photo: Callable, tmp_path: Path, dtype: str) -> None:
    """Weights are saved as they were, whatever the network computes in."""
    pipe = DehazePipeline(network, dtype=dtype)
    pipe.save_pretrained(tmp_path / "p")
    want = DehazePipeline(network)(photo("a.jpg"))
    for again in (
        DehazePipeline.from_pretrained(tmp_path / "p"),
        DehazePipeline.create(checkpoint=tmp_path / "p" / "model.safetensors"),
    ):
        assert (again.config, again.fingerprint) == (pipe.config, pipe.fingerprint)
        got = again(tmp_path / "a.jpg")
        assert isinstance(got, DehazeResult)
        assert isinstance(want, DehazeResult)
        assert np.array_equal(got.image, want.image)
    rough = pipe(tmp_path / "a.jpg")
    assert isinstance(rough, DehazeResult)
    assert isinstance(want, DehazeResult)
    assert np.abs(rough.image.astype(int) - want.image).mean() < 3
    saved = json.loads((tmp_path / "p/pipeline.json").read_text())
    for broken, says in (
        ("{}", "no saved dehazing pipeline"),
        ("nonsense", "no saved dehazing pipeline"),
        (json.dumps({**saved, "model": "shvit_s1"}), "no saved dehazing pipeline .its model is shvit_s1"),
        (json.dumps({**saved, "config": {"zz": 1}}), "no field 'zz'"),
    ):
        (tmp_path / "p/pipeline.json").write_text(broken)
        with pytest.raises(InputError, match=says):
            DehazePipeline.from_pretrained(tmp_path / "p")
    with pytest.raises(InputError, match="fused network cannot be saved"):
        DehazePipeline(network.fuse()).save_pretrained(tmp_path / "q")


def test_models_that_are_none(network: DehazeXL, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="superglobal_r50 is not a dehazing model; use dehazexl"):
        DehazePipeline.create("superglobal_r50")
    with pytest.raises(InputError, match="did you mean dehazexl_nano"):
        DehazePipeline.create("dehazexl_nan")
    with pytest.raises(InputError, match="DehazeXL network or a name, got Linear"):
        DehazePipeline.create(torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match="go with a name"):
        DehazePipeline.create(network, checkpoint=weights)
    with pytest.raises(InputError, match="no field 'width'"):
        DehazePipeline.create(checkpoint=weights, width=3)
    with pytest.raises(WeightsError, match=r"model\.safetensors does not fit DehazeXL"):
        DehazePipeline.create(checkpoint=weights, embed_dim=16)
    with pytest.raises(WeightsError, match=r"gone\.safetensors"):
        DehazePipeline.create(checkpoint=tmp_path / "gone.safetensors")
    other = tmp_path / "other.safetensors"
    save_safetensors({"head.weight": torch.zeros(3)}, other, {"model": "shvit_s1"})
    with pytest.raises(InputError, match=r"other\.safetensors: is for 'shvit_s1', which is not a dehazing model"):
        DehazePipeline.create(checkpoint=other)
    save_safetensors({"head.weight": torch.zeros(3)}, other, {})
    with pytest.raises(WeightsError, match=r"other\.safetensors does not fit DehazeXL"):
        DehazePipeline.create(checkpoint=other)


def test_help(capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run(capsys, "dehaze", "--help")
    assert code == 0
    for word in ("Usage: visionzoo dehaze", "visionzoo dehaze hazy.jpg -o clear.jpg", "--bands", "attribute"):
        assert word in out
    assert "--region" in run(capsys, "dehaze", "attribute", "--help")[1]
