"""The folder in which a run writes and resumes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.command import run as command
from visionzoo.errors import InputError
from visionzoo.training.folders import CHILD, check_writable, checkpoints, folder_of, holds_run, last_folder, new_folder


def a_run(folder: Path, *, time: int | None = None) -> Path:
    """Create the files that a training leaves in `folder`."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"")
    file = folder / "checkpoints" / "last.ckpt"
    file.write_bytes(b"")
    if time is not None:
        os.utime(file, (time, time))
    return file


def test_a_second_run_gets_its_own_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = tmp_path / "tiny"
    assert new_folder(wanted) == wanted
    wanted.mkdir()
    (wanted / "config.yaml").write_text("a run that failed at its data")
    assert new_folder(wanted) == wanted
    assert capsys.readouterr().err == ""
    a_run(wanted)
    assert new_folder(wanted) == tmp_path / "tiny-2"
    assert re.fullmatch(
        r".*tiny: holds an earlier run, so this one writes to .*tiny-2 \(.*\)\n", capsys.readouterr().err
    )
    a_run(tmp_path / "tiny-2")
    assert new_folder(wanted) == tmp_path / "tiny-3"


def test_processes_of_one_run_write_to_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHILD, raising=False)
    chosen = new_folder(tmp_path / "tiny")
    a_run(chosen)  # the first process has begun
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert new_folder(tmp_path / "tiny") == chosen


def test_last_is_the_last_run_that_has_a_checkpoint(tmp_path: Path) -> None:
    wanted = tmp_path / "tiny"
    with pytest.raises(InputError, match=r"ckpt_path=last: .*tiny holds no checkpoint"):
        last_folder(wanted)
    a_run(wanted)
    assert last_folder(wanted) == wanted
    second = a_run(tmp_path / "tiny-2")
    assert last_folder(wanted) == tmp_path / "tiny-2"
    second.unlink()
    assert holds_run(tmp_path / "tiny-2")
    assert last_folder(wanted) == wanted


def test_the_newest_checkpoint_is_the_last(tmp_path: Path) -> None:
    last = a_run(tmp_path, time=100)
    (same := last.with_name("epoch=3.ckpt")).write_bytes(b"")
    os.utime(same, (100, 100))
    assert checkpoints(tmp_path)[0] == last
    os.utime(same, (200, 200))
    assert checkpoints(tmp_path)[0] == same


def test_a_checkpoint_belongs_to_its_run(tmp_path: Path) -> None:
    wanted = tmp_path / "tiny"
    assert folder_of(wanted / "checkpoints" / "last.ckpt", wanted) == wanted
    assert folder_of(tmp_path / "tiny-3" / "checkpoints" / "last.ckpt", wanted) == tmp_path / "tiny-3"
    assert folder_of(tmp_path / "other" / "last.ckpt", wanted) is None


def test_an_unwritable_output_is_found_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file" / "run", Path("/proc/visionzoo/run")):
        with pytest.raises(InputError, match=r"choose another with trainer\.default_root_dir=FOLDER"):
            check_writable(folder)
    code, _, err = command(capsys, "fit", "-c", "shvit/tiny", f"trainer.default_root_dir={tmp_path}/file/run")
    assert code == 2
    assert err.strip().count("\n") == 0
    assert "file/run: the folder cannot be created (Not a directory); choose another" in err
