"""The bundled weights exist, fit the network, and remove haze."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import visionzoo
from visionzoo.io.image import load_image
from visionzoo.metrics.restoration import psnr
from visionzoo.models.dehazexl.haze import LEVELS, draw_haze
from visionzoo.models.dehazexl.placement import StreamOptions

PHOTOS = Path(visionzoo.__file__).parent / "assets" / "photos"


@pytest.fixture(scope="module")
def pipe():
    return visionzoo.pipeline("dehaze", device="cpu")


def hazy_pairs() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Bundled photos that it was not trained on, with haze of every density."""
    pairs = []
    for number, name in enumerate(("astronaut_1", "coffee_1", "flower_1", "cat_1")):
        clear = load_image(PHOTOS / f"{name}.jpg")
        for place, level in enumerate(LEVELS):
            hazy = draw_haze(np.random.default_rng((number, place)), level, side=480)(clear)
            pairs.append((tensor(hazy), tensor(clear / np.float32(255))))
    return pairs


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))


def test_it_removes_haze_from_photos(pipe) -> None:
    gains = []
    for hazy, clear in hazy_pairs():
        result = pipe.restore_tensor(hazy).clamp(0, 1)
        gains.append(psnr(result, clear) - psnr(hazy, clear))
    assert np.mean(gains) > 3
    assert np.mean(np.array(gains) > 0) > 0.8


def test_clear_photos_hardly_change(pipe) -> None:
    clear = [
        tensor(load_image(PHOTOS / f"{name}.jpg") / np.float32(255)) for name in ("astronaut_1", "coffee_1", "cat_1")
    ]
    assert np.mean([psnr(pipe.restore_tensor(x).clamp(0, 1), x) for x in clear]) > 20


def test_blending_makes_steps_at_the_borders_of_patches_smaller(pipe) -> None:
    def step(change: torch.Tensor) -> float:
        across = (change[..., 1:] - change[..., :-1]).abs().mean((0, 1))
        return float(across[255::256].mean() / across.mean())

    plain, blended = [], []
    for hazy, _ in hazy_pairs()[2::4]:
        plain.append(step(pipe.restore_tensor(hazy, StreamOptions()) - hazy))
        blended.append(step(pipe.restore_tensor(hazy) - hazy))
    assert np.mean(blended) < 0.5 + 0.5 * np.mean(plain), "which is what this network does unless told otherwise"


def test_it_is_bundled_and_small() -> None:
    source = visionzoo.model_card("dehazexl_nano").weights[0]
    assert source.bundled is not None
    assert (PHOTOS.parent / source.bundled).stat().st_size < 11e6
    model = visionzoo.create_model("dehazexl_nano", pretrained=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == visionzoo.model_card("dehazexl_nano").params
