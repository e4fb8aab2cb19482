"""Fits a MoDec-GS to images: stages, learning rates, growth and interval adjustment of the published recipe (arXiv 2501.03714).

Two stages. In the coarse one, a static scene is fitted to the frames of all times; in the fine one everything moves. Adam, its
learning rates and the growth statistics start again with the fine stage.

`Fit` is the loop's body without a loop, so that a command, a page and a Lightning module can drive it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from visionzoo.errors import InputError, VisionZooError
from visionzoo.splatting import Render, project, render

from .deformation import Scaffold
from .gaussians import Gaussians
from .growth import GrowthRules, Statistics
from .intervals import IntervalStatistics
from .losses import photometric_loss, regularization_loss
from .model import MoDecGS
from .schedules import ADAM_EPS, FIELDS, RATES, parameter_groups
from .strategy import AnchorStrategy

MOST_SKIPPED = 20
"""Training ends after this many steps in a row whose loss or gradients are not finite."""


@dataclass(frozen=True)
class Recipe:
    """How a scene is trained; the defaults are those published for HyperNeRF.

    Attributes:
        coarse_steps, fine_steps: iterations of the two stages.
        batch_size: frames per iteration.
        grow_after, grow_until: statistics for growing are taken between these iterations of a stage, ...
        adjust_after, adjust_every: ... and the table of anchors is adjusted that often, after this iteration.
        gradient, success, min_opacity: see `GrowthRules`.
        intervals_after, intervals_until, intervals_every: borders of segments move that often between these iterations of the fine
            stage.
        intervals_threshold, intervals_step: see `IntervalStatistics`.
        all_cameras: take statistics from every frame of a batch; the published code takes the last one.
        white_background: whether the background is white (published) or black.
        rules: rules of the renderer, "gsplat" or "inria".
        rate: factor of all learning rates.
        field_rate: factor of those of the two fields, in addition to `rate`. The published rates take tens of thousands of iterations
            to move a scene; short fits need higher ones.
        start_still: begin the fine stage with the scene at rest, by setting the last layers of the fields' heads to zero. The
            published code begins it with random motion, which takes many iterations to repair.
        decay_steps: iterations over which learning rates fall.
        seed: random seed for the order of the frames and for growing.
    """

    coarse_steps: int = 3000
    fine_steps: int = 30000
    batch_size: int = 4
    grow_after: int = 500
    grow_until: int = 15000
    adjust_after: int = 1500
    adjust_every: int = 100
    gradient: float = 0.0002
    success: float = 0.7
    min_opacity: float = 0.01
    intervals_after: int = 5000
    intervals_until: int = 45000
    intervals_every: int = 1000
    intervals_threshold: float = 1.5
    intervals_step: float = 0.01
    all_cameras: bool = False
    white_background: bool = True
    rules: str = "gsplat"
    rate: float = 1.0
    field_rate: float = 1.0
    start_still: bool = False
    decay_steps: int = 30000
    seed: int = 6666

    def __post_init__(self) -> None:
        for name in ("coarse_steps", "fine_steps"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("batch_size", "adjust_every", "intervals_every", "decay_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def steps(self) -> int:
        return self.coarse_steps + self.fine_steps


@dataclass(frozen=True)
class Frame:
    """One image to fit, as tensors on the model's device.

    Attributes:
        image: (3, H, W) in [0, 1].
        viewmat: (4, 4) from world to camera.
        K: (3, 3) in pixels.
        time: in [0, 1].
        weight: (1, H, W) of 0 and 1: pixels that count; None for all.
    """

    image: Tensor
    viewmat: Tensor
    K: Tensor
    time: float
    weight: Tensor | None = None

    @property
    def center(self) -> Tensor:
        """(3,) where the camera is."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]

    def to(self, device: torch.device | str) -> Frame:
        weight = None if self.weight is None else self.weight.to(device)
        return Frame(self.image.to(device), self.viewmat.to(device), self.K.to(device), self.time, weight)


@dataclass(frozen=True)
class Progress:
    """What one iteration did.

    Attributes:
        iteration: counted from 1 over both stages.
        stage: "coarse" or "fine".
        loss: loss of the batch; NaN if the step was skipped.
        psnr: mean of the batch's frames, before the step.
        anchors: number of anchors after the step.
        skipped: whether the loss or a gradient was not finite, so that nothing was changed.
        moved: whether borders of segments were moved.
    """

    iteration: int
    stage: str
    loss: float
    psnr: float
    anchors: int
    skipped: bool = False
    moved: bool = False


