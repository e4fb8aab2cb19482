"""Size and quality of a MoDec-GS and of a 4DGaussians that are fitted to the same scene, with equally large fields and as many steps:
as published folders, and as compact files of several numbers of bits.

visionzoo bench modecgs-size
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visionzoo.benchmark import Grid
from visionzoo.devices import environment
from visionzoo.metrics.restoration import psnr
from visionzoo.models.modecgs import (
    Fit,
    FourDGaussians,
    FourDGaussiansConfig,
    Frame,
    MoDecGS,
    MoDecGSConfig,
    Recipe,
    batches,
    draw,
    photometric_loss,
)
from visionzoo.models.modecgs.captures.capture import Capture
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.models.modecgs.captures.synthetic import SyntheticConfig, synthetic_capture
from visionzoo.models.modecgs.compact import read_scene, write_scene
from visionzoo.models.modecgs.data import Frames
from visionzoo.models.modecgs.losses import LOCAL_WEIGHTS, plane_terms
from visionzoo.models.modecgs.published import write_published
from visionzoo.models.modecgs.schedules import ADAM_EPS, Rate, group_of

SCENE = SyntheticConfig()
"""430 Gaussians at 64 x 64 pixels, whose centres at four times are the 1,720 points that both fits start from."""

RECIPE = Recipe(coarse_steps=200, fine_steps=800, batch_size=2, grow_until=0, decay_steps=800, field_rate=4)
LOCAL = ((24, 24, 24, 24), (1,), 8, 32)
"""Resolution, levels, channels and hidden width of the field that moves Gaussians, in both systems."""

MODEC = MoDecGSConfig(
    feature_dim=16,
    num_offsets=5,
    voxel_size=0.05,
    global_resolution=(16, 16, 16, 8),
    global_levels=(1,),
    global_channels=8,
    local_resolution=LOCAL[0],
    local_levels=LOCAL[1],
    local_channels=LOCAL[2],
    width=LOCAL[3],
    num_segments=4,
)
PLAIN = FourDGaussiansConfig(resolution=LOCAL[0], levels=LOCAL[1], channels=LOCAL[2], width=LOCAL[3])

RATES = {
    "means": Rate(0.00016, 0.0000016, spatial=True),
    "scales": Rate(0.005, 0.005),
    "quats": Rate(0.001, 0.001),
    "opacities": Rate(0.05, 0.05),
    "sh0": Rate(0.0025, 0.0025),
    "shN": Rate(0.0025 / 20, 0.0025 / 20),
    "planes": Rate(0.0016, 0.00016, spatial=True),
    "deformation": Rate(0.00016, 0.000016, spatial=True),
}
"""Published learning rates of 4DGaussians."""

FASTER = ("means", "planes", "deformation")
"""Those that move Gaussians, which get the recipe's factor."""

BITS = {"4DGaussians": (8, 9, 10, 12, 16), "MoDec-GS": (8,)}
"""Bits per number of the compact files."""


def fit_modecgs(capture: Capture, frames: Sequence[Frame], recipe: Recipe) -> MoDecGS:
    model = MoDecGS(MODEC)
    model.initialize(capture.points.positions.astype(np.float32))
    fit = Fit(model, recipe, capture.extent)
    for numbers in batches(len(frames), recipe):
        fit.step([frames[number] for number in numbers])
    return model.eval()


