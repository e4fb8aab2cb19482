"""Folders of unfinished work, when deleting them is interrupted, too."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from visionzoo.jobs import resumable_folder


def fill(work: Path) -> None:
    """As a job leaves it: results, and the file that says how far it has come."""
    (work / "frames").mkdir(exist_ok=True)
    (work / "frames" / "0.npy").touch()
    (work / "reached.json").touch()


@pytest.mark.parametrize("last", [".json", "frames", "work"])
def test_an_interrupted_end_neither_resumes_from_half_nor_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Ctrl-C while the folder is deleted at the end: the next run begins from the beginning, in the same folder."""
    work = tmp_path / "work"
    remove, unlink = shutil.rmtree, Path.unlink

    def rmtree(path: Any, **how: Any) -> None:
        if str(path).endswith(last):
            raise KeyboardInterrupt
        remove(path, **how)

    def unlink_one(path: Path, **how: Any) -> None:
        unlink(path, **how)
        if str(path).endswith(last):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", rmtree)
        patch.setattr(Path, "unlink", unlink_one)
        with resumable_folder(work, "key", keep=True, finished="reached.json"):
            fill(work)
    assert work.is_dir()
    for key in ("key", "another"):
        with resumable_folder(work, key, keep=True, finished="reached.json"):
            assert not (work / "reached.json").exists()
            fill(work)
        assert not work.exists()
