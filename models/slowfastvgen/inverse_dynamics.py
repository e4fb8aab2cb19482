"""Which action leads from one frame to the next? The inverse dynamics network of SlowFast-VGen's planning (arXiv 2410.23277,
section 3.4).

The paper does not say what its network is. Ours is a small ResNet that sees two consecutive frames one upon the other; its last
pooling keeps a grid of places, since a zoom moves the borders of an image to different sides and a step moves them to the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from visionzoo.data.toy_world import ACTIONS
from visionzoo.errors import InputError, unknown
from visionzoo.io.pixels import to_float


@dataclass(frozen=True)
class InverseDynamicsConfig:
    """Sizes of the network.

    Attributes:
        actions: what it tells apart.
        channels: at 1/2, 1/4, 1/8 … of the images' sides.
        grid: the last features are averaged over grid x grid parts of the image.
    """

    actions: tuple[str, ...] = ACTIONS
    channels: tuple[int, ...] = (24, 32, 48, 64)
    grid: int = 3


class InverseDynamics(nn.Module):
    """A ResNet that tells the action between two frames.

    Attributes:
        config: its sizes and actions.
    """

    def __init__(self, config: InverseDynamicsConfig):
        super().__init__()
        self.config = config
        widths = config.channels
        self.stem = nn.Sequential(
            nn.Conv2d(6, widths[0], 7, 2, 3, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        self.blocks = nn.Sequential(
            BasicBlock(widths[0], widths[0]),
            *(_half(before, after) for before, after in itertools.pairwise(widths)),
        )
        self.pool = nn.AdaptiveAvgPool2d(config.grid)
        self.head = nn.Linear(widths[-1] * config.grid**2, len(config.actions))

    def forward(self, pairs: Tensor) -> Tensor:
        """Pairs of consecutive frames (B, 2, 3, H, W) in [-1, 1] -> logits (B, actions)."""
        return self.head(self.pool(self.blocks(self.stem(pairs.flatten(1, 2)))).flatten(1))


def _half(before: int, after: int) -> BasicBlock:
    """A residual block that halves the sides."""
    shortcut = nn.Sequential(nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after))
    return BasicBlock(before, after, 2, shortcut)


def build(name: str, **overrides: Any) -> InverseDynamics:
    """Build the registered network "toy_actions" with random weights.

    Args:
        **overrides: fields of `InverseDynamicsConfig`.

    Raises:
        InputError: an unknown field, or values that are not positive.
    """
    known = [field.name for field in fields(InverseDynamicsConfig)]
    for field in overrides:
        if field not in known:
            raise unknown("field of InverseDynamicsConfig", field, known)
    tuples = {key: tuple(overrides[key]) for key in ("actions", "channels") if key in overrides}
    config = InverseDynamicsConfig(**{**overrides, **tuples})
    if not config.channels or min(config.channels) < 1 or config.grid < 1:
        raise InputError(
            f"channels and grid of {name} must be positive numbers, got {config.channels} and {config.grid}"
        )
    if len(config.actions) < 2 or len(set(config.actions)) < len(config.actions):
        raise InputError(f"actions of {name} must be two or more different ones, got {config.actions}")
    return InverseDynamics(config)


@torch.no_grad()
def action_probabilities(
    network: InverseDynamics, frames: Iterable[NDArray[np.uint8]], *, batch: int = 32
) -> NDArray[np.float64]:
    """Probabilities of the actions between consecutive frames.

    Args:
        network: in eval mode.
        frames: T images (H, W, 3) uint8 of one size.
        batch: pairs per call of the network.

    Returns:
        (T - 1, actions), in the order of `network.config.actions`.

    Raises:
        InputError: fewer than two frames, or frames of another shape, type or size than the first.
    """
    device = next(network.parameters()).device
    found = [network(pairs.to(device)).double().softmax(1).cpu() for pairs in _batches(frames, batch)]
    if not found:
        raise InputError("an action lies between two frames; give two or more")
    return torch.cat(found).numpy()


def read_actions(network: InverseDynamics, frames: Iterable[NDArray[np.uint8]], *, batch: int = 32) -> list[str]:
    """The most probable action between consecutive frames; arguments and errors are those of `action_probabilities`."""
    return [network.config.actions[index] for index in action_probabilities(network, frames, batch=batch).argmax(1)]


def _batches(frames: Iterable[NDArray[np.uint8]], size: int) -> Iterator[Tensor]:
    """Pairs (N, 2, 3, H, W) in [-1, 1]."""
    pairs: list[Tensor] = []
    last: Tensor | None = None
    for number, frame in enumerate(frames):
        if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
            raise InputError(f"frame {number} is {frame.dtype} of shape {frame.shape}, expected uint8 (H, W, 3)")
        now = to_float(np.ascontiguousarray(frame)) * 2 - 1
        if last is not None:
            if now.shape != last.shape:
                raise InputError(
                    f"frame {number} is {now.shape[2]} x {now.shape[1]} pixels, frame {number - 1} {last.shape[2]} x "
                    f"{last.shape[1]}; resize the frames to one size"
                )
            pairs.append(torch.stack([last, now]))
        last = now
        if len(pairs) == size:
            yield torch.stack(pairs)
            pairs = []
    if pairs:
        yield torch.stack(pairs)


__all__ = [
    "InverseDynamics",
    "InverseDynamicsConfig",
    "action_probabilities",
    "build",
    "read_actions",
]
