"""The head that trains SuperGlobal keeps the classes of a checkpoint by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.models.superglobal import SuperGlobalTraining
from visionzoo.training.run import run
from visionzoo.weights import read_checkpoint


def landmarks(root: Path, *names: str) -> Path:
    """A data set of plain images, with a class for each name."""
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def fit(root: Path, out: Path, *more: str) -> None:
    small = [
        "data.layout=folders", f"data.root={root}", "vars.classes=3", "data.image_size=32", "data.batch_size=4", "data.val_fraction=0",
        f"trainer.default_root_dir={out}", "trainer.max_epochs=1", *more,
    ]  # fmt: skip
    run("fit", ["superglobal/tiny"], small)


def test_classes_of_the_head_are_matched_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(landmarks(tmp_path / "a", "arch", "bridge", "castle"), tmp_path / "first")
    checkpoint = tmp_path / "first/checkpoints/last.ckpt"
    old = read_checkpoint(checkpoint)["state_dict"]["head.weight"]
    other = landmarks(tmp_path / "b", "bridge", "castle", "dome")
    with pytest.raises(
        InputError,
        match=r"last\.ckpt: was trained on different classes than those of the data \(not on dome, but on arch\)",
    ):
        fit(other, tmp_path / "first", f"ckpt_path={checkpoint}", "trainer.max_epochs=2")

    started: list[Any] = []
    monkeypatch.setattr(
        SuperGlobalTraining, "on_train_start", lambda self: started.append(self.head.weight.detach().clone())
    )
    capsys.readouterr()
    fit(other, tmp_path / "second", f"model.checkpoint={checkpoint}")
    assert torch.equal(started[0][:2], old[1:])
    message = f"{checkpoint}: 2 of 3 classes keep their outputs (bridge, castle); new: dome; dropped: arch"
    assert message in capsys.readouterr().err
