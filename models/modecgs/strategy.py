"""Growing and pruning in the interface of gsplat's strategies, for training loops that use those."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from visionzoo.errors import InputError

from .gaussians import Gaussians
from .growth import Adjusted, GrowthRules, Statistics, adjust

Info = Mapping[str, Any]
"""What a renderer says about one image: "means2d" (1, M, 2) or (M, 2) in pixels, "radii" with one or two numbers per Gaussian,
"width", "height"; and "gaussians", the `Gaussians` that were rendered."""


@dataclass
class AnchorStrategy:
    """gsplat's `Strategy` for a table of anchors: `params` is `model.anchors`, `optimizers` has one per column that is trained.

        state = strategy.initialize_state(model.anchors)
        strategy.step_pre_backward(model.anchors, optimizers, state, step, infos)
        loss.backward()
        strategy.step_post_backward(model.anchors, optimizers, state, step, infos)

    Attributes:
        rules: thresholds and the interval between adjustments.
        start: statistics are taken after this iteration.
        adjust_from: adjustments begin after this one.
        until: both end before this one.
        all_cameras: take statistics from every image of a batch; the published code takes the last one.
        scale_by_cameras: multiply gradients by the number of images in the batch, so that thresholds do not depend on it; the loss is
            their mean. The published thresholds belong to gradients that are not multiplied.
        generator: draws the random numbers of growing.
    """

    rules: GrowthRules
    start: int = 500
    adjust_from: int = 1500
    until: int = 15000
    all_cameras: bool = False
    scale_by_cameras: bool = False
    generator: torch.Generator | None = field(default=None, repr=False)

    def check_sanity(self, params: Mapping[str, nn.Parameter], optimizers: Mapping[str, Optimizer]) -> None:
        """Raise `InputError` unless the columns of anchors are there, and each optimizer has one parameter, its own."""
        missing = {"positions", "offsets", "features", "scaling"} - set(params)
        if missing:
            raise InputError(f"the table of anchors lacks {', '.join(sorted(missing))}; give model.anchors")
        for name, optimizer in optimizers.items():
            held = [value for group in optimizer.param_groups for value in group["params"]]
            if name in params and not any(value is params[name] for value in held):
                raise InputError(f"the optimizer {name!r} does not hold the parameter of that name")

    def initialize_state(self, params: Mapping[str, nn.Parameter]) -> dict[str, Any]:
        """Empty statistics for a table of anchors."""
        offsets = params["offsets"]
        return {"statistics": Statistics.empty(offsets.shape[0], offsets.shape[1], offsets.device)}

    def step_pre_backward(
        self,
        params: Mapping[str, nn.Parameter],
        optimizers: Mapping[str, Optimizer],
        state: dict[str, Any],
        step: int,
        info: Info | Sequence[Info],
    ) -> None:
        """Ask for the gradients on screen, of those images that statistics are taken from."""
        if self.start < step < self.until:
            for one in self._counted(info):
                one["means2d"].retain_grad()

    def step_post_backward(
        self,
        params: MutableMapping[str, nn.Parameter],
        optimizers: Mapping[str, Optimizer],
        state: dict[str, Any],
        step: int,
        info: Info | Sequence[Info],
    ) -> Adjusted | None:
        """Take statistics and, at the end of an interval, adjust the table. Returns what was adjusted.

        Args:
            info: info of one image, or of every image in the batch.
        """
        if not self.start < step < self.until:
            return None
        images = 1 if isinstance(info, Mapping) else len(info)
        for one in self._counted(info):
            self._count(state["statistics"], one, images if self.scale_by_cameras else 1)
        if step <= self.adjust_from or step % self.rules.interval:
            return None
        return adjust(params, optimizers, state["statistics"], self.rules, generator=self.generator)

    def _counted(self, info: Info | Sequence[Info]) -> Sequence[Info]:
        infos = [info] if isinstance(info, Mapping) else info
        return infos if self.all_cameras else infos[-1:]

    def _count(self, statistics: Statistics, info: Info, factor: int) -> None:
        gaussians: Gaussians = info["gaussians"]
        if gaussians.slots is None or gaussians.anchors is None or gaussians.neural_opacities is None:
            raise InputError("these Gaussians have no anchors; growing needs those of MoDecGS")
        means2d = info["means2d"]
        if not (means2d.is_leaf or means2d.retains_grad) or means2d.grad is None:
            raise InputError("means2d has no gradient; call step_pre_backward before loss.backward()")
        half = means2d.new_tensor([info["width"] / 2, info["height"] / 2])
        radii = info["radii"].reshape(len(gaussians), -1)
        statistics.add(
            gaussians.anchors,
            gaussians.neural_opacities,
            gaussians.slots,
            means2d.grad.reshape(-1, 2) * half * factor,
            (radii > 0).all(-1),
        )


__all__ = ["AnchorStrategy"]
