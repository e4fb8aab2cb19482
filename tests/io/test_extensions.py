"""One list of extensions decides what a file is, and no other list exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from visionzoo.io.extensions import IMAGES, VIDEOS, VIDEOS_WRITTEN, extension, is_image, is_video

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["00001.MTS", "00001.m2ts", "clip.3gp", "a.b.mp4", "raw.h264", "old.ts"])
def test_what_cameras_and_phones_write_is_a_video(name: str) -> None:
    assert is_video(name)
    assert not is_image(name)


@pytest.mark.parametrize("name", ["photo.JFIF", "photo.jpeg", "scan.TIFF", "IMG_1.HEIC", "IMG_2.HIF", "a.gif"])
def test_what_cameras_and_browsers_write_is_an_image(name: str) -> None:
    assert is_image(name)
    assert not is_video(name)


def test_nothing_is_both() -> None:
    assert not IMAGES & VIDEOS
    assert set(VIDEOS_WRITTEN) <= VIDEOS
    assert extension("folder.d/README") == ""