def fit_fourdgs(capture: Capture, frames: Sequence[Frame], recipe: Recipe) -> FourDGaussians:
    """The published recipe in as many steps: Gaussians grow by gsplat's strategy, the fields are regularized as published."""
    from gsplat.strategy import DefaultStrategy

    model = FourDGaussians(PLAIN)
    model.initialize(capture.points.positions.astype(np.float32), capture.points.colours.astype(np.float32))
    table: Any = model.table
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam([value], lr=0.0, eps=ADAM_EPS) for name, value in table.items()
    }
    groups: dict[str, list[Any]] = {"planes": [], "deformation": []}
    for name, parameter in model.field.named_parameters():
        groups["planes" if group_of(f"local_deformation.field.{name}") == "planes" else "deformation"].append(parameter)
    fields = {name: torch.optim.Adam(values, lr=0.0, eps=ADAM_EPS) for name, values in groups.items()}
    strategy = DefaultStrategy(
        refine_start_iter=recipe.coarse_steps // 2, refine_stop_iter=recipe.steps // 2, reset_every=10**9
    )
    state = strategy.initialize_state(scene_scale=capture.extent)
    weights = torch.tensor([LOCAL_WEIGHTS.smoothness, LOCAL_WEIGHTS.time_smoothness, LOCAL_WEIGHTS.constancy])
    for step, numbers in enumerate(batches(len(frames), recipe)):
        fine = step >= recipe.coarse_steps
        place = 30000 * (step - recipe.coarse_steps * fine) // recipe.decay_steps
        for name, optimizer in (optimizers | fields).items():
            factor = recipe.field_rate if name in FASTER else 1.0
            optimizer.param_groups[0]["lr"] = factor * RATES[name].at(place, capture.extent)
            optimizer.zero_grad(set_to_none=True)
        losses, info = [], {}
        for frame in (frames[number] for number in numbers):
            height, width = frame.image.shape[1:]
            drawn = draw(model(frame.center, frame.time if fine else None), frame.viewmat, frame.K, width, height)
            losses.append(photometric_loss(drawn.colors[0].permute(2, 0, 1), frame.image))
            info = {**drawn.info, "n_cameras": len(numbers)}
        loss = torch.stack(losses).mean()
        if fine:
            loss = loss + plane_terms(model.field.planes) @ weights
        strategy.step_pre_backward(table, optimizers, state, step, info)
        loss.backward()
        for name, optimizer in (optimizers | fields).items():
            if fine or name in optimizers:
                optimizer.step()
        strategy.step_post_backward(table, optimizers, state, step, info)
    return model.eval()


@torch.no_grad()
def quality(model: MoDecGS | FourDGaussians, frames: Sequence[Frame]) -> float:
    """Mean PSNR of 8-bit images."""
    values = []
    for frame in frames:
        height, width = frame.image.shape[1:]
        drawn = draw(model(frame.center, frame.time), frame.viewmat, frame.K, width, height)
        image: Tensor = drawn.colors[0].permute(2, 0, 1).clamp(0, 1)
        values.append(psnr(torch.round(image * 255) / 255, frame.image))
    return float(np.mean(values))


def megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def benchmark(
    rounds: int = 1,
    command: str = "visionzoo bench modecgs-size",
    scene: SyntheticConfig = SCENE,
    recipe: Recipe = RECIPE,
) -> Grid:
    """Both fits, their published folders and compact files. `rounds` is the number of seeds."""
    systems: dict[str, Callable[..., MoDecGS | FourDGaussians]] = {
        "4DGaussians": fit_fourdgs,
        "MoDec-GS": fit_modecgs,
    }
    found: dict[tuple[str, str], list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        capture = read_capture(synthetic_capture(Path(temporary), scene))
        parts = [Frames(views) for views in (capture.train, capture.test)]
        train, test = ([part.frame(number) for number in range(len(part))] for part in parts)
        for seed in range(rounds):
            for name, fit in systems.items():
                torch.manual_seed(seed)
                model = fit(capture, train, replace(recipe, seed=seed))
                rows = model.table.rows if isinstance(model, FourDGaussians) else model.anchors.rows
                folder = write_published(model, Path(temporary) / f"{name}{seed}", recipe.steps)
                forms = {"published folder": (model, megabytes(folder))}
                for bits in BITS[name]:
                    size = write_scene(model, file := Path(temporary) / f"{name}{seed}-{bits}.vzgs", bits=bits)
                    forms[f"`.vzgs`, {bits} bits"] = (read_scene(file).model, size / 1e6)
                for form, (network, size) in forms.items():
                    scores = [quality(network, views) for views in (train, test)]
                    found.setdefault((name, form), []).append([rows, *scores, size])
    means = {key: np.mean(values, axis=0).tolist() for key, values in found.items()}
    plain = means["4DGaussians", "published folder"][3]
    table = []
    for (name, form), (count, train_psnr, test_psnr, size) in means.items():
        kind = "Gaussians" if name == "4DGaussians" else "anchors"
        table.append(
            [f"{name}, {form}", f"{count:,.0f} {kind}", f"{train_psnr:.3f}", f"{test_psnr:.3f}", f"{size:.3f}",
             f"{100 * (1 - size / plain):.0f} %"]
        )  # fmt: skip
    size = f"{scene.size} x {scene.size}"
    return Grid(
        f"Size and PSNR, synthetic scene of {scene.count:,} Gaussians at {size}, {recipe.steps:,} steps",
        ("", "", "PSNR, training views", "PSNR, test views", "MB", "smaller than the first"),
        table,
        environment(),
        command,
        [f"Mean of {rounds} seeds."] if rounds > 1 else [],
    )


if __name__ == "__main__":
    print(benchmark(command="python -m benchmarks.modecgs_size").to_markdown())
