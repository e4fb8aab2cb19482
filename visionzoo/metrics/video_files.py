"""The files of the commands that measure videos: some videos, and what belongs to each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionzoo.errors import InputError

if TYPE_CHECKING:
    from visionzoo.data.toy_world import StoredClip


def video_files(inputs: list[Path]) -> list[Path]:
    """The videos that are meant: files, and those of folders.

    Raises:
        InputError: a file does not exist, or a folder holds no videos.
    """
    from visionzoo.io.extensions import is_video

    found: list[Path] = []
    for path in inputs:
        if not path.exists():
            raise InputError(f"{path}: no such file; expected a video or a folder of videos")
        inside = sorted(each for each in path.iterdir() if is_video(each)) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path}: holds no videos; give a folder with videos")
        found += inside
    return found


def matching(place: Path, video: Path, count: int, fits: Callable[[Path], bool]) -> Path:
    """What belongs to a video: `place` itself, or what has the same name in it.

    Args:
        count: number of videos.
        fits: whether a path is what is looked for.

    Raises:
        InputError: it does not exist, is one for several videos, or holds nothing for this one.
    """
    if not place.exists():
        raise InputError(f"{place}: no such file or folder")
    if fits(place):
        if count > 1:
            raise InputError(f"{place}: is one, but there are {count} videos; give a folder with one for each")
        return place
    found = sorted(each for each in place.iterdir() if each.stem == video.stem and fits(each)) if place.is_dir() else []
    if not found:
        raise InputError(f"{place}: holds nothing for {video.name}; expected the same name there")
    return found[0]


def is_truth(path: Path) -> bool:
    """Whether a path is a video or the folder of a clip of the toy world."""
    from visionzoo.data.toy_world.stored_clip import ABOUT
    from visionzoo.io.extensions import is_video

    return (path / ABOUT).is_file() if path.is_dir() else is_video(path)


def toy_clip(path: Path) -> StoredClip | None:
    """The clip of the toy world in a folder; None for a file."""
    if not path.is_dir():
        return None
    from visionzoo.data.toy_world import read_clip

    return read_clip(path)


def frames_of(path: Path) -> Iterable[Any]:
    """The frames of a video."""
    from visionzoo.io.video import read_frames

    return read_frames(path)


__all__ = ["frames_of", "is_truth", "matching", "toy_clip", "video_files"]
