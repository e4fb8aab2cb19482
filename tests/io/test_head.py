"""Files whose content does not match their name are refused in one line, with the same words by every reader."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from visionzoo.errors import InputError
from visionzoo.io.head import HEAD_BYTES, read_head


class OtherError(InputError):
    pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"\xef\xbb\xbf\n <HTML>", "web page"),
        (b"<!-- saved -->\n<html lang='en'>", "web page"),
        (b"<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>AccessDenied</Code></Error>", "web page"),
    ],
)
def test_a_file_with_unexpected_content(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    with pytest.raises(OtherError, match=rf"^[^\n]*x\.bin: .*{message}[^\n]*$"):
        read_head(path, "a checkpoint file", OtherError)


@pytest.mark.parametrize("content", [b"<svg xmlns='http://www.w3.org/2000/svg'>", b"<unk>\ncat", b"\0" * 2000, b"P"])
def test_other_content_is_passed_to_the_reader(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    assert read_head(tmp_path / "x", "a file") == content[:HEAD_BYTES]


def test_paths_without_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for path, message in [
        (tmp_path, "is a folder, expected an image file"),
        (tmp_path / "no.jpg", "no such file, expected an image file"),
        (tmp_path / "file" / "a.jpg", "no such file"),
        (tmp_path / ("n" * 300), "cannot be read"),
        ("a\0b", "no such file"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            read_head(path, "an image file")
        assert "\n" not in str(caught.value)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):  # and does not wait for somebody to write
        read_head(tmp_path / "pipe", "an image file")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x")

    def refuse(*_: object, **__: object) -> None:  # in place of chmod, which does not bind root
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"a\.jpg: cannot be read \(Permission denied\); check the permissions"):
        read_head(path, "an image file")
