"""Dehazing attribution map: which pixels of a hazy image a window of the result depends on (arXiv 2504.09621).

It integrates gradients along the straight line from the clear image to the hazy one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from visionzoo.errors import InputError

from .attribution_patches import Window, mean_gradient, rectangle, restored, window_score
from .model import DehazeXL


@dataclass(frozen=True)
class AttributionStep:
    """One point on the line from clear to hazy.

    Attributes:
        image: (3, H, W), the interpolated image.
        output: (3, H, W), the network's output for it.
        gradient: (3, H, W), gradient of the window's score with respect to `image`.
        score: the sum of the window's mean and variance.
    """

    image: Tensor
    output: Tensor
    gradient: Tensor
    score: float


@dataclass(frozen=True)
class Attribution:
    """
    Attributes:
        values: (3, H, W), contribution of each value of the image to the window's score.
        saliency: (H, W) in [0, 1]: square root of the sum over colours, divided by its maximum.
    """

    values: Tensor
    saliency: Tensor


def attribution_steps(
    network: Callable[[Tensor], Tensor], hazy: Tensor, clear: Tensor, window: Window, steps: int
) -> Iterator[AttributionStep]:
    """Yield the points i / steps, i = 1 .. steps, on the line from clear to hazy, with gradients, one at a time.

    This backpropagates through the whole image at once for any network; `attribution_map` can avoid that.

    Args:
        network: (1, 3, H, W) -> the same shape.
        hazy, clear: (3, H, W) in [0, 1].
        window: of the result: first row, first column, and side (or height and width).

    Raises:
        InputError: images of different shapes, a window that is not inside, or no steps.
    """
    _check(hazy, clear, window, steps)
    top, left, height, width = rectangle(window)
    for i in range(1, steps + 1):
        with torch.enable_grad():
            image = ((1 - i / steps) * clear + (i / steps) * hazy).detach().requires_grad_()
            output = network(image[None])[0]
            score = window_score(output[:, top : top + height, left : left + width])
            (gradient,) = torch.autograd.grad(score, image)
        yield AttributionStep(image.detach(), output.detach(), gradient.nan_to_num(nan=0.0), score.item())


def attribution_map(
    network: Callable[[Tensor], Tensor],
    hazy: Tensor,
    clear: Tensor | None,
    window: Window,
    *,
    steps: int = 50,
    derivative: Literal["exact", "official"] = "exact",
    patches_at_once: int = 4,
    progress: bool = False,
) -> Attribution:
    """Compute what the pixels of `hazy` contribute to the mean and variance of a window of the network's result.

    With a `DehazeXL`, memory is bounded: patches are processed one after another, which gives the same numbers. It may be
    on another device than the images, its parameters get no gradients, and it runs as in `eval()`.

    Args:
        network: a `DehazeXL`; or any function (1, 3, H, W) -> the same shape that torch can differentiate, which it does
            for the whole image at once.
        hazy: (3, H, W) in [0, 1].
        clear: the same view without haze, at which the line begins. None, for views without one, uses the
            network's own result, clamped to [0, 1]. This is not in the paper: the map then explains the
            change that the network made, whether right or wrong.
        window: of the result: first row, first column, and side (or height and width).
        steps: number of points on the line; the paper suggests 100, the published demo uses 5.
        derivative: derivative of the line, by which gradients are multiplied: "exact" is hazy - clear, "official" the
            2 * hazy - clear that the published code computes.
        patches_at_once: number of patches of a `DehazeXL` in memory together; more is faster on a GPU.
        progress: show a progress bar.

    Returns:
        The map, on the device of `hazy`.

    Raises:
        InputError: images of different shapes, a window that is not inside, no steps, or no patches.
    """
    _check(hazy, clear, window, steps)
    if patches_at_once < 1:
        raise InputError(f"patches_at_once must be at least 1, got {patches_at_once}")
    _check_derivative(derivative)
    if isinstance(network, DehazeXL):
        if clear is None:
            clear = restored(network, hazy, patches_at_once).clamp_(0, 1)
        mean = mean_gradient(
            network, hazy, clear, window, steps=steps, patches_at_once=patches_at_once, progress=progress
        )
        return attribute(mean, hazy, clear, derivative)
    if clear is None:
        with torch.no_grad():
            clear = network(hazy[None])[0].clamp(0, 1)
    mean = torch.zeros_like(hazy)
    points = attribution_steps(network, hazy, clear, window, steps)
    for step in tqdm(points, total=steps, desc="attribution", unit="step", disable=None if progress else True):
        mean += step.gradient / steps
    return attribute(mean, hazy, clear, derivative)


def attribute(
    mean_gradient: Tensor, hazy: Tensor, clear: Tensor, derivative: Literal["exact", "official"]
) -> Attribution:
    """The last step of `attribution_map`."""
    _check_derivative(derivative)
    values = mean_gradient * path_derivative(hazy, clear, derivative)
    saliency = values.sum(0).abs().sqrt()
    return Attribution(values, saliency / saliency.max().clamp_min(torch.finfo(saliency.dtype).tiny))


def path_derivative(hazy: Tensor, clear: Tensor, derivative: Literal["exact", "official"]) -> Tensor:
    """The factor by which gradients along the line are multiplied."""
    return hazy - clear if derivative == "exact" else 2 * hazy - clear


def _check(hazy: Tensor, clear: Tensor | None, window: Window, steps: int) -> None:
    top, left, height, width = rectangle(window)
    if hazy.ndim != 3 or len(hazy) != 3 or (clear is not None and hazy.shape != clear.shape):
        other = "" if clear is None else f" and {tuple(clear.shape)}"
        raise InputError(f"hazy and clear must both be (3, H, W), of one shape, got {tuple(hazy.shape)}{other}")
    if min(height, width) < 1 or min(top, left) < 0 or top + height > hazy.shape[1] or left + width > hazy.shape[2]:
        raise InputError(
            f"the window of {width} x {height} pixels at row {top}, column {left} is not inside {hazy.shape[2]} x "
            f"{hazy.shape[1]} pixels"
        )
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")


def _check_derivative(derivative: str) -> None:
    if derivative not in ("exact", "official"):
        raise InputError(f"derivative must be 'exact' or 'official', got {derivative!r}")
