"""Sentences about frames, and the words that they use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .acting import DOING
from .camera import ACTIONS
from .chance import Chance
from .characters import CLOTHES, HAIR, KINDS, PARTS, Character, article, listed
from .colors import COLORS
from .landmarks import LANDMARKS
from .places import KINDS as PLACES

if TYPE_CHECKING:
    from .clip import Clip
    from .places import Place
    from .stage import Region

PEOPLE, THINGS = 2, 3
"""Numbers of characters and landmarks that a caption names at most, the largest first, so that it fits into CLIP's 77 tokens."""

VISIBLE = 0.004
"""Share of the frame from which on an object is named."""

PLACE_TEXT = {
    "room": "in a room",
    "park": "in a park",
    "street": "on a street",
    "beach": "on a beach",
    "forest": "in a forest",
    "harbour": "in a harbour",
}


class Captions:
    """Makes the sentences about the frames of a clip: "a girl with black hair, a red shirt, … walks in a park with a green tree".

    Args:
        places, characters: of the world.
        regions: all regions.
    """

    def __init__(self, places: Sequence[Place], characters: Sequence[Character], regions: Sequence[Region]):
        self._characters = characters
        self._people = [character.text() for character in characters]
        self._instances = np.array([region.instance for region in regions])
        self._borders = [(place.right, PLACE_TEXT[place.kind]) for place in places]
        # of each landmark, the texts that name it, by the number of the region that has the colour
        self._things: dict[int, dict[int, str]] = {}
        for region in regions:
            if region.color and region.instance > len(characters):
                text = f"{article(region.color)} {region.color} {region.object}"
                self._things.setdefault(region.instance, {})[region.number] = text

    def caption(
        self,
        camera_x: float,
        areas: np.ndarray,
        doing: tuple[str, ...],
        *,
        describe: Callable[[Character], str] | None = None,
        most: int = THINGS,
    ) -> str:
        """The sentence about a frame.

        Args:
            camera_x: where the camera is.
            areas: (regions,) how many pixels each region has.
            doing: what each character does, e.g. ("walks",).
            describe: makes the text about a character; None for the complete one.
            most: number of landmarks to name at most.
        """
        sizes, people, things = np.bincount(self._instances, areas), [], []
        least = max(VISIBLE * areas.sum(), 1)
        for instance, area in enumerate(sizes.tolist()):
            if area < least or instance == 0:
                continue
            if instance <= len(self._people):
                text = describe(self._characters[instance - 1]) if describe else self._people[instance - 1]
                people.append((area, f"{text} {doing[instance - 1]}"))
            else:
                named = self._things.get(instance, {})
                things.extend([(area, text) for number, text in named.items() if areas[number]][:1])
        here = next((text for right, text in self._borders if camera_x < right), self._borders[-1][1])
        words = [*([" and ".join(_largest(people, PEOPLE))] if people else []), here]
        if things and most:
            words += ["with", listed(_largest(things, most))]
        return " ".join(words)


def brief_caption(clip: Clip, frame: int, regions: np.ndarray, doing: tuple[str, ...], seed: int) -> str:
    """A sentence that leaves much out: one to three parts of a character, at most one thing.

    Args:
        clip: the clip.
        frame: the number of the frame.
        regions: (H, W) its regions.
        doing: what each character does, e.g. ("walks",).
        seed: what is left out.
    """
    chance = Chance("brief", seed)

    def some(character: Character) -> str:
        worn = list(character.colors)
        kept = chance.shuffled(worn)[: chance.whole(1, 3)]
        return character.text([part for part in worn if part in kept])

    areas, most = np.bincount(regions.ravel(), minlength=len(clip.regions)), chance.whole(0, 1)
    return clip.captions.caption(float(clip.path.x[frame]), areas, doing, describe=some, most=most)


def _largest(found: list[tuple[int, str]], most: int) -> list[str]:
    """The texts with the largest areas, each once."""
    texts = [text for _, text in sorted(found, key=lambda pair: -pair[0])]
    return list(dict.fromkeys(texts))[:most]


def vocabulary() -> list[str]:
    """All words of captions and actions, sorted."""
    sentences = [*ACTIONS, *PLACE_TEXT.values(), *DOING.values(), "a an with and", *COLORS, *CLOTHES, *HAIR]
    sentences += [*KINDS, *PARTS, *LANDMARKS, *PLACES]
    return sorted({word for sentence in sentences for word in sentence.split()} | {","})


__all__ = ["PEOPLE", "PLACE_TEXT", "THINGS", "Captions", "brief_caption", "vocabulary"]
