"""Gaussians and cameras for the tests of splatting."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from visionzoo.splatting import Render, render

NAMES = ("means", "quats", "scales", "opacities", "colors")


def gaussians(count: int, seed: int = 0, *, size: float = 0.08, channels: int = 3) -> dict[str, Any]:
    """A cloud around the origin; the standard deviations are about `size`."""
    draw = torch.Generator().manual_seed(seed)
    return {
        "means": torch.randn(count, 3, generator=draw) * torch.tensor([0.6, 0.6, 0.4]),
        "quats": torch.randn(count, 4, generator=draw),
        "scales": size * torch.exp(torch.rand(count, 3, generator=draw) * 2 - 1),
        "opacities": torch.rand(count, generator=draw) * 0.94 + 0.05,
        "colors": torch.rand(count, channels, generator=draw),
    }


def cameras(count: int = 1, width: int = 32, height: int = 32) -> dict[str, Any]:
    """Cameras 3 units away, on an arc around the y axis."""
    viewmats = torch.eye(4).repeat(count, 1, 1)
    for i in range(count):
        angle = 0.5 * i
        viewmats[i, 0, 0] = viewmats[i, 2, 2] = math.cos(angle)
        viewmats[i, 0, 2], viewmats[i, 2, 0] = math.sin(angle), -math.sin(angle)
        viewmats[i, 2, 3] = 3
    focal = float(max(width, height))
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]).repeat(count, 1, 1)
    return {"viewmats": viewmats, "Ks": intrinsics, "width": width, "height": height}


def gradients(scene: dict[str, Any], view: dict[str, Any], **options: Any) -> tuple[Render, dict[str, Tensor]]:
    """A render, and the gradients of one number that depends on everything in it."""
    leaves: dict[str, Any] = {name: value.clone().requires_grad_() for name, value in scene.items()}
    drawn = render(**leaves, **view, **options)
    drawn.means2d.retain_grad()
    loss = sum(
        (part * torch.linspace(0.5, 1.5, part.numel(), dtype=part.dtype).cos().view_as(part)).sum()
        for part in (drawn.colors, drawn.alphas, drawn.depths)
    )
    assert isinstance(loss, Tensor)
    loss.backward()
    found = {name: leaf.grad for name, leaf in leaves.items()} | {"means2d": drawn.means2d.grad}
    return drawn, {name: torch.zeros(()) if grad is None else grad for name, grad in found.items()}


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).detach().norm() / wanted.detach().norm().clamp(min=1e-6))
