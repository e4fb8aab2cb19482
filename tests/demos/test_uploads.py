"""Pages take every image that commands take, and nothing that would be run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from visionzoo.demos.uploads import path_of
from visionzoo.io.image import ImageError, load_image


def test_images_of_every_kind_are_taken(tmp_path: Path) -> None:
    pixels = np.zeros((8, 9, 3), np.float32)
    tifffile.imwrite(tmp_path / "float.tif", pixels, photometric="rgb")  # which Pillow does not know
    for name in ("a.jpg", "a.png", "a.webp", "a.gif", "a.bmp"):
        Image.new("RGB", (9, 8)).save(tmp_path / name)
    for path in sorted(tmp_path.iterdir()):
        assert path_of({"path": str(path)}) == path
        assert load_image(path).shape == (8, 9, 3)


def test_others_are_refused_without_the_server_s_path(tmp_path: Path) -> None:
    Image.new("RGB", (9, 8)).save(tmp_path / "drawing.eps")
    (tmp_path / "page.jpg").write_bytes(b"<!doctype html><html>")
    (tmp_path / "texture.jpg").write_bytes(b"DDS " + b"|" * 140)
    for name, says in (
        ("drawing.eps", "format"),
        ("page.jpg", "web page"),
        ("texture.jpg", "cannot|damaged|not an"),
        ("gone.jpg", "no such"),
    ):
        with pytest.raises(ImageError, match=says) as caught:
            path_of({"path": str(tmp_path / name)})
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ImageError, match="upload it again"):
        path_of({})
