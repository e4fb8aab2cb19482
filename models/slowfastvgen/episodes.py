"""Videos with actions, episodes: of the toy world, drawn when they are encoded, or from folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from visionzoo.data.augmented import stream_of
from visionzoo.data.toy_world import ToyWorld
from visionzoo.errors import InputError
from visionzoo.io.extensions import VIDEOS
from visionzoo.io.head import read_head
from visionzoo.io.video import read_frames

__all__ = ["NANO_SPEED", "Action", "Episode", "find_episodes", "read_action_file", "toy_episode"]

ACTIONS, VIDEO = "actions.jsonl", "video.mp4"

NANO_SPEED = 0.5
"""Speed of the camera in the videos of the toy world that `slowfastvgen_nano` knows; see `ToyWorld.film`."""


@dataclass(frozen=True)
class Action:
    """What is done from frame `start_frame` to before `end_frame`, or to the end of the video if that is None.

    It is the action that leads to these frames, as text.
    """

    start_frame: int
    end_frame: int | None
    text: str


@dataclass(frozen=True)
class Episode:
    """A video and its actions.

    Attributes:
        name: for messages.
        actions: in order.
        frames: opens the frames, each (H, W, 3) uint8.
        file: the video, if it is one.
    """

    name: str
    actions: tuple[Action, ...]
    frames: Callable[[], Iterator[NDArray[np.uint8]]]
    file: Path | None = None


def toy_episode(
    split: str, number: int, *, chunks: int, hold: int, size: int, speed: float = 1.0, seed: int = 0
) -> Episode:
    """A walk through a world of the toy world with random actions, each for `hold` frames; the first frame has none.

    Every second world has a character.

    Args:
        split: of the world.
        number: which; training worlds also depend on `seed`.
        chunks: number of actions.
        size: side of the frames, in pixels.
        speed: of the camera, see `ToyWorld.film`.
    """
    stream = stream_of(seed, number) if split == "train" else number
    clip = ToyWorld.create(stream, split, places=3, characters=number % 2).film(
        1 + chunks * hold, size=(size, size), hold=hold, speed=speed
    )
    actions = tuple(Action(first, first + hold, clip.actions[first]) for first in range(1, 1 + chunks * hold, hold))
    return Episode(f"{split} world {number}", actions, lambda: (frame.rgb for frame in clip.frames(motion=False)))


def find_episodes(folder: str | Path, size: int) -> list[Episode]:
    """The episodes in a folder.

    Sub-folders with video.mp4 and actions.jsonl are episodes, e.g. those of `visionzoo data toy-world`; so are videos in the folder
    itself with a caption beside them (a.mp4, a.txt), which is taken as one action from the first frame to the last.

    Args:
        size: side of the square to which frames are scaled and cropped, in pixels.

    Raises:
        InputError: no such folder, no episode in it, or a damaged actions.jsonl.
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"{place}: no such folder; expected one with a sub-folder for each episode")
    found = [
        _episode(each.with_name(VIDEO), read_action_file(each), size)
        for each in sorted(place.glob(f"*/{ACTIONS}"))
        if each.with_name(VIDEO).is_file()
    ]
    for text in sorted(place.glob("*.txt")):
        caption = " ".join(text.read_text(encoding="utf-8").split())
        videos = [each for ending in sorted(VIDEOS) if (each := text.with_suffix(ending)).is_file()]
        found += [_episode(each, (Action(0, None, caption),), size) for each in videos[:1]]
    if not found:
        raise InputError(
            f"{place}: has neither sub-folders with {VIDEO} and {ACTIONS} nor videos with captions (a.mp4, a.txt); see "
            "docs/generate.md for the layout"
        )
    return found


def _episode(file: Path, actions: tuple[Action, ...], size: int) -> Episode:
    def frames() -> Iterator[NDArray[np.uint8]]:
        for frame in read_frames(file):
            image = Image.fromarray(frame.pixels)
            yield np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))

    return Episode(str(file), actions, frames, file)


def read_action_file(path: str | Path) -> tuple[Action, ...]:
    """Read actions.jsonl: {"start_frame": 0, "end_frame": 8, "text": "go left"} on each line.

    Raises:
        InputError: the file is missing, a line is of another form, or ranges are empty or overlap.
    """
    path = Path(path)
    read_head(path, "actions")
    actions: list[Action] = []
    last = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found: Any = json.loads(line)
            action = Action(int(found["start_frame"]), end := int(found["end_frame"]), str(found["text"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f'{path}: line {number} is no action ({error}); expected {{"start_frame": 0, "end_frame": 8, "text": "go left"}}'
            ) from error
        if not last <= action.start_frame < end:
            raise InputError(
                f"{path}: line {number} covers the frames {action.start_frame} to before {end}; expected "
                f"at least one frame, none of them before {last}"
            )
        actions.append(action)
        last = end
    if not actions:
        raise InputError(f"{path}: holds no actions")
    return tuple(actions)
