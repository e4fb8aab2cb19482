"""Sentences about frames, and the words that they use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .acting import DOING
from .camera import ACTIONS
from .characters import CLOTHES, HAIR, KINDS, PARTS, article, listed
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
            people.append((area, f"{clip.characters[instance - 1].text()} {doing[instance - 1]}"))
        else:
            main = next((part for part in parts if part.color), None)
            if main is not None:
                things.append((area, f"{article(main.color)} {main.color} {main.object}"))
    words = [*([" and ".join(_largest(people, PEOPLE))] if people else []), PLACE_TEXT[place_at(clip, frame)]]
    if things:
        words += ["with", listed(_largest(things, THINGS))]
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


__all__ = ["PEOPLE", "PLACE_TEXT", "THINGS", "caption", "place_at", "vocabulary"]
