"""Fields that move a scene: a HexPlane, a trunk, and one head per attribute.

Shapes: n points (N anchors or M Gaussians), W hidden width, H heads.

The first layers of the H heads read the same hidden vector, so they are computed as one product (n, W) x (W, H * W): the plain
form needs H products. On a CPU, all layers run block by block (`blocks.py`). Heads that no setting uses do not exist here; the
published networks carry them along (see `checkpoint.py`). Positional encodings and the time network, which the published code computes
and drops, do not exist either.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import run_layers
from .hexplane import HexPlane

MASK_THRESHOLD = 0.01
"""A "mask" gate is open above this."""


class Head(nn.Module):
    """ReLU, Linear(W, W), ReLU, Linear(W, out); `Field` computes the first layers of all heads together."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, out)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.out(F.relu(self.hidden(F.relu(hidden))))


class Field(nn.Module):
    """Points (n, 3) and a time -> one change per head, {name: (n, out)}.

    Linear layers start Xavier-uniform, heads included: an untrained field moves a scene at random, as the published one does.

    Args:
        heads: name -> width of the output.
        depth: layers of the trunk.
    """

    def __init__(
        self,
        resolution: tuple[int, ...],
        channels: int,
        levels: tuple[int, ...],
        width: int,
        depth: int,
        heads: dict[str, int],
    ):
        super().__init__()
        self.planes = HexPlane(resolution, channels, levels)
        self.trunk: Any = nn.ModuleList(
            nn.Linear(width if layer else self.planes.out_dim, width) for layer in range(depth)
        )
        self.heads: Any = nn.ModuleDict({name: Head(width, out) for name, out in heads.items()})
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def hidden(self, features: Tensor) -> Tensor:
        """Features of the planes (n, C * L) -> (n, W)."""
        first, *others = self.trunk
        hidden = first(features)
        for layer in others:
            hidden = layer(F.relu(hidden))
        return hidden

    def forward(self, points: Tensor, time: float | Tensor) -> dict[str, Tensor]:
        """Changes of `points` (n, 3) at one time, or each at its own time (n,)."""
        if isinstance(time, Tensor):
            features = self.planes.plain_features(points, time)
        else:
            features = self.planes(points, time)
        return self.layers(features) if features.device.type == "cpu" else self.changes(self.hidden(features))

    def layers(self, features: Tensor) -> dict[str, Tensor]:
        """`changes` of `hidden` of features (n, C * L), block by block."""
        heads: list[Any] = list(self.heads.values())
        outputs = run_layers(
            features,
            [(layer.weight, layer.bias) for layer in self.trunk],
            self.stacked(),
            [(head.out.weight, head.out.bias) for head in heads],
        )
        return dict(zip(self.heads, outputs.split([len(head.out.bias) for head in heads], dim=1), strict=True))

    def stacked(self) -> tuple[Tensor, Tensor]:
        """Weights (H * W, W) and biases (H * W,) of the first layers of all heads."""
        heads: list[Any] = list(self.heads.values())
        return torch.cat([head.hidden.weight for head in heads]), torch.cat([head.hidden.bias for head in heads])

    def changes(self, hidden: Tensor) -> dict[str, Tensor]:
        """Hidden vectors (n, W) -> {head: (n, out)}."""
        parts = F.relu(F.linear(F.relu(hidden), *self.stacked())).chunk(len(self.heads), dim=-1)
        return {name: head.out(part) for (name, head), part in zip(self.heads.items(), parts, strict=True)}


class Scaffold(NamedTuple):
    """The anchors at one canonical time, in linear units.

    Attributes:
        positions: (N, 3).
        features: (N, f).
        offsets: (N, k, 3), of the Gaussians from their anchor, in units of `scaling[:, :3]`.
        scaling: (N, 6): three units of the offsets, three base scales of the Gaussians; after deformation they may be negative.
    """

    positions: Tensor
    features: Tensor
    offsets: Tensor
    scaling: Tensor

    def select(self, rows: Tensor) -> Scaffold:
        """The anchors of a mask (N,) or of indices (A,)."""
        return Scaffold(*(value[rows] for value in self))


def gate(values: Tensor, kind: str, activation: str) -> Tensor:
    """Dynamics (N, 1) -> gates (N, 1).

    A "mul" gate is the activation. A "mask" is 1 where the activation is above 0.01 and 0 elsewhere, with the gradient of the
    activation (straight-through).
    """
    active = getattr(torch, activation)(values)
    if kind == "mul":
        return active
    return is_open(values, activation).to(active.dtype) + (active - active.detach())


def is_open(values: Tensor, activation: str) -> Tensor:
    """Whether a "mask" gate lets its change pass, for dynamics of any shape."""
    return getattr(torch, activation)(values) > MASK_THRESHOLD


class GlobalDeformation(nn.Module):
    """GAD: the global canonical scaffold -> the local one of a temporal segment.

    Changes the positions, features, offsets and scaling of all anchors; depends on nothing but weights and the canonical time.
    The scaling's change is added after the exponential.
    """

    def __init__(self, field: Field, position_gate: str, attribute_gate: str, activation: str):
        super().__init__()
        self.field = field
        self.position_gate, self.attribute_gate, self.activation = position_gate, attribute_gate, activation

    def gates(self, dynamics: Tensor) -> tuple[Tensor, Tensor]:
        """Dynamics (N, 1 or 2) -> gates of the position and of the other attributes, (N, 1) each."""
        position = gate(dynamics[:, :1], self.position_gate, self.activation)
        return position, gate(dynamics[:, -1:], self.attribute_gate, self.activation)

    def forward(self, scaffold: Scaffold, dynamics: Tensor, time: float) -> Scaffold:
        change = self.field(scaffold.positions, time)
        move, other = self.gates(dynamics)
        return Scaffold(
            scaffold.positions + move * change["positions"],
            scaffold.features + other * change["features"],
            scaffold.offsets + other[..., None] * change["offsets"].view_as(scaffold.offsets),
            scaffold.scaling + other * change["scaling"],
        )


class LocalDeformation(nn.Module):
    """LGD, explicit: moves, scales and turns Gaussians at the exact time of a frame.

    Colours and opacities do not change. Scales may become negative; only their squares matter. Rotations are returned raw.
    """

    def __init__(self, field: Field):
        super().__init__()
        self.field = field

    def forward(self, means: Tensor, scales: Tensor, quats: Tensor, time: float) -> tuple[Tensor, Tensor, Tensor]:
        """Means (M, 3), linear scales (M, 3), quaternions (M, 4) -> the same, moved."""
        change = self.field(means, time)
        return means + change["means"], scales + change["scales"], quats + change["quats"]


__all__ = ["Field", "GlobalDeformation", "Head", "LocalDeformation", "Scaffold", "gate", "is_open"]
