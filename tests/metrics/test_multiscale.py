"""MS-SSIM equals its definition, written here in scipy, and pytorch-msssim's values; wrong input is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from torch import Tensor

from visionzoo.errors import InputError
from visionzoo.metrics.multiscale import EXPONENTS, ms_ssim


def images(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Waves, and the same with less contrast and a finer pattern on top."""
    y, x = np.mgrid[:height, :width]
    first = np.stack([0.5 + 0.4 * np.sin(x / (5 + c)) * np.cos(y / (7 + c)) for c in range(3)])
    second = 0.05 + 0.8 * first + 0.08 * np.sin(2.1 * x + 1.3 * y)
    return torch.from_numpy(first), torch.from_numpy(second).clamp(0, 1)


def definition(x: np.ndarray, y: np.ndarray) -> float:
    """Of two channels (H, W) with sides that can be halved four times."""
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window /= window.sum()

    def mean(values: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(values, window, axis=0), window, axis=1)[5:-5, 5:-5]

    total = 1.0
    for scale, exponent in enumerate(EXPONENTS):
        mx, my = mean(x), mean(y)
        vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
        factor = (2 * cov + 0.03**2) / (vx + vy + 0.03**2)
        if scale == 4:
            factor = factor * (2 * mx * my + 0.01**2) / (mx * mx + my * my + 0.01**2)
        total *= factor.mean() ** exponent
        x, y = (v.reshape(v.shape[0] // 2, 2, -1, 2).mean((1, 3)) if scale < 4 else v for v in (x, y))
    return total


def test_it_equals_the_definition() -> None:
    one, other = images(176, 208)
    expected = np.mean([definition(x, y) for x, y in zip(one.numpy(), other.numpy(), strict=True)])
    assert ms_ssim(one, other) == pytest.approx(expected, abs=1e-12)
    assert ms_ssim(one, one) == pytest.approx(1)


@pytest.mark.parametrize(("size", "expected"), [((176, 208), 0.94984627), ((181, 203), 0.94991327)])
def test_it_equals_pytorch_msssim(size: tuple[int, int], expected: float) -> None:
    """Values of pytorch-msssim 1.0.0; the second size has odd sides at several scales."""
    assert ms_ssim(*images(*size)) == pytest.approx(expected, abs=1e-6)


def test_bytes_and_floats_are_the_same() -> None:
    one, other = ((255 * image).round() for image in images(176, 176))
    assert ms_ssim(one.byte(), other.byte()) == pytest.approx(ms_ssim(one / 255, other / 255), abs=1e-12)


def test_wrong_images_are_named() -> None:
    one, other = images(161, 161)
    assert 0 < ms_ssim(one, other) < 1
    with pytest.raises(InputError, match="needs 161 x 161 pixels or more, got 160 x 161"):
        ms_ssim(one[:, 1:], other[:, 1:])
    with pytest.raises(InputError, match=r"expected \(3, H, W\) twice"):
        ms_ssim(one, other[:, 1:])
    with pytest.raises(InputError, match="clamp them, or divide by 255"):
        ms_ssim(one * 255, other)
