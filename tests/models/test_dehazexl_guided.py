"""The guided filter over the decoder's maps, compared with its definition window by window, and its effect."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from visionzoo.errors import InputError
from visionzoo.models.dehazexl import DehazeXL, DehazeXLConfig
from visionzoo.models.dehazexl.guided import STRIDE, guided_filter


def by_definition(values: Tensor, guide: Tensor, reach: int, eps: float) -> tuple[Tensor, Tensor]:
    """Slope and offset (h, w) of every pixel: least squares in each window, then the mean over all windows with the pixel."""
    height, width = guide.shape
    slope, level = torch.zeros(2, height, width, dtype=torch.float64)
    windows = {}
    for y in range(height):
        for x in range(width):
            part = slice(max(0, y - reach), y + reach + 1), slice(max(0, x - reach), x + reach + 1)
            i, p = guide[part].flatten(), values[part].flatten()
            a = ((i * p).mean() - i.mean() * p.mean()) / (i.var(correction=0) + eps)
            windows[y, x] = part
            slope[y, x], level[y, x] = a, p.mean() - a * i.mean()
    return tuple(torch.stack([m[part].mean() for part in windows.values()]).view(height, width) for m in (slope, level))  # pyright: ignore[reportReturnType]


def test_it_is_what_its_paper_defines() -> None:
    generator = torch.Generator().manual_seed(0)
    guide, values = (torch.rand(1, n, 32, 48, generator=generator) for n in (1, 2))
    small = [F.avg_pool2d(x, STRIDE)[0].double() for x in (guide, values)]
    got = guided_filter(values, guide, 8, 1e-2)
    for channel in range(2):
        maps = by_definition(small[1][channel], small[0][0], 2, 1e-2)
        slope, level = (F.interpolate(m[None, None], scale_factor=4, mode="bilinear")[0, 0] for m in maps)
        torch.testing.assert_close(got[0, channel].double(), slope * guide[0, 0] + level, atol=1e-5, rtol=1e-5)


def test_steps_vanish_where_the_image_has_none_and_stay_where_it_has() -> None:
    step = torch.zeros(1, 1, 256, 256)
    step[..., 128:] = 1
    flat = guided_filter(step, torch.full_like(step, 0.5), 48)
    assert (flat[..., 128] - flat[..., 127]).abs().max() < 0.03
    edge = guided_filter(step, 0.2 + 0.5 * step, 48)
    assert (edge - step).abs().max() < 0.03


def test_a_half_precision_map_is_filtered_in_single_precision() -> None:
    values, guide = torch.rand(2, 1, 6, 64, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    guide = guide[:, :1]
    assert torch.equal(guided_filter(values, guide, 16), guided_filter(values.float(), guide.float(), 16))


@pytest.mark.parametrize("radius", [-4, 6, 256])
def test_a_radius_that_makes_no_sense_is_refused(radius: int) -> None:
    with pytest.raises(InputError, match="smoothing must be a multiple of 4 from 0 to below 256"):
        DehazeXL(DehazeXLConfig(smoothing=radius))
