"""Dehazing attribution map: which pixels of a hazy image a window of the result depends on (arXiv 2504.09621).

Integrated gradients along the straight line from the clear image to the hazy one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from visionzoo.errors import InputError


@dataclass(frozen=True)
class AttributionStep:
    """One point on the line from clear to hazy.

    Attributes:
        image: (3, H, W), the mixed image.
        output: (3, H, W), what the network makes of it.
        gradient: (3, H, W) of the window's score with respect to `image`.
        score: the window's mean and variance, added.
    """

    image: Tensor
    output: Tensor
    gradient: Tensor
    score: float


@dataclass(frozen=True)
class Attribution:
    """
    Attributes:
        values: (3, H, W), what each value of the image adds to the window's score.
        saliency: (H, W) in [0, 1]: the root of the sums over colours, over its maximum.
    """

    values: Tensor
    saliency: Tensor


def attribution_steps(
    network: Callable[[Tensor], Tensor], hazy: Tensor, clear: Tensor, window: tuple[int, int, int], steps: int
) -> Iterator[AttributionStep]:
    """The points i / steps, i = 1 .. steps, on the line from clear to hazy, with gradients; one at a time in memory.

    Args:
        network: (1, 3, H, W) -> the same shape.
        hazy, clear: (3, H, W) in [0, 1].
        window: first row, first column and side of the window of the result.

    Raises:
        InputError: images of different shapes, a window that is not inside, or no steps.
    """
    top, left, side = window
    if hazy.ndim != 3 or hazy.shape != clear.shape:
        raise InputError(f"hazy and clear are (3, H, W) and alike, got {tuple(hazy.shape)} and {tuple(clear.shape)}")
    if side < 1 or top < 0 or left < 0 or top + side > hazy.shape[1] or left + side > hazy.shape[2]:
        raise InputError(
            f"the window of side {side} at row {top}, column {left} is not inside {hazy.shape[1]} x {hazy.shape[2]} pixels"
        )
    if steps < 1:
        raise InputError(f"steps is at least 1, got {steps}")
    for i in range(1, steps + 1):
        with torch.enable_grad():
            image = ((1 - i / steps) * clear + (i / steps) * hazy).detach().requires_grad_()
            output = network(image[None])[0]
            seen = output[:, top : top + side, left : left + side]
            score = seen.mean() + seen.var()
            (gradient,) = torch.autograd.grad(score, image)
        yield AttributionStep(image.detach(), output.detach(), gradient.nan_to_num(nan=0.0), score.item())


def attribution_map(
    network: Callable[[Tensor], Tensor],
    hazy: Tensor,
    clear: Tensor,
    window: tuple[int, int, int],
    *,
    steps: int = 50,
    derivative: Literal["exact", "official"] = "exact",
) -> Attribution:
    """What the pixels of `hazy` add to the mean and variance of a window of the network's result.

    Args:
        network, hazy, clear, window: see `attribution_steps`.
        steps: points on the line; the paper suggests 100, the published demo takes 5.
        derivative: of the line, by which gradients are multiplied: "exact" is hazy - clear, "official" the
            2 * hazy - clear that the published code computes.
    """
    total = torch.zeros_like(hazy)
    for step in attribution_steps(network, hazy, clear, window, steps):
        total += step.gradient
    return attribute(total / steps, hazy, clear, derivative)


def attribute(
    mean_gradient: Tensor, hazy: Tensor, clear: Tensor, derivative: Literal["exact", "official"]
) -> Attribution:
    """The last step of `attribution_map`."""
    if derivative not in ("exact", "official"):
        raise InputError(f"derivative is 'exact' or 'official', got {derivative!r}")
    values = mean_gradient * path_derivative(hazy, clear, derivative)
    saliency = values.sum(0).abs().sqrt()
    return Attribution(values, saliency / saliency.max().clamp_min(torch.finfo(saliency.dtype).tiny))


def path_derivative(hazy: Tensor, clear: Tensor, derivative: Literal["exact", "official"]) -> Tensor:
    """What gradients along the line are multiplied by."""
    return hazy - clear if derivative == "exact" else 2 * hazy - clear
