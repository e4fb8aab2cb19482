"""Growing and pruning of anchors (Scaffold-GS), as steps on plain tables.

New anchors appear in empty cells of three grids, the coarsest first, where Gaussians have large gradients on screen. Anchors whose
Gaussians stay transparent disappear. The rows of parameters and the moments of their optimizers change together.

Shapes: N anchors, k Gaussians each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from visionzoo.errors import InputError

LARGEST_LOG_SCALE = 0.05
"""Pruning limits the base scales of Gaussians to this; it is compared with the logarithm, as in the published code."""


@dataclass(frozen=True)
class GrowthRules:
    """When anchors appear and disappear.

    Attributes:
        voxel_size: side of the finest cells.
        interval: iterations between two adjustments.
        success: share of `interval` in which an anchor must have been seen, and half of it a Gaussian, to be judged.
        gradient: mean gradient on screen (NDC) above which the coarsest grid gets an anchor; each finer grid needs more.
        min_opacity: anchors below this mean opacity disappear.
        levels: number of grids.
        coarsest: side of the coarsest cells, in voxels.
        factor: the cells of each grid are smaller by this factor, and its threshold is larger by half of it.
    """

    voxel_size: float
    interval: int = 100
    success: float = 0.8
    gradient: float = 0.0002
    min_opacity: float = 0.01
    levels: int = 3
    coarsest: int = 16
    factor: int = 4


@dataclass
class Statistics:
    """What has been seen since the last adjustments.

    Attributes:
        opacity: (N,) sum over frames of the anchor's positive opacities.
        visits: (N,) frames in which the anchor was visible.
        gradient: (N * k,) sum of |dL / d mean2d| in NDC.
        draws: (N * k,) frames in which the Gaussian was drawn.
    """

    opacity: Tensor
    visits: Tensor
    gradient: Tensor
    draws: Tensor

    @classmethod
    def empty(cls, anchors: int, num_offsets: int, device: torch.device | str = "cpu") -> Statistics:
        sizes = (anchors, anchors, anchors * num_offsets, anchors * num_offsets)
        return cls(*(torch.zeros(size, device=device) for size in sizes))

    @torch.no_grad()
    def add(self, anchors: Tensor, neural_opacities: Tensor, slots: Tensor, gradients: Tensor, drawn: Tensor) -> None:
        """Count one rendered frame.

        Args:
            anchors: (A,) indices of the visible anchors.
            neural_opacities: (A, k), their opacities before selection.
            slots: (M,) places of the Gaussians among all N * k.
            gradients: (M, 2), derivatives of the loss by the means on screen in NDC.
            drawn: (M,) bool, Gaussians with a radius above 0.
        """
        self.opacity.index_add_(0, anchors, neural_opacities.detach().clamp_min(0).sum(1).to(self.opacity.dtype))
        self.visits.index_add_(0, anchors, torch.ones_like(anchors, dtype=self.visits.dtype))
        seen = drawn.to(self.draws.dtype)
        self.gradient.index_add_(0, slots, gradients.detach().norm(dim=-1).to(self.gradient.dtype) * seen)
        self.draws.index_add_(0, slots, seen)


@dataclass(frozen=True)
class Adjusted:
    """What one adjustment did: rows appended, and rows of the table after that, which were deleted."""

    added: int
    removed: int


@torch.no_grad()
def adjust(
    params: MutableMapping[str, nn.Parameter],
    optimizers: Mapping[str, Optimizer],
    statistics: Statistics,
    rules: GrowthRules,
    draws: Sequence[Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Adjusted:
    """Grow, then prune. `params` and `optimizers` are changed together, and the statistics of the rows that were judged are reset.

    Args:
        params: table of anchors, see `Anchors`.
        optimizers: those of the parameters that have one, by the same names.
        draws: uniform random numbers (N * k,) for each level, instead of `generator`'s.

    Raises:
        InputError: no anchor would be left.
    """
    before = len(params["positions"])
    tested = statistics.draws > rules.interval * rules.success * 0.5
    gradients = torch.where(statistics.draws > 0, statistics.gradient / statistics.draws, 0.0)
    for rows in new_anchors(params, gradients, tested, rules, draws, generator):
        append_rows(params, optimizers, rows)
    added = len(params["positions"]) - before

    statistics.gradient[tested], statistics.draws[tested] = 0, 0
    num_offsets = params["offsets"].shape[1]
    zeros = Statistics.empty(added, num_offsets, statistics.opacity.device)
    judged = statistics.visits > rules.interval * rules.success
    dead = judged & (statistics.opacity < rules.min_opacity * statistics.visits)
    statistics.opacity[judged], statistics.visits[judged] = 0, 0
    keep = torch.cat([~dead, torch.ones(added, dtype=torch.bool, device=dead.device)])
    for field in fields(statistics):
        value = torch.cat([getattr(statistics, field.name), getattr(zeros, field.name)])
        per_gaussian = field.name in ("gradient", "draws")
        setattr(statistics, field.name, value[keep.repeat_interleave(num_offsets) if per_gaussian else keep])
    removed = int((~keep).sum())
    if removed == len(keep):
        raise InputError(
            f"all {removed} anchors have become transparent (mean opacity below {rules.min_opacity:g}); "
            "check poses and background of the training data, or lower min_opacity"
        )
    if removed:
        keep_rows(params, optimizers, keep)
    params["scaling"][:, 3:].clamp_(max=LARGEST_LOG_SCALE)
    return Adjusted(added, removed)


def new_anchors(
    params: Mapping[str, Tensor],
    gradients: Tensor,
    tested: Tensor,
    rules: GrowthRules,
    draws: Sequence[Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Rows to append, level by level; the caller appends each before asking for the next.

    A cell that holds no anchor gets one if a Gaussian in it is a candidate: its gradient is above the level's threshold, and a
    random number lets it pass. The anchor's feature is the maximum, by channel, over the candidates' anchors.
    A level after the first is skipped if none has added anything so far.

    Args:
        gradients: (N * k,) mean gradient of each Gaussian.
        tested: (N * k,) bool, Gaussians drawn often enough.
    """
    count, num_offsets = params["offsets"].shape[:2]
    for level in range(rules.levels):
        draw = (
            draws[level]
            if draws is not None
            else torch.rand(gradients.shape, device=gradients.device, generator=generator)
        )
        candidates = tested & (gradients >= rules.gradient * (rules.factor // 2) ** level) & (draw > 0.5 ** (level + 1))
        if level and len(params["positions"]) == count:
            continue
        slots = candidates.nonzero()[:, 0]
        if not len(slots):
            continue
        owners = slots // num_offsets
        cell = rules.voxel_size * (rules.coarsest // rules.factor**level)
        units = params["scaling"][owners, :3].exp()
        centers = params["positions"][owners] + params["offsets"].reshape(-1, 3)[slots] * units
        occupied = cell_index(params["positions"], cell)
        keys, taken = cell_keys(cell_index(centers, cell), occupied)
        free, place = torch.unique(keys, return_inverse=True)  # sorted: by x, then y, then z
        empty = ~torch.isin(free, taken)
        if not empty.any():
            continue
        features = params["features"][owners]
        most = features.new_full((len(free), features.shape[1]), -torch.inf)
        most.scatter_reduce_(0, place[:, None].expand_as(features), features, "amax")
        first = torch.full_like(free, len(slots)).scatter_reduce_(
            0, place, torch.arange(len(slots), device=slots.device), "amin"
        )
        positions = cell_index(centers[first[empty]], cell).to(centers.dtype) * cell
        rows = {name: value.new_zeros(len(positions), *value.shape[1:]) for name, value in params.items()}
        rows["positions"] = positions
        rows["scaling"] = torch.full_like(rows["scaling"], cell).log()
        rows["features"] = most[empty]
        yield rows


def cell_index(points: Tensor, cell: float) -> Tensor:
    """Points (n, 3) -> integer cells (n, 3), halves rounded to even."""
    return (points / cell).round().long()


def cell_keys(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """One integer per cell for two lists of cells (n, 3) and (m, 3): equal where cells are, ordered by x, then y, then z.

    Raises:
        InputError: more cells than an integer can count, as with points far outside the scene.
    """
    low = torch.minimum(first.amin(0), second.amin(0))
    spans = (torch.maximum(first.amax(0), second.amax(0)) - low + 1).tolist()
    if spans[0] * spans[1] * spans[2] >= 2**63:
        raise InputError(
            f"the scene spans {spans[0]} x {spans[1]} x {spans[2]} voxels; remove points far outside, or enlarge voxel_size"
        )
    weights = torch.tensor([spans[1] * spans[2], spans[2], 1], device=first.device)
    return ((first - low) * weights).sum(1), ((second - low) * weights).sum(1)


# Parameters and their optimizers


def append_rows(
    params: MutableMapping[str, nn.Parameter], optimizers: Mapping[str, Optimizer], rows: Mapping[str, Tensor]
) -> None:
    """Append `rows` to every parameter; moments of the new rows start at zero."""
    for name in list(params):
        new = rows[name].to(params[name])
        _replace(params, optimizers, name, lambda value, new=new: torch.cat([value, new]),
                 lambda moment, new=new: torch.cat([moment, torch.zeros_like(new)]))  # fmt: skip


def keep_rows(params: MutableMapping[str, nn.Parameter], optimizers: Mapping[str, Optimizer], keep: Tensor) -> None:
    """Delete the rows of every parameter, and of its moments, that are not in `keep` (N,) bool."""
    for name in list(params):
        _replace(params, optimizers, name, lambda value: value[keep], lambda moment: moment[keep])


def _replace(params, optimizers, name, change, change_moment) -> None:
    """Replace `params[name]` with a changed parameter, in the table and in its optimizer."""
    old = params[name]
    new = nn.Parameter(change(old.detach()), requires_grad=old.requires_grad)
    params[name] = new
    optimizer = optimizers.get(name)
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["params"] = [new if value is old else value for value in group["params"]]
    state = optimizer.state.pop(old, None)
    if state is not None:
        optimizer.state[new] = {
            key: change_moment(value) if isinstance(value, Tensor) and value.shape == old.shape else value
            for key, value in state.items()
        }


__all__ = ["Adjusted", "GrowthRules", "Statistics", "adjust", "append_rows", "keep_rows", "new_anchors"]
