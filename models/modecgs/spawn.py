"""Neural Gaussians: every anchor spawns k Gaussians that depend on the view (Scaffold-GS, CVPR 2024).

Shapes: A anchors, k Gaussians each, f feature width, M Gaussians with positive opacity.

Cost, compared with the published form:

* The first layers of the three networks read the same inputs, so they are one product (A, f + 3) x (f + 3, 3f) instead of three.
* The appearance code is the same for all anchors: its product is added to a bias instead of being repeated as 16 columns of inputs.
* Gaussians are selected first, then their attributes are gathered. The published code first writes the 22 columns (anchor,
  scaling, offset, colour, covariance) of all A * k Gaussians side by side, then selects rows; here no such table exists.
* Selecting waits for the device once. With `dense=True` it never waits, and the result has A * k Gaussians, of which a renderer drops
  those with opacity <= 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import MoDecGSConfig
from .deformation import Scaffold


class Spawned(NamedTuple):
    """Gaussians as the anchors make them, before they are moved.

    Attributes:
        means: (M, 3).
        scales: (M, 3), linear.
        quats: (M, 4), raw.
        opacities: (M,), positive unless `dense`.
        colors: (M, 3) in [0, 1].
        slots: (M,) anchor * k + offset, among the anchors that were given.
        neural_opacities: (A, k) in [-1, 1].
    """

    means: Tensor
    scales: Tensor
    quats: Tensor
    opacities: Tensor
    colors: Tensor
    slots: Tensor
    neural_opacities: Tensor


class AnchorNetworks(nn.Module):
    """The networks that turn an anchor's feature and the view on it into opacities, covariances and colours."""

    def __init__(self, config: MoDecGSConfig):
        super().__init__()
        self.config = config
        k, f, base = config.num_offsets, config.feature_dim, config.feature_dim + 3
        self.opacity = _mlp(base + config.opacity_dist, f, k)
        self.covariance = _mlp(base + config.covariance_dist, f, 7 * k)
        self.color = _mlp(base + config.color_dist + config.appearance_dim, f, 3 * k)
        self.bank = _mlp(4, f, 3) if config.feature_bank else None
        self.appearance: Any = (
            nn.Parameter(torch.randn(config.appearance_rows, config.appearance_dim)) if config.appearance_dim else None
        )

    def forward(self, scaffold: Scaffold, center: Tensor, appearance: int = 0, *, dense: bool = False) -> Spawned:
        """Gaussians of A anchors for a camera at `center` (3,).

        Args:
            appearance: row of the appearance code.
            dense: keep Gaussians of opacity <= 0, so that the result's size is known before it is computed.
        """
        k = self.config.num_offsets
        away = scaffold.positions - center
        distance = away.norm(dim=1, keepdim=True)
        view = away / distance
        features = self.mixed(scaffold.features, view, distance)
        raw_opacity, raw_covariance, raw_color = self._heads(features, view, distance, appearance)
        alphas = raw_opacity.tanh()
        opacities = alphas.flatten()
        if dense:
            slots = torch.arange(len(opacities), device=opacities.device)
        else:
            slots = (opacities > 0).nonzero()[:, 0]
        owners = slots.div(k, rounding_mode="floor")
        # `index_select` has the faster gradient
        covariance = raw_covariance.view(-1, 7).index_select(0, slots)
        scaling = scaffold.scaling.index_select(0, owners)
        offsets = scaffold.offsets.reshape(-1, 3).index_select(0, slots)
        return Spawned(
            means=scaffold.positions.index_select(0, owners) + offsets * scaling[:, :3],
            scales=scaling[:, 3:] * covariance[:, :3].contiguous().sigmoid(),  # strided, it would run number by number
            quats=covariance[:, 3:],
            opacities=opacities.index_select(0, slots),
            colors=raw_color.view(-1, 3).index_select(0, slots).sigmoid(),
            slots=slots,
            neural_opacities=alphas,
        )

    def mixed(self, features: Tensor, view: Tensor, distance: Tensor) -> Tensor:
        """Features (A, f), of three resolutions mixed by the view if there is a bank."""
        if self.bank is None:
            return features
        weights = self.bank(torch.cat([view, distance], dim=1)).softmax(dim=1)
        coarse, middle = features[:, ::4].repeat(1, 4), features[:, ::2].repeat(1, 2)
        return weights[:, :1] * coarse + weights[:, 1:2] * middle + weights[:, 2:] * features

    def _heads(
        self, features: Tensor, view: Tensor, distance: Tensor, appearance: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of the three networks, their first layers computed together."""
        c = self.config
        uses_distance = (c.opacity_dist, c.covariance_dist, c.color_dist)
        inputs = torch.cat([features, view, distance] if any(uses_distance) else [features, view], dim=1)
        base = c.feature_dim + 3
        weights, biases = [], []
        for network, far in zip((self.opacity, self.covariance, self.color), uses_distance, strict=True):
            first: Any = network[0]
            weight, bias = first.weight, first.bias
            columns = base + far
            if weight.shape[1] > columns and self.appearance is not None:
                bias = bias + weight[:, columns:] @ self.appearance[appearance]
            weights.append(F.pad(weight[:, :columns], (0, inputs.shape[1] - columns)))
            biases.append(bias)
        hidden = F.relu(F.linear(inputs, torch.cat(weights), torch.cat(biases))).chunk(3, dim=1)
        opacity, covariance, color = (
            network[2](part) for network, part in zip((self.opacity, self.covariance, self.color), hidden, strict=True)
        )
        return opacity, covariance, color


def _mlp(inputs: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, out))


__all__ = ["AnchorNetworks", "Spawned"]
