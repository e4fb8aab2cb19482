"""Pages accept every image and video that commands accept, and nothing that could run code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from visionzoo.errors import InputError

from .conftest import upload

pytest.importorskip("gradio")

from visionzoo.demos.uploads import IMAGE, VIDEO, checked_path, name_of, names_of


def test_images_of_every_kind_are_taken(tmp_path: Path) -> None:
    pixels = np.zeros((8, 9, 3), np.float32)
    tifffile.imwrite(tmp_path / "float.tif", pixels, photometric="rgb")  # which Pillow does not know
    for name in ("a.jpg", "a.png", "a.webp", "a.gif", "a.bmp"):
        Image.new("RGB", (9, 8)).save(tmp_path / name)
    for path in sorted(tmp_path.iterdir()):
        assert checked_path(upload(path), IMAGE) == path


def test_others_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (9, 8)).save(tmp_path / "drawing.eps")
    (tmp_path / "page.jpg").write_bytes(b"<!doctype html><html>")
    (tmp_path / "texture.jpg").write_bytes(b"DDS " + b"|" * 140)
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(21_000_000)
    for name, message in (
        ("drawing.eps", "format"),
        ("page.jpg", "web page"),
        ("texture.jpg", "cannot|damaged|not an"),
        ("gone.jpg", "no such"),
        ("large.jpg", "21 MB is over this page's limit of 20 MB"),
    ):
        with pytest.raises(InputError, match=message):
            checked_path(upload(tmp_path / name), IMAGE)
    with pytest.raises(InputError, match="upload it again"):
        checked_path({}, IMAGE)


def test_a_playlist_is_no_video(tmp_path: Path) -> None:
    """It would make the server open other files."""
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile /etc/hostname\n")
    with pytest.raises(InputError):
        checked_path(upload(tmp_path / "list.mp4"), VIDEO)


def test_names_are_those_of_their_owner(tmp_path: Path) -> None:
    first, second = upload(tmp_path / "a.jpg"), {"path": "/srv/b", "orig_name": "C:\\photos\\b.jpg"}
    assert names_of("text", 3, [first, second], None) == {str(tmp_path / "a.jpg"): "a.jpg", "/srv/b": "b.jpg"}
    assert name_of({}) == "the upload"
