"""One step of training on the tiny scene of MoDec-GS, compared with the published structure and a renderer of tiles in plain torch.

visionzoo bench modecgs-training
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from visionzoo.benchmark import Contestant, Report, compare
from visionzoo.metrics.restoration import K1, K2, gaussian_weights
from visionzoo.models.modecgs import Fit, Frame, MoDecGS, Recipe
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.models.modecgs.captures.synthetic import SyntheticConfig, synthetic_capture
from visionzoo.models.modecgs.data import Frames
from visionzoo.models.modecgs.hexplane import AXES, TIME
from visionzoo.models.modecgs.losses import GLOBAL_WEIGHTS, LOCAL_WEIGHTS
from visionzoo.models.modecgs.model import build
from visionzoo.models.modecgs.optimize import visible_anchors
from visionzoo.models.modecgs.schedules import ADAM_EPS
from visionzoo.training.configuration import load_config

from .modecgs_networks import Published
from .splatting import tiled


class PublishedStep:
    """A training step in the published structure: networks, losses and optimizer written in torch, and images drawn tile by tile."""

    def __init__(self, model: MoDecGS, rate: float = 1e-4):
        self.model, self.networks = model, Published(model)
        shared = [p for name, p in model.named_parameters() if p.requires_grad and ".planes." not in name]
        self.optimizer = torch.optim.Adam([*shared, *self.networks.planes_parameters()], lr=rate, eps=ADAM_EPS)

    def __call__(self, frames: Sequence[Frame]) -> float:
        losses = []
        for frame in frames:
            height, width = frame.image.shape[1:]
            visible = visible_anchors(self.model, frame.viewmat, frame.K, width, height)
            means, quats, scales, opacities, colors = self.networks(frame.center, frame.time, visible)
            with_alpha = torch.cat([colors, torch.ones_like(colors[:, :1])], dim=1)
            drawn = tiled(
                means, quats, scales.abs(), opacities, with_alpha, frame.viewmat[None], frame.K[None], width, height
            )
            image = (drawn[..., :3] + (1 - drawn[..., 3:])).permute(2, 0, 1)
            losses.append((image - frame.image).abs().mean() + 0.2 * (1 - _ssim(image[None], frame.image[None])))
        loss = torch.stack(losses).mean() + self._regularization()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def _regularization(self) -> Tensor:
        """Terms of every plane, one after the other."""
        total = torch.zeros(())
        for planes, weights in zip(self.networks.planes, (GLOBAL_WEIGHTS, LOCAL_WEIGHTS), strict=True):
            for number, plane in enumerate(planes):
                over_time = TIME in AXES[number % len(AXES)]
                first = plane[..., 1:, :] - plane[..., :-1, :]
                rough = (first[..., 1:, :] - first[..., :-1, :]).square().mean()
                total = total + (weights.time_smoothness if over_time else weights.smoothness) * rough
                if over_time:
                    total = total + weights.constancy * (1 - plane).abs().mean()
        return total


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM as published: five convolutions with a window of 11 x 11."""
    line = torch.tensor(gaussian_weights(), dtype=x.dtype)
    window = (line[:, None] * line[None, :]).expand(3, 1, -1, -1).contiguous()

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, window, padding=len(line) // 2, groups=3)

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x.square(), mean(y * y) - mean_y.square()
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (similarity / ((mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2))).mean()


def benchmark(rounds: int = 5, command: str = "", scene: SyntheticConfig | None = None) -> Report:
    """Both steps from the same weights, on the same two frames."""
    arguments = load_config(["modecgs/tiny"])["model"]["init_args"]
    with tempfile.TemporaryDirectory() as temporary:
        capture = read_capture(synthetic_capture(Path(temporary), scene or SyntheticConfig()))
        every = Frames(capture.train)
        frames = [every.frame(number) for number in (len(every) // 5, len(every) // 2)]
    torch.manual_seed(0)
    model = build("modecgs", **arguments["config"])
    model.initialize(capture.points.positions.astype(np.float32))
    recipe = Recipe(**{**arguments["recipe"], "coarse_steps": 0}, batch_size=2)
    if recipe.start_still:  # otherwise only one of them would begin so
        model.hold_still()
    theirs, fit = PublishedStep(copy.deepcopy(model)), Fit(model, recipe, capture.extent)
    runs: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("published structure, tiles of 16 x 16", lambda: theirs(frames)),
        ("visionzoo", lambda: fit.step(frames).loss),
    )
    size = capture.train[0].camera
    table = compare(
        f"MoDec-GS, a training step of 2 frames of {size.width} x {size.height}, {model.anchors.rows:,} anchors",
        [Contestant(name, run) for name, run in runs],
        rounds=rounds,
        command=command,
        unit="steps",
        judge=lambda losses: ["", *(f"loss of the first step {abs(x / losses[0] - 1):.1e} off" for x in losses[1:])],
    )
    return Report([table])


if __name__ == "__main__":
    print(benchmark(command="python -m benchmarks.modecgs_training").to_markdown())
