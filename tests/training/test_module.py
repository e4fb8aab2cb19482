"""Behaviour that the training modules of all systems share."""

from __future__ import annotations

import math
import random
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from visionzoo.cli import build_app
from visionzoo.errors import InputError, VisionZooError
from visionzoo.models.dehazexl import DehazeXLTraining
from visionzoo.models.mcnet import MCNetTraining
from visionzoo.models.shvit import SHViTTraining
from visionzoo.models.superglobal import SuperGlobalTraining
from visionzoo.training.module import TrainingModule, half_cosine
from visionzoo.weights import read_checkpoint, read_metadata


class Training(TrainingModule):
    try_with = "visionzoo classify PHOTO --model {name} --checkpoint {file}"

    def __init__(self, checkpoint: str | None = None, export: bool = True, export_half: bool = False):
        super().__init__()
        self.save_hyperparameters()
        self.name, self.overrides, self.model = "net", {"width": 3}, nn.BatchNorm1d(3)

    def about(self) -> dict[str, Any]:
        return {"image_size": 32, "classes": None}


def fitted(module: TrainingModule, folder: Path, **trainer: object) -> None:
    """End a fit of `module`."""
    module._trainer = SimpleNamespace(default_root_dir=str(folder), is_global_zero=True, **trainer)  # pyright: ignore
    module.on_fit_end()


def test_weights_are_written_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a run"
    fitted(Training(export_half=True), folder)
    file = folder / "weights.safetensors"
    assert read_metadata(file) == {"model": "net", "config": '{"width": 3}', "image_size": "32"}
    state = read_checkpoint(file)
    assert state["weight"].dtype == torch.float16
    assert state["num_batches_tracked"].dtype == torch.int64
    message = capsys.readouterr().err
    assert message == f"weights: {file}; try them with: visionzoo classify PHOTO --model net --checkpoint '{file}'\n"


@pytest.mark.parametrize(
    ("options", "trainer"),
    [({"export": False}, {}), ({}, {"is_global_zero": False}), ({}, {"fast_dev_run": True})],
    ids=["not asked for", "another process", "a trial run"],
)
def test_nothing_is_written(options: dict[str, Any], trainer: dict[str, Any], tmp_path: Path) -> None:
    module = Training(**options)
    module._trainer = SimpleNamespace(**{"default_root_dir": str(tmp_path / "x"), "is_global_zero": True, **trainer})  # pyright: ignore
    module.on_fit_end()
    assert not (tmp_path / "x").exists()


def test_a_file_given_as_a_folder_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"")
    with pytest.raises(InputError, match="run: is a file, expected a folder"):
        fitted(Training(), tmp_path / "run")


@pytest.mark.parametrize("kind", [SHViTTraining, SuperGlobalTraining, DehazeXLTraining, MCNetTraining])
def test_the_command_that_takes_the_weights_exists(kind: type[TrainingModule]) -> None:
    words = shlex.split(kind.try_with.format(name="a_model", file="'a folder/weights.safetensors'"))
    assert words[0] == "visionzoo"
    command, bound, _ = build_app().parse_args(words[1:], print_error=False, exit_on_error=False)
    assert Path(bound.arguments["checkpoint"]) == Path("a folder/weights.safetensors"), command


def test_an_average_follows_the_weights_and_is_saved_with_them() -> None:
    module = Training()
    module.keep_average(None)
    assert module.average is None
    module.keep_average(0.9, buffers=True)
    for number in (1.0, 2.0):
        nn.init.constant_(module.model.weight, number)
        module.update_average()
    state = module.state_dict()
    torch.testing.assert_close(state["average.module.weight"], torch.full((3,), 1.1))
    assert torch.equal(state["model.weight"], torch.full((3,), 2.0))
    average: Any = module.average
    assert not any(p.requires_grad for p in average.parameters())


class Learning(Training):
    """One weight that is pulled to 1, by two batches a step."""

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return (self.model.weight - 1).square().sum() + 0 * batch.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_an_average_counts_steps_whatever_they_are_made_of(tmp_path: Path) -> None:
    def averaged(batches: int, accumulate: int) -> torch.Tensor:
        module = Learning(export=False)
        nn.init.constant_(module.model.weight, 0.0)
        module.keep_average(0.5)
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path, accumulate_grad_batches=accumulate,
        )  # fmt: skip
        trainer.fit(module, DataLoader(torch.zeros(batches, 1)))  # pyright: ignore[reportArgumentType]
        average: Any = module.average
        assert int(average.n_averaged) == batches // accumulate
        return average.module.weight

    torch.testing.assert_close(averaged(4, 1), averaged(12, 3))


def test_a_checkpoint_loads_without_a_trainer(tmp_path: Path) -> None:
    module = Learning(export=False)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(torch.zeros(2, 1)))  # pyright: ignore[reportArgumentType]
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = Learning.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert torch.equal(again.model.weight, module.model.weight)


def test_random_numbers_of_a_step_follow_from_its_place() -> None:
    def drawn(epoch: int, batch: int, rank: int = 0) -> float:
        module = Training()
        module._steps_seed = 5
        module._trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)  # pyright: ignore
        module.on_train_batch_start(None, batch)
        return torch.rand(()).item() + np.random.rand() + random.random()  # noqa: NPY002

    assert drawn(1, 2) == drawn(1, 2)
    assert len({drawn(1, 2), drawn(2, 1), drawn(1, 3), drawn(1, 2, rank=1)}) == 4


def test_a_metric_on_two_devices_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Training()
    module._trainer = SimpleNamespace(world_size=2)  # pyright: ignore[reportAttributeAccessIssue]
    shares = [
        (torch.tensor([0, 2]), torch.tensor([[0.0], [20.0]])),
        (torch.tensor([1, 0]), torch.tensor([[10.0], [0.0]])),
    ]
    gathered = [torch.stack(column) for column in zip(*shares, strict=True)]
    monkeypatch.setattr(module, "all_gather", lambda _: gathered)
    (values,) = module.of_all_devices(*shares[0])
    assert values.tolist() == [[0], [10], [20]]


def test_checks() -> None:
    module = Training()
    module._trainer = SimpleNamespace(ckpt_path=None, world_size=2, global_step=7)  # pyright: ignore
    with pytest.raises(InputError, match=r"net has random weights; give model\.checkpoint=FILE or ckpt_path=FILE"):
        module.check_trained()
    with pytest.raises(InputError, match="one device"):
        module.check_one_device()
    with pytest.raises(VisionZooError, match="the loss is nan"):
        module.check_finite(torch.tensor(math.nan))


def test_half_a_cosine() -> None:
    assert [half_cosine(place, 0.2) for place in (0, 0.5, 1, 3)] == pytest.approx([1, 0.6, 0.2, 0.2])
    assert half_cosine(1) == 0
