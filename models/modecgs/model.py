"""MoDec-GS: a small dynamic scene of anchors that spawn Gaussians and are moved in two steps (arXiv 2501.03714).

What is special about it, in the order of computation:

1. A sparse table of anchors on a voxel grid, each with a feature and k offsets (`anchors.py`).
2. Time is cut into K segments (`intervals.py`). Global Anchor Deformation moves the anchors and changes their features once per
   segment: the "local canonical scaffold" (`deformation.py`). It depends on weights alone, so inference keeps it per segment.
3. Each anchor spawns k Gaussians that depend on the view (`spawn.py`).
4. Local Gaussian Deformation moves the spawned Gaussians at the exact time, with one field for all segments.
5. The result is a set of plain Gaussians for any renderer of 3D Gaussians.

During training the table of anchors grows and shrinks (`growth.py`, `strategy.py`), and the borders of segments move.

Shapes: N anchors, A of them visible, k Gaussians each, M Gaussians with positive opacity.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.config import configure
from visionzoo.errors import InputError

from .anchors import Anchors, initial_anchors, voxel_size_of
from .config import MoDecGSConfig
from .deformation import Field, GlobalDeformation, LocalDeformation, Scaffold
from .gaussians import Gaussians
from .intervals import Intervals
from .spawn import AnchorNetworks
from .versions import Versions, versions


class MoDecGS(nn.Module):
    """A camera centre and a time -> Gaussians.

        model = MoDecGS(MoDecGSConfig())
        model.initialize(points)  # (n, 3), e.g. of COLMAP
        gaussians = model(center, 0.25)  # center (3,), time in [0, 1]; time=None for the static scene of the coarse stage

    In `eval()` without gradients, the deformed anchors of a segment are computed once and kept until a weight changes.
    """

    def __init__(self, config: MoDecGSConfig):
        super().__init__()
        self.config = config
        self.anchors = Anchors(config)
        self.networks = AnchorNetworks(config)
        self.intervals = Intervals(config.num_segments, config.intervals)
        self.global_deformation = _global_deformation(config) if config.deform_global else None
        self.local_deformation = _local_deformation(config) if config.deform_local else None
        self._canonical: OrderedDict[float, Scaffold] = OrderedDict()
        self._versions: Versions | None = None

    def initialize(self, points: np.ndarray) -> None:
        """Put one anchor into every voxel that holds one of `points` (n, 3), and let both fields span the points.

        With `config.voxel_size=0` the size is derived from the points; `config` then has the size that was found.

        Raises:
            InputError: points that cannot be used (see `anchors.check_points`).
        """
        size = self.config.voxel_size or voxel_size_of(points)
        positions, scaling = initial_anchors(points, size)
        self.config = replace(self.config, voxel_size=size)
        self.anchors.fill(positions, scaling)
        cloud = torch.from_numpy(np.asarray(points, dtype=np.float32))
        for deformation in (self.global_deformation, self.local_deformation):
            if deformation is not None:
                deformation.field.planes.set_box(cloud)
        self.clear_cache()

    def forward(
        self,
        center: Tensor,
        time: float | None,
        *,
        visible: Tensor | None = None,
        appearance: int = 0,
        dense: bool = False,
    ) -> Gaussians:
        """Gaussians for a camera at `center` (3,).

        Args:
            time: time of the frame, in [0, 1]; None for the anchors at rest (the coarse stage, or a static scene).
            visible: (N,) bool, anchors that may spawn; all otherwise.
            appearance: row of the appearance code; the published model has one.
            dense: keep Gaussians of opacity <= 0, so that M = A * k is known beforehand and the host never waits for the device.

        Raises:
            InputError: a time that is not finite, or a mask of another length.
        """
        scaffold = self.anchors.scaffold() if time is None else self.canonical(time)
        return self.gaussians(scaffold, center, time, visible=visible, appearance=appearance, dense=dense)

    def canonical(self, time: float) -> Scaffold:
        """The deformed anchors of the segment of `time`, for `gaussians`: frames of one segment can share them."""
        if self.global_deformation is None:
            return self.anchors.scaffold()
        canonical_time = self.intervals.canonical_time(time)
        if self.training or torch.is_grad_enabled():
            return self._deform(canonical_time)
        now = versions(
            [*self.anchors.values(), *self.global_deformation.parameters(), *self.global_deformation.buffers()]
        )
        if now is None:  # inference mode: changes of weights cannot be detected
            return self._deform(canonical_time)
        if not now.equals(self._versions):
            self.clear_cache()
            self._versions = now
        if canonical_time not in self._canonical:
            self._canonical[canonical_time] = self._deform(canonical_time)
            if len(self._canonical) > 2 * self.config.num_segments:  # K borders, and what lies 1 / K before them
                self._canonical.popitem(last=False)
        self._canonical.move_to_end(canonical_time)
        return self._canonical[canonical_time]

    def train(self, mode: bool = True) -> MoDecGS:
        """As in torch; the deformed anchors are forgotten, since fused optimizers change weights unnoticed."""
        self.clear_cache()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> MoDecGS:
        """Another device or precision, which changes weights through `.data`."""
        self.clear_cache()
        return super()._apply(*args, **kwargs)

    def clear_cache(self) -> None:
        """Discard the deformed anchors, e.g. after a weight was written through `.data`, which cannot be detected."""
        self._canonical.clear()
        self._versions = None

    def gaussians(
        self,
        scaffold: Scaffold,
        center: Tensor,
        time: float | None,
        *,
        visible: Tensor | None = None,
        appearance: int = 0,
        dense: bool = False,
    ) -> Gaussians:
        """Gaussians of a scaffold that `canonical` made; arguments as those of a call."""
        every = torch.arange(len(scaffold.positions), device=scaffold.positions.device)
        rows = every
        if visible is not None:
            if visible.shape != every.shape:
                raise InputError(
                    f"visible must have shape ({len(every)},), one value per anchor, got {tuple(visible.shape)}"
                )
            rows = every[visible]
            scaffold = scaffold.select(rows)
        found = self.networks(scaffold, center, appearance, dense=dense)
        means, scales, quats = found.means, found.scales, found.quats
        if time is not None and self.local_deformation is not None:
            means, scales, quats = self.local_deformation(means, scales, quats, time)
        k = self.config.num_offsets
        slots = found.slots if visible is None else rows[found.slots // k] * k + found.slots % k
        return Gaussians(
            means, F.normalize(quats, dim=-1), scales, found.opacities, found.colors,
            slots=slots, anchors=rows, neural_opacities=found.neural_opacities,
        )  # fmt: skip

    @torch.no_grad()
    def hold_still(self) -> None:
        """Set the last layers of both fields' heads to zero, so that nothing moves until they are trained."""
        for deformation in (self.global_deformation, self.local_deformation):
            if deformation is not None:
                for head in deformation.field.heads.values():
                    head.out.weight.zero_()
                    head.out.bias.zero_()
        self.clear_cache()

    def resize_for(self, state: Mapping[str, Tensor]) -> None:
        """Give the table of anchors as many rows as `state`, a state dict, has (`load_checkpoint` calls it)."""
        self.anchors.resize_for(state, "anchors.")

    def _deform(self, canonical_time: float) -> Scaffold:
        assert self.global_deformation is not None
        return self.global_deformation(self.anchors.scaffold(), self.anchors["dynamics"], canonical_time)


def _global_deformation(c: MoDecGSConfig) -> GlobalDeformation:
    heads = {"positions": 3, "features": c.feature_dim, "offsets": 3 * c.num_offsets, "scaling": 6}
    field = Field(c.global_resolution, c.global_channels, c.global_levels, c.width, c.depth, heads)
    return GlobalDeformation(field, c.position_gate, c.attribute_gate, c.gate_activation)


def _local_deformation(c: MoDecGSConfig) -> LocalDeformation:
    heads = {"means": 3, "scales": 3, "quats": 4}
    return LocalDeformation(Field(c.local_resolution, c.local_channels, c.local_levels, c.width, c.depth, heads))


def build(name: str, **overrides: Any) -> MoDecGS:
    """A MoDec-GS without anchors, unless `num_anchors` is given."""
    return MoDecGS(configure(MoDecGSConfig(), overrides))


__all__ = ["MoDecGS", "build"]
