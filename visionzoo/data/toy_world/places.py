"""Places: stages side by side, each with a floor, a backdrop and landmarks."""

from __future__ import annotations

from dataclasses import dataclass

from .chance import SPLITS, Chance, split_of
from .colors import Rgb, tinted
from .landmarks import build_landmark
from .shapes import Shape, box, ellipse, polygon

BACK = 5.0
"""Depth of the backdrops, in units of the world: the camera's own depth is 0 to `camera.DEEPEST`."""

FRONT = 0.85
"""Depth at which the floor begins."""

FAR = 40.0
"""How far the first and the last place reach beyond the world's ends, and how tall the backdrops are."""

PALETTES = 40
"""Number of palettes of each kind of place; a palette belongs to one split."""


@dataclass(frozen=True)
class Standing:
    """Something that stands upright at one spot.

    Attributes:
        name: its kind, e.g. "tree"; "" if captions never mention it.
        color: the name of its colour.
        x, depth: where it stands.
        shapes: around the point where it stands.
        height: how far above the floor.
    """

    name: str
    color: str
    x: float
    depth: float
    shapes: tuple[Shape, ...]
    height: float = 0.0


@dataclass(frozen=True)
class Place:
    """One place.

    Attributes:
        kind: e.g. "park".
        palette: number of its palette.
        left, right: where it begins and ends.
        floor: shapes on the floor, as (x, depth).
        backdrop: shapes at depth `BACK`, as (x, height).
        landmarks: the things that stand in it.
    """

    kind: str
    palette: int
    left: float
    right: float
    floor: tuple[Shape, ...]
    backdrop: tuple[Shape, ...]
    landmarks: tuple[Standing, ...]


# floor, strip on the floor (or none), wall or sky, something in front of it (or none)
_TONES: dict[str, tuple[Rgb, Rgb | None, Rgb, Rgb | None]] = {
    "room": ((206, 170, 130), (190, 120, 110), (232, 214, 186), (204, 182, 152)),
    "park": ((150, 204, 116), (226, 206, 160), (176, 222, 248), (108, 170, 112)),
    "street": ((176, 176, 184), (120, 122, 132), (190, 214, 240), (162, 148, 168)),
    "beach": ((246, 224, 168), (92, 176, 214), (160, 220, 250), None),
    "forest": ((118, 156, 92), (150, 122, 86), (196, 224, 206), (74, 120, 86)),
    "harbour": ((196, 186, 174), (74, 136, 180), (206, 222, 236), (140, 152, 176)),
}
KINDS = tuple(_TONES)
THINGS: dict[str, tuple[str, ...]] = {
    "room": ("door", "window", "shelf", "sofa", "lamp"),
    "park": ("tree", "bench", "lantern", "bush", "ball"),
    "street": ("house", "car", "lantern", "sign", "tree"),
    "beach": ("palm", "parasol", "boat", "ball", "rock"),
    "forest": ("pine", "mushroom", "rock", "bush", "tree"),
    "harbour": ("boat", "crate", "lighthouse", "house", "sign"),
}
_ON_THE_WALL = ("door", "window", "shelf", "house", "lighthouse")
_SMALL = ("ball", "mushroom", "rock", "crate")


def palettes(kind: str, split: str) -> list[int]:
    """Numbers of the palettes of a kind of place that belong to a split."""
    found = [number for number in range(PALETTES) if split_of("palette", kind, number) == split]
    if not found:  # every kind has some in each split; a test checks it
        raise AssertionError(f"no palette of {kind} belongs to {split}")
    return found


def build_place(kind: str, split: str, chance: Chance, left: float, is_first: bool, is_last: bool) -> Place:
    """A place of this kind that begins at `left`; its palette belongs to the split."""
    assert split in SPLITS
    number = chance.pick(palettes(kind, split))
    floor, strip, wall, front = _palette(kind, number)
    right = left + chance.between(6.0, 7.5)
    low, high = left - FAR * is_first, right + FAR * is_last
    ground = [Shape(_on_floor(low, high, FRONT, BACK), "floor", floor)]
    if strip is not None:
        ground.append(Shape(_on_floor(low, high, *_strip(kind, chance)), "strip", strip))
    back = [Shape(box(low, -0.02, high, FAR), "sky" if kind != "room" else "wall", wall)]
    if front is not None:
        back.extend(_front(kind, chance, low, high, left, right, front))
    return Place(kind, number, left, right, tuple(ground), tuple(back), tuple(_landmarks(kind, chance, left, right)))


def _palette(kind: str, number: int) -> tuple[Rgb, Rgb | None, Rgb, Rgb | None]:
    """The kind's tones, all moved towards warm, cold, light or dark in a way of the palette's own."""
    chance = Chance("palette", kind, number)

    def changed(rgb: Rgb | None) -> Rgb | None:
        light = chance.between(-26, 14)
        return (
            None
            if rgb is None
            else tinted(
                rgb, (light + chance.between(-24, 24), light + chance.between(-14, 14), light + chance.between(-24, 24))
            )
        )

    floor, strip, wall, front = (changed(rgb) for rgb in _TONES[kind])
    assert floor is not None
    assert wall is not None
    return floor, strip, wall, front


def _on_floor(left: float, right: float, near: float, far: float):
    return polygon((left, near), (right, near), (right, far), (left, far))


def _strip(kind: str, chance: Chance) -> tuple[float, float]:
    """Where the strip on the floor begins and ends: a carpet or path in the middle, or water at the back."""
    if kind in ("beach", "harbour"):
        return chance.between(3.2, 3.6), BACK
    near = chance.between(1.5, 1.9)
    return near, near + chance.between(0.7, 1.2)


def _front(kind: str, chance: Chance, low: float, high: float, left: float, right: float, rgb: Rgb) -> list[Shape]:
    """What stands before the wall or the sky: a skirting board, hills, a skyline or trees."""
    if kind == "room":
        return [Shape(box(low, 0, high, chance.between(0.3, 0.6)), "front", rgb)]
    shapes, x = [], low if low == left else left - 12
    stop = high if high == right else right + 12
    while x < stop:
        width, height = chance.between(1.4, 2.8), chance.between(0.5, 1.1)
        if kind == "street":
            points = box(x, 0, x + width * 0.6, height + 0.8)
        else:
            points = ellipse(x + width / 2, 0, width * 1.5, height * 2, 0, 180)
        inside = points.copy()
        inside[:, 0] = inside[:, 0].clip(low, high)
        shapes.append(Shape(inside, "front", rgb, merged=kind != "street" and bool(shapes)))
        x += width * (0.62 if kind == "street" else 0.9)
    return shapes


def _landmarks(kind: str, chance: Chance, left: float, right: float) -> list[Standing]:
    """Three to five things, spread over the place; those of the wall stand at the back, small ones in front."""
    names = chance.shuffled(THINGS[kind])[: chance.whole(4, 5)]
    names.append(chance.pick(THINGS[kind]))
    width = (right - left - 0.8) / len(names)
    found = []
    for index, name in enumerate(names):
        x = left + 0.4 + width * (index + chance.between(0.25, 0.75))
        if name in _ON_THE_WALL:
            depth = BACK - 0.06
        elif name == "boat":
            depth = chance.between(4.2, 4.8)
        elif name in _SMALL:
            depth = chance.between(2.5, 3.2)
        else:
            depth = chance.between(3.1, 4.6)
        color, shapes = build_landmark(name, chance)
        found.append(Standing(name, color, x, depth, tuple(shapes)))
    return found


__all__ = ["BACK", "FAR", "FRONT", "KINDS", "THINGS", "Place", "Standing", "build_place", "palettes"]
