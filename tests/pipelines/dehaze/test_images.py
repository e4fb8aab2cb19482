"""Dehazed images equal the network's result for the same pixels, for any size, format and origin."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

import tifffile

from visionzoo.errors import InputError
from visionzoo.io.image import load_image
from visionzoo.models.dehazexl import DehazeXL
from visionzoo.models.dehazexl.placement import StreamOptions
from visionzoo.pipelines.dehaze import DehazePipeline, DehazeResult

from ...command import run
from .images import eight_bits, forward, geotiff, names, view


@pytest.mark.parametrize("extension", [".png", ".tif", ".webp", ".jpg", ".npy"])
def test_one_image(
    capsys: pytest.CaptureFixture, network: DehazeXL, weights: Path, photo: Callable, tmp_path: Path, extension: str
) -> None:
    """The written image equals the network's result for the same pixels, up to rounding (or the format's loss)."""
    source, target = photo("hazy.jpg", size=(300, 270), quality=95), tmp_path / f"clear{extension}"
    code, out, err = run(capsys, "dehaze", source, "-o", target, "--checkpoint", weights)
    assert (code, out) == (0, "")
    assert "saved to " in err
    assert "(300 x 270, " in err
    want = eight_bits(forward(network, np.asarray(Image.open(source)) / 255))
    got = np.load(target) if extension == ".npy" else np.asarray(Image.open(target))
    assert (got.dtype, got.shape) == (np.uint8, (270, 300, 3))
    if extension in (".png", ".tif", ".npy"):
        assert np.abs(got - want).max() <= 1
    else:
        assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.8
    saved = json.loads((tmp_path / f"clear{extension}.json").read_text())
    assert (saved["result"]["width"], saved["result"]["height"], saved["result"]["error"]) == (300, 270, None)
    assert saved["options"]["weights"] == DehazePipeline(network).fingerprint
    assert saved["options"]["checkpoint"] == str(weights)
    assert saved["environment"]["versions"]["torch"]
    assert names(tmp_path) == sorted([f"clear{extension}", "hazy.jpg"])


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
    image = view(200, 300)
    blended, plain = (smooth(image, blend=blend).image for blend in (True, False))  # pyright: ignore
    assert not np.array_equal(blended, plain)
    assert np.array_equal(smooth(image).image, blended)  # pyright: ignore
    rough = DehazePipeline(network)
    assert np.array_equal(rough(image).image, rough(image, blend=False).image)  # pyright: ignore
    smooth.save_pretrained("smooth")
    Image.fromarray(image).save("in.png")
    for name, words in (("a", []), ("b", ["--no-blend"]), ("c", ["--blend"])):
        weights = "smooth/model.safetensors"
        assert run(capsys, "dehaze", "in.png", "-o", f"{name}.png", "--checkpoint", weights, "-q", *words)[0] == 0
        assert json.loads(Path(f"{name}.png.json").read_text())["options"]["blend"] is (name != "b")
    default, without, asked = (load_image(f"{name}.png") for name in "abc")
    assert np.array_equal(default, asked)
    assert np.array_equal(without, plain)
    assert not np.array_equal(default, plain)


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
def test_an_image_with_a_single_value(pipe: DehazePipeline, tmp_path: Path, value: float, dtype: type) -> None:
    geotiff(tmp_path / "in.tif", np.full((50, 60, 3), value, dtype))
    pipe.run(tmp_path / "in.tif", tmp_path / "out.tif", progress=False)
    assert np.isfinite(tifffile.imread(tmp_path / "out.tif")).all()


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


def test_images_of_every_kind_agree(pipe: DehazePipeline, network: DehazeXL, photo: Callable) -> None:
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
