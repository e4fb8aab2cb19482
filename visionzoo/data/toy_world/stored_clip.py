"""Clips that `write_clips` wrote, read frame by frame."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visionzoo.errors import InputError
from visionzoo.io.head import read_head
from visionzoo.io.video import read_frames

from .characters import Character
from .stage import Region

ABOUT, INDEX = "clip.json", "clips.jsonl"
STREAMS = {
    "video": "video.mp4",
    "lines": "lines.mp4",
    "captions": "captions.jsonl",
    "actions": "actions.jsonl",
    "cameras": "cameras.json",
    "truth": "truth.npz",
}
NAMES = ("regions", "instances", "flow", "valid")
"""The arrays of a frame in the file of truths: "flow/000012" is that of frame 12."""


@dataclass(frozen=True)
class Segment:
    """A text that holds from frame `start_frame` to before `end_frame`."""

    start_frame: int
    end_frame: int
    text: str


@dataclass(frozen=True)
class Truth:
    """The exact truth about one frame; see `Frame` for the arrays."""

    regions: np.ndarray
    instances: np.ndarray
    flow: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True)
class StoredClip:
    """A clip on disk; frames are read when they are asked for.

    Attributes:
        folder: where it is.
        caption: of the whole clip: the one that holds for most frames.
        frames, fps, height, width: number, rate and size of the frames.
        captions, actions: what is visible, and what the camera did since the last frame; they cover all frames.
        cameras: x, depth and zoom of the camera at each frame, (T, 3) float64.
        places: kinds of the world's places, from left to right.
        characters: who lives there.
        regions: all regions; `Region.number` is the index.
        masks: what there are masks of: "character", "shirt", …
        has_truth: whether regions, instances and flow are stored.
        is_lossless: whether the colours of the video are exact; lines and masks always are.
        seed, split, take: of the world; None or "" if they are unknown.
    """

    folder: Path
    caption: str
    frames: int
    fps: float
    height: int
    width: int
    captions: tuple[Segment, ...]
    actions: tuple[Segment, ...]
    cameras: np.ndarray
    places: tuple[str, ...]
    characters: tuple[Character, ...]
    regions: tuple[Region, ...]
    masks: tuple[str, ...]
    has_truth: bool
    is_lossless: bool
    seed: int | None = None
    split: str = ""
    take: int | None = None

    def video(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """The frames from `start` to before `stop`, each (H, W, 3) uint8."""
        return self._pixels(STREAMS["video"], start, stop)

    def lines(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """The line art, each (H, W) uint8: exactly `Frame.ink`."""
        return (pixels[..., 0] for pixels in self._pixels(STREAMS["lines"], start, stop))

    def mask(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """A mask of the first character or one of its parts, each (H, W) bool.

        Raises:
            InputError: there is no such mask.
        """
        if name not in self.masks:
            raise InputError(f"{self.folder}: has no mask of {name!r}; there are: {', '.join(self.masks) or 'none'}")
        return (pixels[..., 0] > 127 for pixels in self._pixels(f"masks/{name}.mp4", start, stop))

    def truths(self, start: int = 0, stop: int | None = None) -> Iterator[Truth]:
        """The exact truth about the frames.

        Raises:
            InputError: it was not stored, or the file is damaged.
        """
        path = self.folder / STREAMS["truth"]
        if not self.has_truth:
            raise InputError(f"{self.folder}: holds no regions and flow; write the clips again with --truth")
        read_head(path, "the truth about the frames of a clip (.npz)")
        try:
            with np.load(path) as file:
                for number in range(start, self._stop(start, stop)):
                    yield Truth(*(file[f"{name}/{number:06}"] for name in NAMES))
        except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: is damaged ({error}); write the clip again") from error

    def caption_at(self, frame: int) -> str:
        """The caption of a frame."""
        return _text_at(self.captions, frame)

    def action_at(self, frame: int) -> str:
        """What the camera did to reach a frame; "wait" for the first."""
        return _text_at(self.actions, frame)

    def _stop(self, start: int, stop: int | None) -> int:
        stop = self.frames if stop is None else stop
        if not 0 <= start <= stop <= self.frames:
            raise InputError(f"{self.folder}: has frames 0 to {self.frames - 1}, not {start} to {stop - 1}")
        return stop

    def _pixels(self, name: str, start: int, stop: int | None) -> Iterator[np.ndarray]:
        stop = self._stop(start, stop)
        return (frame.pixels for frame in read_frames(self.folder / name, start=start, stop=stop))


def read_clip(folder: str | os.PathLike[str]) -> StoredClip:
    """Open a clip; videos and truths are read when they are asked for.

    Args:
        folder: that of the clip, e.g. "CLIPS/000000".

    Raises:
        InputError: the folder is not a clip, or one of its files is missing or damaged.
    """
    folder = Path(folder)
    if folder.is_dir() and not (folder / ABOUT).exists():
        hint = f"a clip in it, e.g. {folder / '000000'}" if (folder / INDEX).exists() else "a folder with clip.json"
        raise InputError(f"{folder}: is not a clip of the toy world; expected {hint}")
    about = read_json(folder / ABOUT)
    cameras = read_json(folder / STREAMS["cameras"])
    captions, actions = (_segments(folder / STREAMS[name]) for name in ("captions", "actions"))
    try:
        return StoredClip(
            folder,
            about["caption"],
            about["frames"],
            about["fps"],
            about["height"],
            about["width"],
            captions,
            actions,
            np.array([cameras["x"], cameras["depth"], cameras["zoom"]], np.float64).T,
            tuple(about["places"]),
            tuple(Character(**{**who, "skin": tuple(who["skin"])}) for who in about["characters"]),
            tuple(Region(**{**region, "rgb": tuple(region["rgb"])}) for region in about["regions"]),
            tuple(about["masks"]),
            about["truth"],
            about["lossless"],
            about.get("seed"),
            about.get("split", ""),
            about.get("take"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / ABOUT}: is damaged ({error!r}); write the clip again") from error


def read_clips(folder: str | os.PathLike[str]) -> list[StoredClip]:
    """Open all clips that the index `clips.jsonl` of a folder lists.

    Raises:
        InputError: there is no index, or a clip is missing or damaged.
    """
    index = Path(folder) / INDEX
    try:
        return [read_clip(Path(folder) / row["folder"]) for row in _rows(index)]
    except (KeyError, TypeError) as error:
        raise InputError(f"{index}: is damaged ({error!r}); run the command that wrote it again") from error


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file. Raises `InputError` if it is missing or damaged."""
    read_head(path, "a JSON file of a clip")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error}); write the clip again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no JSON object; write the clip again")
    return found


def _rows(path: Path) -> list[Any]:
    read_head(path, "a file of JSON lines")
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error}); write the clips again") from error


def _segments(path: Path) -> tuple[Segment, ...]:
    try:
        return tuple(Segment(**row) for row in _rows(path))
    except TypeError as error:
        raise InputError(f"{path}: expected start_frame, end_frame and text in each line ({error})") from error


def _text_at(segments: tuple[Segment, ...], frame: int) -> str:
    for segment in segments:
        if segment.start_frame <= frame < segment.end_frame:
            return segment.text
    raise InputError(f"the clip has no frame {frame}")


__all__ = ["Segment", "StoredClip", "Truth", "read_clip", "read_clips"]
