"""Optical flow of real videos by RAFT (Teed and Deng, ECCV 2020, arXiv 2003.12039), and which pixels stay visible.

RAFT is torchvision's network with weights by path; nothing is downloaded.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from visionzoo.errors import InputError, WeightsError
from visionzoo.weights import find_state_dict, misfit, read_checkpoint

SMALLEST, MULTIPLE = 128, 8
"""Sides that RAFT takes."""

ORIGIN = "https://download.pytorch.org/models/raft_large_C_T_SKHT_V2-ff5fadd5.pth"


class FlowEstimator(Protocol):
    """Finds the motion between two images. Any such callable will do; its attribute `name` is reported, else its Python name."""

    def __call__(self, first: Tensor, second: Tensor, /) -> Tensor:
        """Two images (3, H, W) float in [0, 1] -> flow (H, W, 2) in pixels, x to the right and y down, first to second."""
        ...


class RaftFlow:
    """torchvision's RAFT, large or small, as the file says.

    Images whose sides are below 128 pixels or no multiples of 8 are extended by repeating their borders.

    Args:
        path: file with a state dict, such as torchvision's raft_large_C_T_SKHT_V2-ff5fadd5.pth.
        device: where the network runs.
        updates: number of refinements of the flow; torchvision's default is 12.

    Raises:
        InputError: `updates` is below 1.
        WeightsError: the file is missing, does not fit, or would run code.
    """

    def __init__(self, path: str | PathLike[str], *, device: torch.device | str = "cpu", updates: int = 12) -> None:
        if updates < 1:
            raise InputError(f"updates must be at least 1, got {updates}")
        state = find_state_dict(read_checkpoint(path), str(path))
        from torchvision.models.optical_flow import raft_large, raft_small

        stem = state.get("feature_encoder.convnormrelu.0.weight")
        small = stem is not None and len(stem) == 32
        with torch.device("meta"):
            network: Any = (raft_small if small else raft_large)(weights=None)
        kind = f"RAFT-{'small' if small else 'large'}"
        own = network.state_dict()
        # counters of batches, which have no effect, are missing in older files
        state |= {
            key: torch.zeros((), dtype=torch.long)
            for key in own
            if key.endswith("num_batches_tracked") and key not in state
        }
        if problem := misfit(own, state):
            raise WeightsError(f"{path} does not fit torchvision's {kind}: {problem}; expected e.g. {ORIGIN}")
        network.load_state_dict(state, assign=True)
        self.name, self.updates, self.device = f"{kind}, {Path(path).name}", updates, torch.device(device)
        self._network = network.to(self.device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor, /) -> Tensor:
        """Flow (H, W, 2), float32 on the CPU, from one image (3, H, W) in [0, 1] to another."""
        height, width = first.shape[-2:]
        right, bottom = (max(SMALLEST, -(-side // MULTIPLE) * MULTIPLE) - side for side in (width, height))
        images = (
            F.pad(2 * image.float()[None] - 1, (0, right, 0, bottom), mode="replicate").to(self.device)
            for image in (first, second)
        )
        flow = self._network(*images, num_flow_updates=self.updates)[-1]
        return flow[0, :, :height, :width].movedim(0, -1).cpu()


def consistent(forward: Tensor, backward: Tensor) -> Tensor:
    """(H, W) bool: pixels that stay visible, where the flow there and the flow back cancel.

    |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5, with b sampled at x + f(x): Sundaram, Brox and Keutzer, ECCV 2010, Eq. 5. The masks of the
    warp error in Lai et al. (arXiv 1808.00449) also leave out the borders of motion, which this does not.

    Args:
        forward: (H, W, 2) flow from one frame to the next, in pixels.
        backward: (H, W, 2) flow from the next frame back.
    """
    there = forward.double()
    back, inside = sample_along(backward.double().movedim(-1, 0), there)
    back = back.movedim(0, -1)
    bound = 0.01 * (there.square().sum(-1) + back.square().sum(-1)) + 0.5
    return inside & ((there + back).square().sum(-1) < bound)


def sample_along(image: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """(C, H, W) at x + flow(x), bilinearly, and a mask (H, W) of the places inside the image; False where the flow is not finite."""
    height, width = image.shape[1:]
    rows, columns = (torch.arange(size, device=image.device, dtype=image.dtype) for size in (height, width))
    x, y = columns + flow[..., 0], rows[:, None] + flow[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)  # False for NaN
    x, y = (torch.where(inside, place, 0.0) for place in (x, y))
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1)
    sampled = F.grid_sample(image[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True)
    return sampled[0], inside


__all__ = ["FlowEstimator", "RaftFlow", "consistent", "sample_along"]
