"""Fit Gaussians to a few images with known cameras, on a CPU.

    python docs/examples/static_splatting.py --out fit.png

The images are made here: a striped ring around a ball. Replace `photographs` by your own images and cameras.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from visionzoo.splatting import Render, render


def camera(angle: float, height: float, size: int) -> tuple[Tensor, Tensor]:
    """A camera 3 units away that looks at the origin: the matrix from world to camera (4, 4), and its intrinsics (3, 3)."""
    eye = 3 * torch.tensor([math.sin(angle) * math.cos(height), -math.sin(height), -math.cos(angle) * math.cos(height)])
    forward = -eye / eye.norm()
    right = torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), forward)
    right = right / right.norm()
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])  # x to the right, y down, z forward
    viewmat = torch.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ eye
    focal = 1.4 * size
    return viewmat, torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])


def photographs(viewmats: Tensor, Ks: Tensor, size: int) -> Tensor:
    """Images (C, H, W, 3) of the object on white, by walking along four rays for each pixel until they meet it."""
    places = (torch.arange(2 * size) + 0.5) / 2
    y, x = torch.meshgrid(places, places, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1)
    rays = pixels @ torch.linalg.inv(Ks).mT.unsqueeze(1) @ viewmats[:, None, :3, :3]
    rays = rays / rays.norm(dim=-1, keepdim=True)
    points = -(viewmats[:, :3, :3].mT @ viewmats[:, :3, 3:]).mT.unsqueeze(1) + torch.zeros_like(rays)
    for _ in range(60):
        points = points + rays * torch.minimum(*distances(points)).unsqueeze(-1)
    ball, ring = distances(points)
    hit = torch.minimum(ball, ring) < 0.01
    around = torch.atan2(points[..., 2], points[..., 0])
    stripes = torch.stack([(3 * around).sin(), (3 * around + 2.1).sin(), (3 * around + 4.2).sin()], -1) * 0.4 + 0.5
    bands = torch.where((12 * points[..., 1:2]).sin() > 0, torch.tensor([0.9, 0.4, 0.1]), torch.tensor([0.2, 0.3, 0.7]))
    colors = torch.where((ball < ring).unsqueeze(-1), bands, stripes)
    fine = torch.where(hit.unsqueeze(-1), colors, 1.0)
    return fine.unflatten(2, (size, 2)).unflatten(1, (size, 2)).mean((2, 4))


def distances(points: Tensor) -> tuple[Tensor, Tensor]:
    """From points (..., 3) to the ball and to the ring."""
    ball = points.norm(dim=-1) - 0.45
    ring = torch.hypot(torch.hypot(points[..., 0], points[..., 2]) - 0.8, points[..., 1]) - 0.18
    return ball, ring


class Gaussians(torch.nn.Module):
    """The trained parameters. Scales and opacities are stored so that every number is valid."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.means = torch.nn.Parameter((torch.rand(count, 3) * 2 - 1) * torch.tensor([1.1, 0.6, 1.1]))
        self.quats = torch.nn.Parameter(torch.randn(count, 4))
        self.log_scales = torch.nn.Parameter(torch.full((count, 3), math.log(0.05)))
        self.logits = torch.nn.Parameter(torch.full((count,), -1.0))
        self.harmonics = torch.nn.Parameter(torch.cat([0.5 * torch.randn(count, 1, 3), torch.zeros(count, 3, 3)], 1))

    def forward(self, viewmats: Tensor, Ks: Tensor, size: int) -> Render:
        return render(
            self.means, self.quats, self.log_scales.exp(), self.logits.sigmoid(), self.harmonics, viewmats, Ks, size, size,
            sh_degree=1, background=torch.ones(3),
        )  # fmt: skip


def psnr(images: Tensor, truth: Tensor) -> float:
    return -10 * math.log10((images.clamp(0, 1) - truth).square().mean().item())


def fit(
    images: Tensor, viewmats: Tensor, Ks: Tensor, *, count: int = 3000, steps: int = 800
) -> tuple[Gaussians, list[float]]:
    """The Gaussians, and the loss of every step."""
    gaussians = Gaussians(count)
    rates = {"means": 4e-3, "quats": 1e-2, "log_scales": 2e-2, "logits": 5e-2, "harmonics": 2e-2}
    optimizer = torch.optim.Adam(
        [{"params": [value], "lr": rates[name]} for name, value in gaussians.named_parameters()], eps=1e-15
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.05 ** (1 / steps))
    losses = []
    for step in range(steps):
        views = torch.randperm(len(images))[:2]
        drawn = gaussians(viewmats[views], Ks[views], images.shape[1]).colors
        loss = (drawn - images[views]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.4f}, {psnr(drawn.detach(), images[views]):.1f} dB", flush=True)
    return gaussians, losses


def scene(views: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (C, H, W, 3) from all around, and their cameras."""
    turns = [(2 * math.pi * i / views, 0.5 * math.sin(2.4 * i)) for i in range(views)]
    viewmats, Ks = (torch.stack(part) for part in zip(*(camera(*turn, size) for turn in turns), strict=True))
    return photographs(viewmats, Ks, size), viewmats, Ks


def main(arguments: list[str] | None = None) -> list[float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("fit.png"), help="the truth above the fit, from views that were not trained"
    )
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--gaussians", type=int, default=3000)
    parser.add_argument("--size", type=int, default=128, help="width and height of the images in pixels")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    images, viewmats, Ks = scene(24, options.size)
    gaussians, losses = fit(images, viewmats, Ks, count=options.gaussians, steps=options.steps)

    unseen = [camera(angle, 0.35, options.size) for angle in (0.4, 1.6, 2.9, 4.4)]
    viewmats, Ks = (torch.stack(part) for part in zip(*unseen, strict=True))
    truth = photographs(viewmats, Ks, options.size)
    with torch.no_grad():
        drawn = gaussians(viewmats, Ks, options.size).colors
    print(f"views that were not trained: {psnr(drawn, truth):.1f} dB")
    sheet = torch.cat([torch.cat(list(row), 1) for row in (truth, drawn.clamp(0, 1))])
    Image.fromarray((sheet * 255).round().to(torch.uint8).numpy()).save(options.out)
    return losses


if __name__ == "__main__":
    main()
