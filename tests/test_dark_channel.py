"""The dark channel prior removes haze that was added to a photo, and respects its floor."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from benchmarks import dark_channel
from benchmarks.dark_channel import dehaze, guided_filter
from visionzoo.errors import InputError
from visionzoo.metrics.restoration import psnr


@pytest.fixture(scope="module")
def clear() -> torch.Tensor:
    return torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 255


def test_removes_haze(clear):
    hazy = clear * 0.4 + 0.9 * 0.6
    assert psnr(dehaze(hazy), clear) > psnr(hazy, clear) + 3


@pytest.mark.parametrize(("floor", "gain"), [(0.1, 10), (0.5, 2)])
def test_transmission_is_floored(floor, gain):
    """An image of pure haze has almost no transmission: its noise is amplified by 1 / floor at most."""
    noise = 0.001 * torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    clear = dehaze(0.7 + noise, floor=floor, omega=1.0)
    torch.testing.assert_close(clear.std((1, 2)) / noise.std((1, 2)), torch.full((3,), float(gain)), rtol=0.01, atol=0)


def test_guided_filter_is_ridge_regression_in_boxes():
    rng = np.random.default_rng(0)
    guide, source, radius, eps = rng.random((3, 9, 8)), rng.random((9, 8)), 2, 1e-2
    functions = np.zeros((9, 8, 4))
    boxes = {}
    for i in range(9):
        for j in range(8):
            box = (slice(max(i - radius, 0), i + radius + 1), slice(max(j - radius, 0), j + radius + 1))
            boxes[i, j] = box
            x, y = guide[:, *box].reshape(3, -1).T, source[box].ravel()
            slope = np.linalg.solve(
                np.cov(x.T, bias=True) + eps * np.eye(3), (x - x.mean(0)).T @ (y - y.mean()) / len(y)
            )
            functions[i, j] = [*slope, y.mean() - slope @ x.mean(0)]
    expected = [
        [functions[boxes[i, j]].reshape(-1, 4).mean(0) @ [*guide[:, i, j], 1] for j in range(8)] for i in range(9)
    ]
    got = guided_filter(torch.from_numpy(guide).float(), torch.from_numpy(source).float()[None], radius=radius, eps=eps)
    np.testing.assert_allclose(got[0].numpy(), expected, atol=1e-5)


def test_command(tmp_path, monkeypatch, clear):
    hazy = (clear * 0.4 + 0.54)[:, :200, :150].mul(255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(hazy).save(tmp_path / "hazy.png")
    monkeypatch.setattr(sys, "argv", ["dark_channel", str(tmp_path / "hazy.png"), str(tmp_path / "out.png")])
    dark_channel.main()
    result = np.asarray(Image.open(tmp_path / "out.png"))
    assert result.shape == hazy.shape
    assert result.std() > 1.5 * hazy.std()


def test_refused_inputs(clear):
    with pytest.raises(InputError, match="patch must be an odd number of pixels, got 14"):
        dehaze(clear, patch=14)
    with pytest.raises(InputError, match=r"must be \(3, H, W\), got shape \(512, 512\)"):
        dehaze(clear[0])
