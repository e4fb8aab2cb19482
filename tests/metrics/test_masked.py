"""Masked PSNR and SSIM equal the plain ones with a full mask, ignore pixels outside the mask, and name wrong input.

The values of DyCheck's code are golden: tests/golden/modecgs/metrics_s0.json.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from visionzoo.errors import InputError
from visionzoo.metrics.masked import masked_psnr, masked_ssim
from visionzoo.metrics.restoration import psnr, ssim


def images() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    image = torch.rand(3, 30, 40)
    return image, (image + 0.1 * torch.randn(3, 30, 40)).clamp(0, 1)


def test_a_full_mask_gives_the_plain_measures() -> None:
    one, other = images()
    everywhere = torch.ones(30, 40, dtype=torch.bool)
    assert masked_psnr(one, other, everywhere) == pytest.approx(psnr(one, other), abs=1e-9)
    assert masked_ssim(one, other, everywhere) == pytest.approx(ssim(one, other), abs=1e-9)
    bits = (255 * one).round().to(torch.uint8)
    assert masked_psnr(bits, bits, everywhere) == math.inf
    assert masked_ssim(bits, bits, everywhere) == pytest.approx(1)


def test_pixels_outside_the_mask_do_not_count() -> None:
    one, other = images()
    mask = torch.zeros(30, 40)
    mask[5:25, 10:30] = 1
    changed = torch.where(mask.bool(), other, torch.rand(3, 30, 40))
    assert masked_psnr(one, changed, mask) == masked_psnr(one, other, mask)
    assert masked_ssim(one, changed, mask) == masked_ssim(one, other, mask)
    worse = torch.where(mask.bool(), 1 - other, other)
    assert masked_ssim(one, worse, mask) < masked_ssim(one, other, mask)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(30, 40), "leave some pixels"),
        (torch.full((30, 40), 255), "between 0 and 1"),
        (torch.full((30, 40), float("nan")), "between 0 and 1"),
        (torch.ones(15, 20), r"the mask has shape \(15, 20\)"),
    ],
)
def test_wrong_masks_are_named(mask: Tensor, message: str) -> None:
    for measure in (masked_psnr, masked_ssim):
        with pytest.raises(InputError, match=message):
            measure(*images(), mask)


def test_wrong_images_are_named() -> None:
    one, other = images()
    with pytest.raises(InputError, match="SSIM needs 11 x 11"):
        masked_ssim(one[:, :9], other[:, :9], torch.ones(9, 40))
    with pytest.raises(InputError, match="expected two images of one size"):
        masked_psnr(one, other[None], torch.ones(30, 40))
    with pytest.raises(InputError, match=r"range from"):
        masked_psnr(2 * one, other, torch.ones(30, 40))


def test_outside_of_an_edit_nothing_changed() -> None:
    original = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    edited, mask = original.copy(), np.zeros((30, 40), bool)
    mask[5:20, 8:30] = True
    edited[mask] = 0
    assert masked_psnr(edited, original, ~mask) == math.inf
    assert masked_psnr(edited, original, mask) < 12
    planes = [torch.from_numpy(image).permute(2, 0, 1) for image in (edited, original)]
    assert masked_psnr(*planes, torch.from_numpy(mask)) == pytest.approx(masked_psnr(edited, original, mask))
