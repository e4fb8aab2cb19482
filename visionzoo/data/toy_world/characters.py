"""Characters: who they are, what they wear, and the shapes that they are drawn with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from .chance import Chance, split_of
from .colors import COLORS, INK, SKINS, Rgb
from .shapes import Shape, box, capsule, ellipse, moved, polygon, smooth

HAIR = ("black", "brown", "yellow", "red", "gray", "blue", "pink", "purple", "green", "orange", "white")
CLOTHES = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "gray", "white")
HEIGHTS = {"girl": 1.04, "boy": 1.04, "woman": 1.2, "man": 1.24}
KINDS = tuple(HEIGHTS)
HAIRCUTS = {
    "girl": ("long", "bunches", "bob"),
    "boy": ("short", "spiky"),
    "woman": ("long", "bob"),
    "man": ("short", "spiky"),
}
HATS = ("cap", "brimmed")

PARTS = ("hair", "shirt", "trousers", "skirt", "shoes", "hat", "bag")
"""The parts whose colours captions name."""

# Joints: where each of a character's moving frames turns, for a character of height 1
HIP, SHOULDER, NECK = 0.35, 0.58, 0.62
JOINTS = {
    "body": (0.0, HIP),
    "back leg": (-0.06, HIP),
    "front leg": (0.07, HIP),
    "back arm": (0.12, SHOULDER),
    "front arm": (-0.1, SHOULDER),
    "head": (0.0, NECK),
}


@dataclass(frozen=True)
class Character:
    """A character.

    Attributes:
        kind: "girl", "boy", "woman" or "man".
        haircut: "long", "bunches", "bob", "short" or "spiky".
        colors: part (of `PARTS`) -> name of its colour; hat and bag only if there is one, and either trousers or a skirt.
        skin: sRGB.
        hat: "cap", "brimmed" or "".
    """

    kind: str
    haircut: str
    colors: dict[str, str]
    skin: Rgb
    hat: str = ""

    @property
    def height(self) -> float:
        """In units of the world."""
        return HEIGHTS[self.kind]

    @property
    def key(self) -> tuple[str, ...]:
        """What captions say about the character; characters with the same key belong to the same split."""
        return (self.kind, *(f"{part}={color}" for part, color in sorted(self.colors.items())))

    def text(self, parts: Collection[str] = PARTS) -> str:
        """For example "a girl with black hair, a red shirt, blue trousers and brown shoes", or only some of the parts."""
        worn = [
            f"{color} {part}" if part in ("hair", "trousers", "shoes") else f"{article(color)} {color} {part}"
            for part, color in self.colors.items()
            if part in parts
        ]
        return f"a {self.kind} with {listed(worn)}" if worn else f"a {self.kind}"


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def listed(items: list[str]) -> str:
    """The items as in a sentence: "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def random_character(chance: Chance, split: str) -> Character:
    """A character that belongs to the split."""
    while True:
        kind = chance.pick(KINDS)
        lower = "skirt" if kind in ("girl", "woman") and chance.happens(0.5) else "trousers"
        colors = {"hair": chance.pick(HAIR)}
        colors["shirt"] = chance.pick(CLOTHES)
        colors[lower] = chance.pick([color for color in CLOTHES if color != colors["shirt"]])
        colors["shoes"] = chance.pick([color for color in CLOTHES if color != colors[lower]])
        hat = chance.pick(HATS) if chance.happens(0.45) else ""
        if hat:
            colors["hat"] = chance.pick([color for color in CLOTHES if color != colors["hair"]])
        if chance.happens(0.35):
            colors["bag"] = chance.pick([color for color in CLOTHES if color != colors["shirt"]])
        character = Character(kind, chance.pick(HAIRCUTS[kind]), colors, chance.pick(SKINS), hat)
        if split_of("character", *character.key) == split:
            return character


def body(character: Character) -> list[Shape]:
    """The shapes of a character of height 1 that looks to the right and slightly towards us, from back to front."""
    shapes = [*_behind(character), *_legs(character), *_trunk(character), *_head(character)]
    if character.hat:
        shapes.extend(_hat(character))
    return [*shapes, *_arm(character, "front arm")]


def _worn(
    character: Character, part: str, points, joint: str = "body", convex: bool = True, merged: bool = False
) -> Shape:
    color = character.colors[part]
    return Shape(points, part, COLORS[color], color, joint, convex, merged)


