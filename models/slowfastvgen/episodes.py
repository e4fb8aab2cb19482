"""Videos with actions, episodes: of the toy world, drawn when they are encoded, or from folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionzoo.data.augmented import stream_of
from visionzoo.data.toy_world import ToyWorld
from visionzoo.errors import InputError
from visionzoo.io.head import read_head
from visionzoo.io.video import read_frames

__all__ = ["VIDEO", "Action", "Episode", "find_episodes", "read_actions", "toy_episode"]

ACTIONS, VIDEO = "actions.jsonl", "video.mp4"


@dataclass(frozen=True)
class Action:
    """What is done from frame `start_frame` to before `end_frame`: the action that leads to these frames, as text."""

    start_frame: int
    end_frame: int
    text: str


@dataclass(frozen=True)
class Episode:
    """A video and its actions.

    Attributes:
        name: for messages.
        actions: in order.
        frames: opens the frames, each (H, W, 3) uint8.
    """

    name: str
    actions: tuple[Action, ...]
    frames: Callable[[], Iterator[NDArray[np.uint8]]]


def toy_episode(split: str, number: int, *, chunks: int, hold: int, size: int, seed: int = 0) -> Episode:
    """A walk through a world of the toy world with random actions, each for `hold` frames; the first frame has none.

    Every second world has a character.

    Args:
        split: of the world.
        number: which; training worlds also depend on `seed`.
        chunks: number of actions.
        size: side of the frames, in pixels.
    """
    stream = stream_of(seed, number) if split == "train" else number
    clip = ToyWorld.create(stream, split, places=3, characters=number % 2).film(
        1 + chunks * hold, size=(size, size), hold=hold
    )
    actions = tuple(
        Action(first, first + hold, clip.actions[first]) for first in range(1, 1 + chunks * hold, hold)
    )
    return Episode(
        f"{split} world {number}", actions, lambda: (frame.rgb for frame in clip.frames(motion=False))
    )


def find_episodes(folder: str | Path) -> list[Episode]:
    """The episodes in a folder: its sub-folders with video.mp4 and actions.jsonl, e.g. those of `visionzoo data toy-world`.

    Raises:
        InputError: no such folder, no episode in it, or a damaged actions.jsonl.
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"{place}: no such folder; expected one with a sub-folder for each episode")
    found = [each.parent for each in sorted(place.glob(f"*/{ACTIONS}")) if (each.parent / VIDEO).is_file()]
    if not found:
        raise InputError(f"{place}: has no sub-folder with {VIDEO} and {ACTIONS}; see docs/generate.md for the layout")
    return [Episode(str(each), read_actions(each / ACTIONS), _reader(each / VIDEO)) for each in found]


def _reader(path: Path) -> Callable[[], Iterator[NDArray[np.uint8]]]:
    return lambda: (frame.pixels for frame in read_frames(path))


def read_actions(path: str | Path) -> tuple[Action, ...]:
    """Read actions.jsonl: {"start_frame": 0, "end_frame": 8, "text": "go left"} on each line.

    Raises:
        InputError: the file is missing, a line is of another form, or ranges are empty or overlap.
    """
    path = Path(path)
    read_head(path, "actions")
    actions: list[Action] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found: Any = json.loads(line)
            action = Action(int(found["start_frame"]), int(found["end_frame"]), str(found["text"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f'{path}: line {number} is no action ({error}); expected {{"start_frame": 0, "end_frame": 8, "text": "go left"}}'
            ) from error
        last = actions[-1].end_frame if actions else 0
        if not last <= action.start_frame < action.end_frame:
            raise InputError(
                f"{path}: line {number} covers the frames {action.start_frame} to before {action.end_frame}; expected "
                f"at least one frame, none of them before {last}"
            )
        actions.append(action)
    if not actions:
        raise InputError(f"{path}: holds no actions")
    return tuple(actions)
