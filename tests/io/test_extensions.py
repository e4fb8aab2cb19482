"""One list of extensions decides what a file is, and no other list exists."""

from __future__ import annotations

import re
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


def test_image_and_video_extensions_are_disjoint() -> None:
    assert not IMAGES & VIDEOS
    assert set(VIDEOS_WRITTEN) <= VIDEOS
    assert extension("folder.d/README") == ""


def test_no_other_list_of_video_extensions() -> None:
    """With another list, a camcorder's file could be taken for an image again."""
    root = Path(__file__).parents[2]
    listed = re.compile(r'"\.(?:mp4|mov|mkv|webm|avi)"(?! ?:)')  # `".mp4": …` says how a container is written
    sources = [path for top in ("visionzoo", "models", "pipelines", "demos") for path in (root / top).rglob("*.py")]
    assert len(sources) > 50
    lists = [path for path in sources if len(set(listed.findall(path.read_text(encoding="utf-8")))) >= 3]
    assert [path.relative_to(root).as_posix() for path in lists] == ["visionzoo/io/extensions.py"]


def test_every_video_extension_that_is_written_has_its_container() -> None:
    from visionzoo.io.video.formats import CONTAINERS

    assert set(CONTAINERS) == set(VIDEOS_WRITTEN)
