"""Worlds: places side by side and the characters that live there, all from a seed."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

from visionzoo.errors import InputError, unknown

from .acting import perform
from .camera import check_actions, follow, random_actions, returning
from .chance import SPLITS, Chance
from .characters import Character, random_character
from .clip import Clip
from .places import KINDS, Place, build_place

SMALLEST, LARGEST = 64, 1920
"""Limits of both sides of a frame, in pixels."""

HOLD = 8
"""Frames per action."""


@dataclass(frozen=True)
class ToyWorld:
    """A world of the toy world's generator; `create` makes one from a seed.

    Attributes:
        seed, split: what it was made from.
        places: side by side, from left to right.
        characters: who lives there.
    """

    seed: int
    split: str
    places: tuple[Place, ...]
    characters: tuple[Character, ...]

    @classmethod
    def create(
        cls,
        seed: int,
        split: str = "train",
        *,
        places: int | Sequence[str] = 4,
        characters: int | Sequence[Character] = 1,
    ) -> ToyWorld:
        """Make a world.

        Args:
            seed: worlds of different seeds differ in everything; the same seed gives another world in each split.
            split: "train", "validation" or "test". Palettes, characters and worlds of one split never occur in another.
            places: number of places, 1 to 24, or their kinds, e.g. ("park", "street").
            characters: number of characters, 0 to 6, or the characters.

        Raises:
            InputError: an unknown split or kind, a number out of range, or a seed that is not a whole number.
        """
        seed = check_seed(seed)
        if split not in SPLITS:
            raise unknown("split", split, list(SPLITS))
        chance = Chance("world", split, seed)
        if isinstance(places, str):
            raise InputError(f"places must be a number or a list of kinds, such as [{places!r}], got {places!r}")
        if isinstance(places, SupportsIndex):
            places = operator.index(places)
            if not 1 <= places <= 24:
                raise InputError(f"a world has 1 to 24 places, got {places}")
            kinds: list[str] = []
            while len(kinds) < places:
                kinds.extend(chance.shuffled(KINDS))
            kinds = kinds[:places]
        else:
            kinds = list(places)
            for kind in kinds:
                if kind not in KINDS:
                    raise unknown("kind of place", kind, list(KINDS))
            if not 1 <= len(kinds) <= 24:
                raise InputError(f"a world has 1 to 24 places, got {len(kinds)}")
        built: list[Place] = []
        for index, kind in enumerate(kinds):
            left = built[-1].right if built else 0.0
            own = Chance("place", split, seed, index)
            built.append(build_place(kind, split, own, left, index == 0, index == len(kinds) - 1))
        if isinstance(characters, str):
            raise InputError(f"characters must be a number from 0 to 6, or a list of characters, got {characters!r}")
        if isinstance(characters, SupportsIndex):
            characters = operator.index(characters)
            if not 0 <= characters <= 6:
                raise InputError(f"a world has 0 to 6 characters, got {characters}")
            own = Chance("characters", split, seed)
            characters = [random_character(own, split) for _ in range(characters)]
        return cls(seed, split, tuple(built), tuple(characters))

    def film(
        self,
        frames: int = 64,
        *,
        size: tuple[int, int] = (128, 128),
        actions: Sequence[str] | None = None,
        returns: bool = False,
        hold: int = HOLD,
        speed: float = 1.0,
        start: float | None = None,
        take: int = 0,
        supersampling: int = 2,
        line_width: float | None = None,
    ) -> Clip:
        """Film a clip.

        Args:
            frames: its length, at least 1; any length is possible, since frames are drawn when they are asked for.
            size: (height, width) in pixels, both from 64 to 1920.
            actions: what the camera does, of `camera.ACTIONS`, each for `hold` frames; afterwards it waits. None for random ones.
            returns: of random actions, whether the second half of the clip goes back to the start.
            hold: frames per action, at least 1.
            speed: of the camera, from 0.1 to 4; at 1 it crosses what it sees at depth 1 in 17 frames.
            start: x of the camera at the first frame; None for a random one.
            take: another take of the same world has other random actions and acting.
            supersampling: frames are drawn this many times larger and averaged: 1 to 4.
            line_width: of the ink lines, in pixels; None is 1.75 at a height of 128, and in proportion.

        Raises:
            InputError: a value out of range or an unknown action.
        """
        height, width = check_size(size)
        frames = _whole("frames", frames, 1, 10**7)
        hold = _whole("hold", hold, 1, 10**4)
        supersampling = _whole("supersampling", supersampling, 1, 4)
        if not 0.1 <= speed <= 4:
            raise InputError(f"speed must be from 0.1 to 4, got {speed:g}")
        if line_width is not None and not 0.5 <= line_width <= 64:
            raise InputError(f"line_width must be from 0.5 to 64 pixels, got {line_width:g}")
        chance = Chance("take", self.split, self.seed, take)
        bounds = (self.places[0].left + 1.0, self.places[-1].right - 1.0)
        begin = chance.between(*bounds)
        if start is not None:
            if not bounds[0] <= start <= bounds[1]:
                raise InputError(f"start must be from {bounds[0]:.3g} to {bounds[1]:.3g} in this world, got {start:g}")
            begin = start
        if actions is None:
            count = -(-frames // hold)
            there = random_actions(chance, -(-count // 2) if returns else count, hold, begin, bounds, speed)
            actions = returning(there) if returns else there
        else:
            check_actions(actions)
        path = follow(actions, hold, frames, begin, bounds, speed)
        aspect = width / height
        acts = [
            perform(character, Chance("act", self.split, self.seed, take, index), path, aspect)
            for index, character in enumerate(self.characters)
        ]
        return Clip(self.places, self.characters, acts, path, height, width, supersampling, line_width)


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size of a frame (height, width). Raises `InputError` for anything but two whole numbers from 64 to 1920."""
    try:
        height, width = (operator.index(side) for side in size)
    except (TypeError, ValueError) as error:
        raise InputError(f"size must be (height, width) in whole pixels, such as (128, 192), got {size!r}") from error
    for name, value in (("height", height), ("width", width)):
        if not SMALLEST <= value <= LARGEST:
            raise InputError(f"the {name} of a frame must be from {SMALLEST} to {LARGEST} pixels, got {value}")
    return height, width


def check_seed(seed: int) -> int:
    """The seed of a world. Raises `InputError` if it is negative or not a whole number."""
    try:
        seed = operator.index(seed)
    except TypeError as error:
        raise InputError(f"seed must be a whole number, got {seed!r}") from error
    if seed < 0:
        raise InputError(f"seed must be at least 0, got {seed}")
    return seed


def _whole(name: str, value: int, low: int, high: int) -> int:
    try:
        whole = operator.index(value)
    except TypeError as error:
        raise InputError(f"{name} must be a whole number, got {value!r}") from error
    if not low <= whole <= high:
        raise InputError(f"{name} must be from {low} to {high}, got {whole}")
    return whole


__all__ = ["HOLD", "LARGEST", "SMALLEST", "ToyWorld", "check_seed", "check_size"]