class Fit:
    """A model, its optimizer, and the state of the recipe after the iterations so far.

        fit = Fit(model, recipe, extent=scene.extent)
        for numbers in batches(len(frames), recipe, start=fit.iteration):
            progress = fit.step([frames[i] for i in numbers])

    With the states of the model, of `optimizer` and of this (`state_dict`), a training continues bit for bit, also between two
    adjustments of the anchors.

    Args:
        model: with anchors (see `MoDecGS.initialize`).
        extent: extent of the cameras, the unit of spatial learning rates (`anchors.camera_extent`).
        backend: renderer, see `visionzoo.splatting.render`.
    """

    def __init__(self, model: MoDecGS, recipe: Recipe, extent: float, *, backend: str = "auto"):
        if not model.anchors.rows:
            raise InputError("the model has no anchors; call model.initialize(points) first")
        self.model, self.recipe, self.extent, self.backend = model, recipe, max(extent, 1e-6), backend
        self.iteration, self.skipped_in_a_row = 0, 0
        groups = [{"params": values, "name": name} for name, values in parameter_groups(model).items()]
        fused = model.anchors["positions"].device.type in ("cpu", "cuda")  # all parameters in one call
        self.optimizer = torch.optim.Adam(groups, lr=0.0, eps=ADAM_EPS, fused=fused)
        self.generator = torch.Generator(model.anchors["positions"].device).manual_seed(recipe.seed)
        self.strategy = AnchorStrategy(
            GrowthRules(
                model.config.voxel_size, recipe.adjust_every, recipe.success, recipe.gradient, recipe.min_opacity
            ),
            start=recipe.grow_after,
            adjust_from=recipe.adjust_after,
            until=recipe.grow_until,
            all_cameras=recipe.all_cameras,
            scale_by_cameras=recipe.all_cameras,
            generator=self.generator,
        )
        self.growth = self.strategy.initialize_state(self._table)
        self.intervals = IntervalStatistics(model.intervals, recipe.intervals_threshold, recipe.intervals_step)

    @property
    def _table(self) -> MutableMapping[str, torch.nn.Parameter]:
        return cast("MutableMapping[str, torch.nn.Parameter]", self.model.anchors)

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The one optimizer, by the name of each column of the anchors that is trained."""
        return {name: self.optimizer for name, value in self.model.anchors.items() if value.requires_grad}

    def step(self, frames: Sequence[Frame], update: Callable[[], Any] | None = None) -> Progress:
        """One iteration on a batch of frames.

        Args:
            update: is called instead of `optimizer.step`, such as the step of the optimizer's wrapper in Lightning.

        Raises:
            VisionZooError: the loss or gradients were not finite many times in a row.
            InputError: no anchor is left.
        """
        self.iteration += 1
        fine = self.iteration > self.recipe.coarse_steps
        step = self.iteration - self.recipe.coarse_steps if fine else self.iteration
        stage = "fine" if fine else "coarse"
        if fine and step == 1:
            self._start_fine()
        for group in self.optimizer.param_groups:
            rate = RATES[group["name"]]
            shown = step * rate.steps / self.recipe.decay_steps
            factor = self.recipe.rate * (self.recipe.field_rate if group["name"] in FIELDS else 1.0)
            group["lr"] = factor * rate.at(round(shown), self.extent)
        self.optimizer.zero_grad(set_to_none=True)
        images, infos = self._render(frames, fine)
        errors = [_masked(frame.image - image, frame.weight) for frame, image in zip(frames, images, strict=True)]
        losses = [_loss(image, frame) for frame, image in zip(frames, images, strict=True)]
        loss = torch.stack(losses).mean()
        if fine:
            loss = loss + regularization_loss(self.model)
        self.strategy.step_pre_backward(self._table, self.optimizers, self.growth, step, infos)
        for info in infos if self.recipe.all_cameras else infos[-1:]:
            info["means2d"].retain_grad()  # for the borders of segments
        value = float(loss.detach())
        if np.isfinite(value):
            loss.backward()
        if not np.isfinite(value) or not self._gradients_are_finite():
            self._skip()
            skipped, psnr, value = True, float("nan"), float("nan")
        else:
            self.skipped_in_a_row, skipped = 0, False
            psnr = float(np.mean([-10 * np.log10(max(float(e.detach().square().mean()), 1e-10)) for e in errors]))
        (update or self.optimizer.step)()  # without gradients, it only counts
        self.model.clear_cache()  # a fused optimizer writes to weights unnoticed
        if skipped:
            return Progress(self.iteration, stage, value, psnr, self.model.anchors.rows, skipped=True)
        self.strategy.step_post_backward(self._table, self.optimizers, self.growth, step, infos)
        moved = fine and self._adjust_intervals(step, frames, infos)
        return Progress(self.iteration, stage, value, psnr, self.model.anchors.rows, moved=moved)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the weights of the model and the state of the optimizer, as tensors and numbers."""
        statistics = self.growth["statistics"]
        return {
            "iteration": self.iteration,
            "skipped_in_a_row": self.skipped_in_a_row,
            "generator": self.generator.get_state(),
            "growth": {field.name: getattr(statistics, field.name) for field in fields(Statistics)},
            "intervals": self.intervals.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; model and optimizer must be those of that iteration."""
        self.iteration, self.skipped_in_a_row = state["iteration"], state["skipped_in_a_row"]
        self.generator.set_state(state["generator"].cpu())
        device = self.model.anchors["positions"].device
        self.growth["statistics"] = Statistics(**{name: value.to(device) for name, value in state["growth"].items()})
        self.intervals.load_state_dict(state["intervals"])

    def _start_fine(self) -> None:
        if self.recipe.start_still:
            self.model.hold_still()
        self.optimizer.state.clear()
        self.growth = self.strategy.initialize_state(self._table)

    def _render(self, frames: Sequence[Frame], fine: bool) -> tuple[list[Tensor], list[dict[str, Any]]]:
        """Images (3, H, W), and what the growing strategy reads of each."""
        scaffolds: dict[float | None, Scaffold] = {}
        images, infos = [], []
        for frame in frames:
            time = frame.time if fine else None
            key = None if time is None else self.model.intervals.canonical_time(time)
            if key not in scaffolds:  # frames of one segment share their deformed anchors
                scaffolds[key] = self.model.anchors.scaffold() if time is None else self.model.canonical(time)
            height, width = frame.image.shape[1:]
            visible = visible_anchors(self.model, frame.viewmat, frame.K, width, height)
            gaussians = self.model.gaussians(scaffolds[key], frame.center, time, visible=visible)
            drawn = draw(
                gaussians, frame.viewmat, frame.K, width, height,
                white=self.recipe.white_background, rules=self.recipe.rules, backend=self.backend,
            )  # fmt: skip
            images.append(drawn.colors[0].permute(2, 0, 1))
            infos.append({**drawn.info, "gaussians": gaussians})
        return images, infos

    def _gradients_are_finite(self) -> bool:
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        return bool(
            torch.isfinite(torch.stack([gradient.abs().amax() for gradient in gradients if gradient.numel()])).all()
        )

    def _skip(self) -> None:
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MOST_SKIPPED:
            raise VisionZooError(
                f"the loss or its gradients were not finite in {MOST_SKIPPED} steps in a row, up to iteration {self.iteration}; "
                "lower the learning rate (rate), or check images and poses"
            )
        self.optimizer.zero_grad(set_to_none=True)

    def _adjust_intervals(self, step: int, frames: Sequence[Frame], infos: Sequence[dict[str, Any]]) -> bool:
        recipe = self.recipe
        if self.model.global_deformation is None or not recipe.intervals_after < step < recipe.intervals_until:
            return False
        counted = range(len(frames)) if recipe.all_cameras else range(len(frames) - 1, len(frames))
        for number in counted:
            info = infos[number]
            gradient = info["means2d"].grad
            half = gradient.new_tensor([info["width"] / 2, info["height"] / 2])
            self.intervals.add(self.model.intervals, frames[number].time, (gradient * half).norm(dim=-1).sum())
        return step % recipe.intervals_every == 0 and self.intervals.adjust(self.model.intervals)


def batches(frames: int, recipe: Recipe, start: int = 0) -> Iterator[list[int]]:
    """Numbers of the frames of every iteration after `start`: epoch by epoch without repetition, in an order given by the seed."""
    size = min(recipe.batch_size, frames)
    per_epoch = frames // size
    order: np.ndarray | None = None
    for iteration in range(start, recipe.steps):
        epoch, place = divmod(iteration, per_epoch)
        if order is None or place == 0:
            order = np.random.default_rng((recipe.seed, epoch)).permutation(frames)
        yield order[place * size : (place + 1) * size].tolist()


@torch.no_grad()
def visible_anchors(model: MoDecGS, viewmat: Tensor, K: Tensor, width: int, height: int) -> Tensor:
    """(N,) bool: anchors at rest whose ellipse, of the size of their offsets, reaches into the image."""
    anchors = model.anchors
    positions = anchors["positions"]
    upright = positions.new_tensor([1.0, 0, 0, 0]).expand(len(positions), 4)
    seen = project(
        positions, upright, anchors["scaling"][:, :3].exp(), viewmat[None], K[None], width, height, near_plane=0.2
    )
    return (seen.radii[0] > 0).all(-1)


def draw(
    gaussians: Gaussians,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    *,
    white: bool = True,
    rules: str = "gsplat",
    backend: str = "auto",
) -> Render:
    """One image of a model's Gaussians."""
    background = gaussians.means.new_full((3,), 1.0 if white else 0.0)
    return render(
        gaussians.means, gaussians.quats, gaussians.scales.abs(), gaussians.opacities.clamp_min(0), gaussians.colors,
        viewmat[None], K[None], width, height,
        background=background, rules=rules, near_plane=0.2, sh_degree=gaussians.sh_degree, backend=backend,
    )  # fmt: skip


def _masked(error: Tensor, weight: Tensor | None) -> Tensor:
    return error if weight is None else error[weight.expand_as(error) > 0]


def _loss(image: Tensor, frame: Frame) -> Tensor:
    """The loss of an image; pixels that do not count are replaced by the true ones."""
    if frame.weight is None:
        return photometric_loss(image, frame.image)
    return photometric_loss(torch.where(frame.weight > 0, image, frame.image), frame.image)


__all__ = ["Fit", "Frame", "Progress", "Recipe", "batches", "draw", "visible_anchors"]
