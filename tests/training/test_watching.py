"""Ctrl-C loses nothing, and a training reports its progress even where no bar can be shown."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.command import run as command
from tests.training.resuming import checkpoint, differences
from visionzoo.models.shvit import SHViTTraining
from visionzoo.training.run import run
from visionzoo.training.watching import ProgressLines

WORDS = [
    "data.image_size=32",
    "data.batch_size=8",  # two batches of validation
    "trainer.max_epochs=2",
    "trainer.check_val_every_n_epoch=1",
    "trainer.num_sanity_val_steps=0",
]


@pytest.mark.parametrize(
    ("step", "accumulate"),
    [("training_step", 1), ("training_step", 3), ("validation_step", 1)],
    ids=["step", "sum", "validation"],
)
def test_an_interrupted_run_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: str, accumulate: int
) -> None:
    words = [*WORDS, f"trainer.accumulate_grad_batches={accumulate}"]
    straight_result = run("fit", ["shvit/tiny"], [*words, f"trainer.default_root_dir={tmp_path / 'straight'}"])
    plain, calls = getattr(SHViTTraining, step), []

    def interrupted(self: Any, batch: Any, batch_idx: int) -> Any:
        calls.append(batch_idx)
        if len(calls) == (2 if step == "training_step" else 1):
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(SHViTTraining, step, interrupted)
    before = signal.getsignal(signal.SIGINT)
    code, _, err = command(capsys, "fit", "-c", "shvit/tiny", *words, f"trainer.default_root_dir={tmp_path / 'cut'}")
    assert code == 130
    assert signal.getsignal(signal.SIGINT) == before
    lines = err.splitlines()
    assert "stopping after this step; press Ctrl-C again to stop at once" in lines
    resume = lines[-1].partition("resume with: visionzoo fit ")[2].split()
    assert resume[-1] == f"ckpt_path={tmp_path}/cut/checkpoints/last.ckpt"
    assert bool(checkpoint(tmp_path / "cut")["visionzoo"]["gradients"]) == (accumulate > 1)
    monkeypatch.setattr(SHViTTraining, step, plain)
    code, out, _ = command(capsys, "fit", *resume)
    assert code == 0
    assert dict(line.split()[:2] for line in out.splitlines())["val/top1"] == f"{straight_result['val/top1']:.6g}"
    straight, resumed = checkpoint(tmp_path / "straight"), checkpoint(tmp_path / "cut")
    assert straight["global_step"] == resumed["global_step"]
    for part in ("state_dict", "optimizer_states"):
        assert not differences(straight[part], resumed[part], part)


def trainer(**changes: Any) -> Any:
    progress = SimpleNamespace(total=SimpleNamespace(ready=10), current=SimpleNamespace(ready=4))
    facts = {
        "fit_loop": SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
        "num_training_batches": 6,
        "max_epochs": 5,
        "max_steps": -1,
        "current_epoch": 1,
        "global_step": 10,
        "progress_bar_metrics": {"train/loss": 1.23456, "v_num": 0},
        **changes,
    }
    return SimpleNamespace(**facts)


def test_a_line_shows_the_progress() -> None:
    lines = ProgressLines()
    lines._first = 0
    assert lines.line(trainer(), 30.0) == "epoch 2 of 5, batch 4 of 6: train/loss 1.235; 60 s left"
    assert (
        lines.line(trainer(max_epochs=-1, max_steps=40), 400.0)
        == "epoch 2, batch 4 of 6: train/loss 1.235; 20 min left"
    )
    assert lines.line(trainer(max_epochs=-1), 400.0) == "epoch 2, batch 4 of 6: train/loss 1.235"
    lines._first = 8  # a run that was resumed knows its own pace only
    assert lines.line(trainer(), 30.0) == "epoch 2 of 5, batch 4 of 6: train/loss 1.235; 5 min left"


def test_lines_appear_through_a_pipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProgressLines.__init__, "__defaults__", (0.0,))
    run("fit", ["shvit/tiny"], ["data.image_size=32", "trainer.max_epochs=1", f"trainer.default_root_dir={tmp_path}"])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch 1 of 1, batch ")]
    assert len(lines) == 4
    assert lines[0].startswith("epoch 1 of 1, batch 1 of 4: train/loss")
