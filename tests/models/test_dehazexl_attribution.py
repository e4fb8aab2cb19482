"""Attribution maps add up to the change of the score, and patch by patch they equal those of the whole image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from visionzoo.errors import InputError
from visionzoo.models.dehazexl import DehazeXL, attribution_image, attribution_map
from visionzoo.models.dehazexl.attribution_image import jet
from visionzoo.models.dehazexl.attribution_patches import Window

from .test_dehazexl_model import images, network, relative


def score(output: Tensor, window: Window) -> float:
    top, left, side = window
    seen = output[:, top : top + side, left : left + side]
    return (seen.mean() + seen.var()).item()


def darken(x: Tensor) -> Tensor:
    return x * x.mean()


# Any function


def test_attributions_sum_to_the_change_of_the_score() -> None:
    """Completeness of integrated gradients, with the exact derivative."""
    hazy, clear = images(2, 3, 24, 24).unbind()
    window = (4, 6, 8)
    result = attribution_map(darken, hazy, clear, window, steps=300)
    change = score(darken(hazy), window) - score(darken(clear), window)
    assert result.values.sum().item() == pytest.approx(change, rel=0.02, abs=1e-3)
    assert result.saliency.max() == 1


def test_the_published_derivative_differs() -> None:
    hazy, clear = images(2, 3, 24, 24).unbind()
    exact, official = (
        attribution_map(darken, hazy, clear, (4, 6, 8), steps=2, derivative=d) for d in ("exact", "official")
    )
    assert relative(official.values * (hazy - clear), exact.values * (2 * hazy - clear)) < 1e-6


def test_without_a_clear_image_the_integration_starts_at_the_result() -> None:
    hazy = images(3, 24, 24)

    def brighten(x: Tensor) -> Tensor:
        return 3 * darken(x)

    want = attribution_map(brighten, hazy, brighten(hazy).clamp(0, 1), (4, 6, 8), steps=3)
    assert torch.equal(attribution_map(brighten, hazy, None, (4, 6, 8), steps=3).values, want.values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": (20, 0, 8)}, "not inside 24 x 24"),
        ({"window": (0, -1, 8)}, "not inside 24 x 24"),
        ({"window": (0, 0, 4, 25)}, "25 x 4 pixels at row 0"),
        ({"window": (0, 0, 0)}, "not inside 24 x 24"),
        ({"clear": torch.zeros(3, 4, 24)}, "of one shape"),
        ({"hazy": torch.zeros(24, 24, 3), "clear": None}, r"\(3, H, W\)"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"patches_at_once": 0}, "patches_at_once must be at least 1"),
        ({"derivative": "paper"}, "'exact' or 'official'"),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str, whole: bool) -> None:
    hazy, clear = images(2, 3, 24, 24).unbind()
    with pytest.raises(InputError, match=message):
        attribution_map(
            darken if whole else network(), **{"hazy": hazy, "clear": clear, "window": (0, 0, 8), **changes}
        )


# A DehazeXL, patch by patch


LSH = {"attention": "lsh", "lsh_block": 32, "lsh_samples": 16, "lsh_min_tokens": 64}
SCATTERING = {"reconstruction": "scattering", "smoothing": 48, "upsample": "shuffle"}


@pytest.mark.parametrize(
    ("changes", "size", "window"),
    [
        pytest.param({}, (256, 256), (0, 0, 32), id="one patch"),
        pytest.param({}, (300, 520), (240, 200, 60), id="window over four patches, mirrored padding"),
        pytest.param({}, (30, 20), (3, 4, 10), id="padding that repeats the edge"),
        pytest.param({}, (257, 600), (0, 10, 257), id="a row that is mirrored in its own patch; wide window"),
        pytest.param(LSH, (300, 520), (240, 200, 30, 70), id="lsh attention"),
        pytest.param(SCATTERING, (100, 300), (60, 250, 40), id="scattering reconstruction"),
    ],
)
def test_patch_by_patch_gives_what_the_whole_image_gives(
    changes: dict[str, Any], size: tuple[int, int], window: Window
) -> None:
    model = network(**changes)
    hazy, clear = images(2, 3, *size).unbind()
    want = attribution_map(lambda x: model(x), hazy, clear, window, steps=2)
    got = attribution_map(model, hazy, clear, window, steps=2, patches_at_once=3)
    assert relative(got.values, want.values) < 1e-5
    assert relative(got.saliency, want.saliency) < 1e-3  # a root: sums that cancel lose digits


def test_in_double_precision_they_agree_to_the_last_digits() -> None:
    model = network().double()
    hazy, clear = images(2, 3, 270, 300).double().unbind()
    want = attribution_map(lambda x: model(x), hazy, clear, (200, 240, 60), steps=1)
    assert relative(attribution_map(model, hazy, clear, (200, 240, 60), steps=1).values, want.values) < 1e-12


def test_slices_of_tokens_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    hazy, clear = images(2, 3, 256, 512).unbind()
    want = attribution_map(model, hazy, clear, (100, 40, 32), steps=1)
    monkeypatch.setattr("visionzoo.models.dehazexl.attribution_patches._TOKENS", 50)
    assert relative(attribution_map(model, hazy, clear, (100, 40, 32), steps=1).values, want.values) < 1e-5


def test_a_network_without_a_clear_image() -> None:
    model, hazy, window = network(), images(3, 280, 300), (200, 240, 40)
    with torch.no_grad():
        result = model(hazy[None])[0]
    assert result.min() < 0
    got = attribution_map(model, hazy, None, window, steps=1).values
    assert relative(got, attribution_map(model, hazy, result.clamp(0, 1), window, steps=1).values) < 1e-5


def test_attribution_of_a_network_reaches_other_patches() -> None:
    hazy, clear = images(2, 3, 256, 512).unbind()
    saliency = attribution_map(network(), hazy, clear, (100, 40, 32), steps=2).saliency
    assert saliency.shape == (256, 512)
    assert saliency[:, 256:].max() > 0


def test_never_more_patches_at_once_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = network(), []
    for name in ("encode", "decode"):
        part = getattr(DehazeXL, name)

        def counted(self: DehazeXL, x: Tensor, *rest: object, part=part, name=name) -> object:
            seen.append((name, len(x), torch.is_grad_enabled()))
            return part(self, x, *rest)

        monkeypatch.setattr(DehazeXL, name, counted)
    hazy = images(3, 520, 520)
    attribution_map(model, hazy, None, (250, 250, 20), steps=1, patches_at_once=3)
    assert max(count for _, count, _ in seen) == 3
    # only the four patches under the window are decoded with gradients
    assert sum(count for name, count, graph in seen if name == "decode" and graph) == 4


def test_the_network_stays_unchanged() -> None:
    model = network(drop_path=0.5).train()
    model.decoder.eval()
    model.encoder.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    hazy, clear = images(2, 3, 256, 256).unbind()
    first, second = (attribution_map(model, hazy, clear, (0, 0, 8), steps=1).values for _ in range(2))
    assert torch.equal(first, second)  # no layer is skipped at random
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not hazy.requires_grad


def test_inside_no_grad_and_inference_mode() -> None:
    model = network()
    hazy, clear = images(2, 3, 256, 300).unbind()
    want = attribution_map(model, hazy, clear, (0, 200, 80), steps=1).values
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            mine = hazy + 0
            assert torch.equal(attribution_map(model, mine, clear, (0, 200, 80), steps=1).values, want)
            attribution_map(model, mine, None, (0, 200, 80), steps=1)


@pytest.mark.gpu
def test_a_network_on_a_gpu_takes_images_in_host_memory() -> None:
    model, window = network(), (240, 200, 50)
    hazy, clear = images(2, 3, 300, 520).unbind()
    want = attribution_map(model, hazy, clear, window, steps=1).values
    got = attribution_map(model.cuda(), hazy, clear, window, steps=1).values
    assert got.device == hazy.device
    assert relative(got, want) < 1e-2  # float32 products on a GPU may have only 19 bits


# Images


def test_an_image_shows_the_map_the_window_and_a_scale() -> None:
    hazy, saliency = np.full((200, 300, 3), 128, np.uint8), np.zeros((200, 300), np.float32)
    saliency[150, 250] = 1
    image = attribution_image(hazy, saliency, (20, 30, 40))
    assert image.dtype == np.uint8
    assert image.shape[0] == 200
    assert image.shape[1] > 300
    low, high = (0.5 * 128 + 0.5 * jet(np.array(x)).astype(float) for x in (0.0, 1.0))
    assert np.abs(image[100, 200] - low).max() <= 1
    assert np.abs(image[150, 250] - high).max() <= 1
    assert np.abs(image[40, 50] - low).max() <= 1  # inside the window: not covered
    assert (image[19, 30:70] == 255).all()
    assert (image[40, 70] == 255).all()
    column = image[:, 300:].reshape(-1, 3)
    assert (column == jet(np.array(1.0))).all(1).any()


def test_an_image_is_reduced_and_keeps_the_highest_values() -> None:
    hazy, saliency = np.zeros((400, 1000, 3), np.uint8), np.zeros((400, 1000), np.float32)
    saliency[399, 999] = 1
    image = attribution_image(hazy, saliency, (0, 0, 32), side_max=100)
    assert image.shape[0] == 40
    assert (image[39, 99] == np.round(0.5 * jet(np.array(1.0)))).all()


def test_a_small_map_is_enlarged_to_blocks() -> None:
    hazy, saliency = np.zeros((40, 60, 3), np.uint8), np.array([[0, 1, 0], [0, 0, 0]], np.float64)
    image = attribution_image(hazy, saliency, (30, 0, 4))
    assert (image[:20, 20:40] == image[0, 20]).all()
    assert (image[0, 19] != image[0, 20]).any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1)])
def test_images_of_any_size(height: int, width: int) -> None:
    image = attribution_image(np.zeros((height, width, 3), np.uint8), np.ones((height, width), np.float32), (0, 0, 1))
    assert image.shape[0] == height


def test_jet() -> None:
    colours = jet(np.array([0, 0.125, 0.375, 0.5, 0.625, 0.875, 1]))
    assert colours.tolist() == [
        [0, 0, 128],
        [0, 0, 255],
        [0, 255, 255],
        [128, 255, 128],
        [255, 255, 0],
        [255, 0, 0],
        [128, 0, 0],
    ]


@pytest.mark.parametrize(
    ("hazy", "saliency", "window", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), np.zeros((8, 8)), (0, 0, 4), "uint8"),
        (np.zeros((8, 8), np.uint8), np.zeros((8, 8)), (0, 0, 4), "uint8"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((3, 8, 8)), (0, 0, 4), "saliency must be"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8)), (6, 0, 4), "not inside 8 x 8"),
    ],
)
def test_wrong_images_are_named(hazy: np.ndarray, saliency: np.ndarray, window: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        attribution_image(hazy, saliency, window)
