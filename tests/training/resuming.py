"""Compares two runs of a recipe, one of which is stopped inside an epoch and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from visionzoo.registry import create_model
from visionzoo.stored import read_stored
from visionzoo.training.run import run
from visionzoo.weights import read_checkpoint

SAVED_OFTEN = "trainer.callbacks[0].init_args.every_n_train_steps"


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Names of the tensors and numbers of two states that are not bitwise equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        missing = [f"{where}.{key}" for key in one.keys() ^ other.keys()]
        return missing + [
            d for key in one.keys() & other.keys() for d in differences(one[key], other[key], f"{where}.{key}")
        ]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [d for i, pair in enumerate(zip(one, other, strict=True)) for d in differences(*pair, f"{where}[{i}]")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    return [] if one == other else [where]


def check_checkpoint_is_a_weights_file(folder: Path) -> None:
    """`last.ckpt` loads like the exported weights, and has the same metadata."""
    stored, exported = (read_stored(folder / name) for name in ("checkpoints/last.ckpt", "weights.safetensors"))
    assert stored == exported
    assert stored.model is not None
    network = create_model(stored.model, checkpoint=folder / "checkpoints/last.ckpt", **stored.config)
    assert not differences(dict(network.state_dict()), read_checkpoint(folder / "weights.safetensors"), "exported")


def check_resumed_inside_an_epoch(
    recipe: str,
    folder: Path,
    words: list[str],
    *,
    steps: int = 6,
    stop: int = 2,
    steps_per_batch: int = 1,
    weights: bool = True,
) -> None:
    """Fit `steps` steps at once; and again, stopped at step `stop` and resumed. Weights, averages, optimizers and schedules are equal.

    Args:
        steps, stop: in batches; `steps_per_batch` of Lightning's steps each.
        weights: whether the run writes the weights of a registered network.
    """
    words = [*words, f"{SAVED_OFTEN}={stop * steps_per_batch}"]

    def fit(name: str, steps: int, *more: str) -> dict[str, Any]:
        root = f"trainer.default_root_dir={folder / name}"
        run("fit", [recipe], [*words, root, f"trainer.max_steps={steps * steps_per_batch}", *more])
        return checkpoint(folder / name)

    straight = fit("straight", steps)
    cut = fit("cut", stop)
    assert cut["global_step"] == stop * steps_per_batch
    assert cut["epoch"] == 0
    assert not cut["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]
    resumed = fit("cut", steps, "ckpt_path=last")
    assert straight["global_step"] == resumed["global_step"] == steps * steps_per_batch
    assert differences(cut["state_dict"], straight["state_dict"])
    if weights:
        check_checkpoint_is_a_weights_file(folder / "straight")
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        found = differences(straight[part], resumed[part], part)
        assert not found, f"{len(found)} differ: {', '.join(found[:5])}"


__all__ = ["check_resumed_inside_an_epoch", "checkpoint", "differences"]
