"""Gaussian splatting on a CPU: 20,000 Gaussians on 256 x 256 pixels, compared with tiles in plain torch.

visionzoo bench splatting
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from visionzoo.benchmark import Contestant, Report, compare
from visionzoo.splatting import Projection, cpu, project, render
from visionzoo.splatting.rules import ALPHA_FLOOR, RULES, TILE

__all__ = ["benchmark"]


def scene(count: int, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A box of Gaussians that fills most of the image, and its camera."""
    draw = torch.Generator().manual_seed(0)
    gaussians = {
        "means": (torch.rand(count, 3, generator=draw) * 2 - 1) * torch.tensor([1.4, 1.4, 1.0]),
        "quats": torch.randn(count, 4, generator=draw),
        "scales": 1.8 * torch.exp(torch.rand(count, 3, generator=draw) * 1.5 - 5.2),
        "opacities": torch.rand(count, generator=draw) * 0.9 + 0.05,
        "colors": torch.rand(count, 3, generator=draw),
    }
    viewmat = torch.eye(4)
    viewmat[2, 3] = 4
    intrinsics = torch.tensor([[1.1 * size, 0, size / 2], [0, 1.1 * size, size / 2], [0, 0, 1]])
    return gaussians, {"viewmats": viewmat[None], "Ks": intrinsics[None], "width": size, "height": size}


def tiled(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor,
    viewmats: Tensor, Ks: Tensor, width: int, height: int,
) -> Tensor:  # fmt: skip
    """The image (H, W, 3), tile by tile in torch, as without a compiled kernel. It uses our projection."""
    seen = project(means, quats, scales, viewmats, Ks, width, height, opacities=opacities)
    order = seen.depths[0].sort(stable=True).indices
    left, top, right, bottom = seen.rectangles[0, order].unbind(-1)
    mean_x, mean_y = seen.means2d[0, order].unbind(-1)
    a, k, q = seen.ellipses[0, order].unbind(-1)
    opacities, colors = opacities[order], colors[order]
    rules = RULES["gsplat"]
    rows = []
    for y0 in range(0, height, TILE):
        tiles = []
        for x0 in range(0, width, TILE):
            here = ((left <= x0) & (right > x0) & (top <= y0) & (bottom > y0)).nonzero().squeeze(-1)
            y = torch.arange(y0, min(y0 + TILE, height)).view(-1, 1, 1) + 0.5
            x = torch.arange(x0, min(x0 + TILE, width)).view(1, -1, 1) + 0.5
            dy = y - mean_y[here]
            e = x - mean_x[here] - k[here] * dy
            alpha = opacities[here] * torch.exp(-0.5 * (a[here] * e * e + q[here] * dy * dy))
            alpha = alpha.clamp(max=rules.alpha_cap)
            alpha = torch.where(alpha >= ALPHA_FLOOR, alpha, 0)
            after = (1 - alpha).cumprod(-1)
            before = torch.cat([after.new_ones(*after.shape[:2], 1), after[..., :-1]], -1)
            weights = torch.where(after >= rules.closed_below, alpha * before, 0)
            tiles.append(weights @ colors[here])
        rows.append(torch.cat(tiles, 1))
    return torch.cat(rows)


def ours(**arguments: Any) -> Tensor:
    return render(**arguments).colors[0]


def pairs(seen: Projection, gaussians: dict[str, Any], size: int) -> int:
    """Sum over all Gaussians of the pixels inside their extents."""
    kernels, bands = cpu.loops()
    arrays = (
        tensor.numpy() for tensor in (seen.means2d[0], seen.ellipses[0], gaussians["opacities"], gaussians["colors"])
    )
    order = seen.depths[0].sort().indices.numpy()
    _, boxes, *_ = bands.arrange(order, *arrays, seen.depths[0].numpy(), seen.rectangles[0].numpy(), size, kernels.ROWS)
    wide, tall = (boxes[:, 1] - boxes[:, 0]).clip(0), (boxes[:, 3] - boxes[:, 2]).clip(0)
    return int((wide.astype(int) * tall).sum())


def benchmark(rounds: int = 5, command: str = "", count: int = 20_000, size: int = 256) -> Report:
    gaussians, view = scene(count, size)
    leaves = {name: value.clone().requires_grad_() for name, value in gaussians.items()}
    weight = torch.rand(size, size, 3, generator=torch.Generator().manual_seed(1))

    def image(draw: Any) -> Any:
        def run() -> Tensor:
            with torch.no_grad():
                return draw(**gaussians, **view)

        return run

    def step(draw: Any) -> Any:
        def run() -> Tensor:
            grads = torch.autograd.grad((draw(**leaves, **view) * weight).sum(), list(leaves.values()))
            return torch.cat([grad.flatten() for grad in grads])

        return run

    def backward(draw: Any) -> Any:
        loss = (draw(**leaves, **view) * weight).sum()

        def run() -> Tensor:
            grads = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
            return torch.cat([grad.flatten() for grad in grads])

        return run

    with torch.no_grad():
        seen = project(
            *(gaussians[name] for name in ("means", "quats", "scales")), **view, opacities=gaussians["opacities"]
        )
        splat = (seen, gaussians["opacities"][None], gaussians["colors"][None], size, size, RULES["gsplat"])
    inside = pairs(seen, gaussians, size)
    wide_seen, wide, layers = _wide(inside, size)
    note = (
        f"{inside:,} pairs of a pixel and a Gaussian inside the extents; "
        f"`as many pairs` has {layers * size * size:,}, of {layers} Gaussians as large as the image."
    )
    what = f"{count:,} Gaussians on {size} x {size} pixels"
    tables = [
        compare(
            f"{title}, {what}",
            [Contestant("torch, tiles of 16 x 16", run(tiled)), Contestant("visionzoo, cpu", run(ours))],
            rounds=rounds,
            command=command,
            judge=_distance,
        )
        for title, run in (("Forward", image), ("Backward", backward), ("Forward and backward", step))
    ]
    bound = compare(
        "The compiled loops alone, forward",
        [
            Contestant(what, lambda: cpu.splat(*splat)),
            Contestant("as many pairs", lambda: cpu.splat(*wide_seen, *wide, size, size, RULES["gsplat"])),
        ],
        rounds=4 * rounds,
        command=command,
        notes=[note],
    )
    return Report([*tables, bound])


def _wide(inside: int, size: int) -> tuple[tuple[Projection], tuple[Tensor, Tensor], int]:
    """Faint Gaussians that cover the whole image, as many as give the same number of pairs."""
    layers = max(1, round(inside / size**2))
    gaussians, view = scene(layers, size)
    gaussians = {**gaussians, "scales": torch.full((layers, 3), 9.0), "opacities": torch.full((layers,), 0.02)}
    gaussians["means"] = gaussians["means"] * 0.1
    with torch.no_grad():
        seen = project(
            *(gaussians[name] for name in ("means", "quats", "scales")), **view, opacities=gaussians["opacities"]
        )
    return (seen,), (gaussians["opacities"][None], gaussians["colors"][None]), layers


def _distance(outputs: Sequence[Tensor]) -> list[str]:
    first = outputs[0].detach()
    return ["", *(f"{((out.detach() - first).norm() / first.norm()).item():.1e} from the first" for out in outputs[1:])]
