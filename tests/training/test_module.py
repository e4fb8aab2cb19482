"""What the training modules of all systems share."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

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


def test_weights_are_written_and_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a run"
    fitted(Training(export_half=True), folder)
    file = folder / "weights.safetensors"
    assert read_metadata(file) == {"model": "net", "config": '{"width": 3}', "image_size": "32"}
    state = read_checkpoint(file)
    assert state["weight"].dtype == torch.float16
    assert state["num_batches_tracked"].dtype == torch.int64
    said = capsys.readouterr().err
    assert said == f"weights: {file}; try them with: visionzoo classify PHOTO --model net --checkpoint '{file}'\n"


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


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
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


def test_what_two_devices_have_measured_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
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
