"""Sentences about frames, and the words that they use."""

from __future__ import annotations

from collections.abc import Callable, Collection
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


def caption(clip: Clip, frame: int, regions: np.ndarray, doing: tuple[str, ...]) -> str:
    """A sentence about a frame: "a girl with black hair, a red shirt, … walks in a park with a green tree and a red bench".

    Args:
        clip: the clip.
        frame: the number of the frame.
        regions: (H, W) its regions.
        doing: what each character does, e.g. ("walks",).
    """
    return _sentence(clip, frame, regions, doing, lambda _: PARTS, THINGS)


def brief_caption(clip: Clip, frame: int, regions: np.ndarray, doing: tuple[str, ...], seed: int) -> str:
    """A sentence that leaves much out: one to three parts of a character, at most one thing; arguments as for `caption`.

    Args:
        seed: what is left out.
    """
    chance = Chance("brief", seed)

    def some(character: Character) -> list[str]:
        worn = list(character.colors)
        kept = chance.shuffled(worn)[: chance.whole(1, 3)]
        return [part for part in worn if part in kept]

    return _sentence(clip, frame, regions, doing, some, chance.whole(0, 1))


def _sentence(
    clip: Clip,
    frame: int,
    regions: np.ndarray,
    doing: tuple[str, ...],
    parts_of: Callable[[Character], Collection[str]],
    most: int,
) -> str:
    areas = np.bincount(regions.ravel(), minlength=len(clip.regions))
    least = VISIBLE * regions.size
    objects: dict[int, list[Region]] = {}
    for region in clip.regions:
        if areas[region.number]:
            objects.setdefault(region.instance, []).append(region)
    people, things = [], []
    for instance, parts in objects.items():
        area = sum(areas[part.number] for part in parts)
        if instance == 0 or area < least:
            continue
        if instance <= len(clip.characters):
            character = clip.characters[instance - 1]
            people.append((area, f"{character.text(parts_of(character))} {doing[instance - 1]}"))
        else:
            main = next((part for part in parts if part.color), None)
            if main is not None:
                things.append((area, f"{article(main.color)} {main.color} {main.object}"))
    words = [*([" and ".join(_largest(people, PEOPLE))] if people else []), PLACE_TEXT[place_at(clip, frame)]]
    if things and most:
        words += ["with", listed(_largest(things, most))]
    return " ".join(words)


def _largest(found: list[tuple[int, str]], most: int) -> list[str]:
    """The texts with the largest areas, each once."""
    texts = [text for _, text in sorted(found, key=lambda pair: -pair[0])]
    return list(dict.fromkeys(texts))[:most]


def place_at(clip: Clip, frame: int) -> str:
    """The kind of the place that the camera looks at."""
    x = clip.path.x[frame]
    return next((place.kind for place in clip.places if x < place.right), clip.places[-1].kind)


def vocabulary() -> list[str]:
    """All words of captions and actions, sorted."""
    sentences = [*ACTIONS, *PLACE_TEXT.values(), *DOING.values(), "a an with and", *COLORS, *CLOTHES, *HAIR]
    sentences += [*KINDS, *PARTS, *LANDMARKS, *PLACES]
    return sorted({word for sentence in sentences for word in sentence.split()} | {","})


__all__ = ["PEOPLE", "PLACE_TEXT", "THINGS", "brief_caption", "caption", "place_at", "vocabulary"]
