"""Rasterisation under the rules of gsplat and of the original: projections, images, depths and gradients."""

from __future__ import annotations

import math
from typing import Any

import torch

from visionzoo.splatting import project, render, rotation_matrices

from .. import seeded
from ..case import Case

NAMES = ("means", "quats", "scales", "opacities", "colors")


def is_raster(case: Case) -> bool:
    return "gaussians" in case.config


def scene(case: Case) -> dict[str, Any]:
    """The Gaussians of a case, by the names of `render`'s arguments."""
    drawn = {name: case.input(name) for name in NAMES}
    drawn["means"] = drawn["means"] * torch.tensor([0.6, 0.6, 0.4])
    drawn["scales"] = torch.exp(1.5 * drawn["scales"] - 2.5)
    drawn["opacities"] = (1.2 * drawn["opacities"] + 0.05).clamp(max=1)
    return drawn


def camera(case: Case) -> dict[str, Any]:
    config = case.config
    viewmat = torch.eye(4)
    viewmat[2, 3] = 3
    if "identity" not in config["camera"]:
        yaw, pitch = (seeded.tensor("camera_angles", (2,), case.seed) - 0.5).tolist()
        about_y = torch.tensor(
            [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]], dtype=torch.float32
        )
        about_x = torch.tensor(
            [[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]],
            dtype=torch.float32,
        )
        viewmat[:3, :3] = about_x @ about_y
    focal = float(config["fx=fy"])
    intrinsics = torch.tensor([[focal, 0, float(config["cx"])], [0, focal, float(config["cy"])], [0, 0, 1]])
    return {"viewmats": viewmat[None], "Ks": intrinsics[None], "width": config["width"], "height": config["height"]}


def compute(case: Case, backend: str = "auto") -> dict[str, Any]:
    with torch.inference_mode(False), torch.enable_grad():
        return _compute(case, backend)


def _compute(case: Case, backend: str) -> dict[str, Any]:
    gaussians, view = scene(case), camera(case)
    shapes = {name: gaussians[name] for name in NAMES[:3]}
    background = torch.tensor(case.config["background"], dtype=torch.float32)
    eps2d = float(case.config["blur"])
    axes = rotation_matrices(gaussians["quats"]) * gaussians["scales"].unsqueeze(-2)
    results: dict[str, Any] = {"covars3d": axes @ axes.mT}
    for rules in ("gsplat", "inria"):
        # the recorded extents are those of gsplat's torch reference, which does not know the opacities
        seen = project(**shapes, **view, rules=rules, eps2d=eps2d)
        found: dict[str, Any] = {
            "radii": seen.radii[0].float(),
            "means2d": seen.means2d[0],
            "depths": seen.depths[0],
            "conics": seen.conics[0],
            "tiles_per_gauss": seen.tiles_per_gauss[0].float(),
            "antialiased.compensations": seen.compensations[0],
        }
        if rules == "inria":
            found["radii"] = found["radii"][:, 0]
        leaves: dict[str, Any] = {name: value.clone().requires_grad_() for name, value in gaussians.items()}
        drawn = render(**leaves, **view, background=background, rules=rules, eps2d=eps2d, backend=backend)
        drawn.means2d.retain_grad()
        (drawn.colors[0] * case.input("loss_weight")).sum().backward()
        found |= {"image": drawn.colors[0], "alpha": drawn.alphas[0], "depth": drawn.depths[0]}
        found |= {f"grad.{name}": leaf.grad for name, leaf in leaves.items()}
        found["grad.means2d_pixels"] = None if drawn.means2d.grad is None else drawn.means2d.grad[0]
        found["antialiased.image"] = render(
            **gaussians, **view, background=background, rules=rules, eps2d=eps2d, antialiased=True, backend=backend
        ).colors[0]
        results |= {f"{rules}.{name}": value for name, value in found.items()}
    return {name: value for name, value in results.items() if name in case.outputs}
