"""Outputs are written completely or not at all, and a full disk is a clear one-line error."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from visionzoo.errors import VisionZooError, writing
from visionzoo.io.files import atomic_path, check_output, record, write_json


def test_atomic(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask


def test_long_names(tmp_path: Path) -> None:
    write_json(tmp_path / ("x" * 240 + ".json"), {"a": 1})
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EACCES, "no permission"),
        (errno.ENOTDIR, "cannot be written"),
        (errno.ENOENT, "cannot be written"),
    ],
)
def test_failures_of_writing(number: int, message: str) -> None:
    with (
        pytest.raises(VisionZooError, match=f"out.bin: .*{message}.*\\(3 are safe\\)"),
        writing("out.bin", "3 are safe"),
    ):
        raise OSError(number, os.strerror(number))


def test_other_exceptions_are_raised_unchanged() -> None:
    with pytest.raises(OSError, match="Bad file"), writing("out.bin"):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def test_check_output(tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("x")
    assert check_output(tmp_path / "new.txt") == tmp_path / "new.txt"
    assert check_output(tmp_path / "there.txt", overwrite=True)
    for path, message in (
        (tmp_path / "there.txt", "--overwrite"),
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "x.txt", "does not exist"),
    ):
        with pytest.raises(VisionZooError, match=message):
            check_output(path)


def test_record_is_json() -> None:
    data = json.loads(json.dumps(record({"top": 3})))
    assert data["options"] == {"top": 3}
    assert "torch" in data["environment"]["versions"]