def _arm(character: Character, joint: str) -> list[Shape]:
    x, y = JOINTS[joint]
    hand = ellipse(x, y - 0.235, 0.1, 0.1)
    return [
        Shape(hand, "skin", character.skin, "", joint),
        _worn(character, "shirt", capsule(x, y, x, y - 0.17, 0.115), joint),
    ]


def _behind(character: Character) -> list[Shape]:
    """Everything behind the trunk: a bag on the back, hair, the other arm."""
    shapes = _arm(character, "back arm")
    if "bag" in character.colors:
        shapes.append(
            _worn(character, "bag", smooth((-0.36, 0.33), (-0.08, 0.33), (-0.08, 0.64), (-0.36, 0.64), rounds=1))
        )
    if character.haircut == "long":
        back = smooth((-0.27, 0.44), (0.1, 0.48), (0.22, 0.98), (-0.22, 0.98))
        shapes.append(_worn(character, "hair", back, "head"))
    elif character.haircut == "bunches":
        for index, x in enumerate((-0.25, 0.23)):
            shapes.append(_worn(character, "hair", ellipse(x, 0.72, 0.18, 0.3), "head", merged=index > 0))
    elif character.haircut == "bob":
        shapes.append(_worn(character, "hair", smooth((-0.26, 0.6), (0.2, 0.6), (0.22, 0.98), (-0.24, 0.98)), "head"))
    return shapes


def _legs(character: Character) -> list[Shape]:
    shapes = []
    for joint in ("back leg", "front leg"):
        x = JOINTS[joint][0]
        leg = capsule(x, HIP - 0.01, x, 0.09, 0.125)
        if "skirt" in character.colors:
            shapes.append(Shape(leg, "skin", character.skin, "", joint))
        else:
            shapes.append(_worn(character, "trousers", leg, joint))
        shoe = smooth((x - 0.1, 0.0), (x + 0.17, 0.0), (x + 0.15, 0.1), (x - 0.1, 0.13), rounds=1)
        shapes.append(_worn(character, "shoes", shoe, joint))
    return shapes


def _trunk(character: Character) -> list[Shape]:
    if "skirt" in character.colors:
        lower = _worn(character, "skirt", polygon((-0.26, 0.17), (0.26, 0.17), (0.14, 0.42), (-0.14, 0.42)))
    else:
        lower = _worn(character, "trousers", smooth((-0.15, 0.27), (0.15, 0.27), (0.14, 0.42), (-0.14, 0.42), rounds=1))
    shirt = _worn(character, "shirt", smooth((-0.17, 0.36), (0.17, 0.36), (0.16, 0.65), (-0.16, 0.65), rounds=1))
    return [lower, shirt]


def _head(character: Character) -> list[Shape]:
    skin = character.skin
    eye = ellipse(0, 0, 0.045, 0.085)
    shapes = [Shape(ellipse(0, 0.79, 0.4, 0.38), "skin", skin, "", "head")]
    shapes.extend(Shape(moved(eye, x, 0.775), "face", INK, "", "head") for x in (0.0, 0.125))
    shapes.append(Shape(ellipse(0.07, 0.685, 0.075, 0.028), "face", (178, 76, 76), "", "head"))
    top = ellipse(0, 0.815, 0.47, 0.43, 28, 192)
    fringe = [(-0.2, 0.79), (-0.09, 0.86), (0.02, 0.855), (0.13, 0.885)]
    if character.haircut == "spiky":
        corners = [
            (0.21, 0.9),
            (0.27, 1.0),
            (0.15, 0.985),
            (0.13, 1.08),
            (0.0, 1.0),
            (-0.07, 1.09),
            (-0.14, 0.99),
            (-0.26, 1.02),
            (-0.22, 0.9),
            (-0.26, 0.78),
        ]
        outline = polygon(*corners, *fringe)
    else:
        outline = polygon(*map(tuple, top), *fringe)
    return [*shapes, _worn(character, "hair", outline, "head", convex=False)]


def _hat(character: Character) -> list[Shape]:
    crown = moved(ellipse(0, 0, 0.44, 0.36, 0, 180), -0.005, 0.925)
    if character.hat == "cap":
        peak = smooth((0.1, 0.9), (0.36, 0.885), (0.34, 0.945), (0.1, 0.98), rounds=1)
    else:
        peak = box(-0.33, 0.895, 0.33, 0.955)
    return [_worn(character, "hat", crown, "head"), _worn(character, "hat", peak, "head", merged=True)]


__all__ = [
    "CLOTHES",
    "HAIR",
    "HIP",
    "JOINTS",
    "KINDS",
    "PARTS",
    "Character",
    "article",
    "body",
    "listed",
    "random_character",
]
