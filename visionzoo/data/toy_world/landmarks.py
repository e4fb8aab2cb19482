"""Things that stand in places: doors, trees, lamps, boats. Each is drawn from a seed, with one named colour."""

from __future__ import annotations

from collections.abc import Callable

from .chance import Chance
from .colors import COLORS, Rgb
from .shapes import Shape, box, capsule, ellipse, moved, polygon, smooth

WOOD: Rgb = (150, 104, 66)
METAL: Rgb = (96, 100, 112)
GLASS: Rgb = (196, 226, 240)

Builder = Callable[[Chance, str, Rgb], list[Shape]]


def _shape(points, rgb: Rgb, color: str = "", convex: bool = True, merged: bool = False) -> Shape:
    """A part of a landmark; the part that has the named colour is called "main"."""
    return Shape(points, "main" if color else "detail", rgb, color, "body", convex, merged)


def door(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    height, width = chance.between(1.5, 1.8), chance.between(0.7, 0.9)
    return [
        _shape(box(-width / 2 - 0.09, 0, width / 2 + 0.09, height + 0.09), (228, 220, 206)),
        _shape(box(-width / 2, 0, width / 2, height), rgb, color),
        _shape(ellipse(width / 2 - 0.14, height * 0.48, 0.12, 0.12), COLORS["yellow"]),
    ]


def window(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    width, height, low = chance.between(0.9, 1.3), chance.between(0.8, 1.1), chance.between(0.8, 1.0)
    half = width / 2
    return [
        _shape(box(-half, low, half, low + height), GLASS),
        _shape(box(-0.04, low, 0.04, low + height), (246, 244, 238)),
        _shape(box(-half - 0.24, low - 0.1, -half + 0.1, low + height + 0.1), rgb, color),
        _shape(box(half - 0.1, low - 0.1, half + 0.24, low + height + 0.1), rgb, color),
    ]


def shelf(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    width, height = chance.between(0.9, 1.3), chance.between(1.2, 1.7)
    shapes = [_shape(box(-width / 2, 0, width / 2, height), rgb, color)]
    for row in range(2):
        low = height * (0.12 + 0.44 * row)
        shapes.append(_shape(box(-width / 2 + 0.09, low, width / 2 - 0.09, low + height * 0.34), (238, 228, 212)))
        left = -width / 2 + 0.13
        for _ in range(3):
            thick, tall = chance.between(0.13, 0.22), chance.between(0.2, 0.32)
            book = COLORS[chance.pick(("red", "blue", "green", "orange", "purple"))]
            shapes.append(_shape(box(left, low, left + thick, low + height * tall), book))
            left += thick + 0.03
    return shapes


def sofa(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    half = chance.between(0.7, 0.95)
    return [
        _shape(smooth((-half, 0.1), (half, 0.1), (half, 0.85), (-half, 0.85)), rgb, color),
        _shape(box(-half + 0.1, 0.08, half - 0.1, 0.42), rgb, color),
        _shape(capsule(-half, 0.12, -half, 0.5, 0.24), rgb, color),
        _shape(capsule(half, 0.12, half, 0.5, 0.24), rgb, color),
    ]


def lamp(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    height = chance.between(1.3, 1.6)
    return [
        _shape(box(-0.05, 0, 0.05, height), METAL),
        _shape(ellipse(0, 0.04, 0.4, 0.12), METAL),
        _shape(
            polygon((-0.34, height - 0.1), (0.34, height - 0.1), (0.18, height + 0.36), (-0.18, height + 0.36)),
            rgb,
            color,
        ),
    ]


def tree(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    trunk, size = chance.between(0.7, 1.0), chance.between(0.9, 1.3)
    shapes = [_shape(polygon((-0.14, 0), (0.14, 0), (0.09, trunk + 0.3), (-0.09, trunk + 0.3)), WOOD)]
    for index, (x, y, scale) in enumerate(((-0.36, 0.24, 0.8), (0.36, 0.24, 0.8), (0, 0.55, 1.0))):
        crown = ellipse(x * size, trunk + y * size, size * scale, size * scale * 0.92)
        shapes.append(_shape(crown, rgb, color, merged=index > 0))
    return shapes


def pine(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    width, height = chance.between(0.9, 1.2), chance.between(1.9, 2.4)
    shapes = [_shape(box(-0.1, 0, 0.1, 0.4), WOOD)]
    for row in range(3):
        low, half = 0.3 + row * height * 0.25, width / 2 * (1 - 0.22 * row)
        shapes.append(_shape(polygon((-half, low), (half, low), (0, low + height * 0.42)), rgb, color))
    return shapes


def palm(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    height, lean = chance.between(1.5, 1.9), chance.between(-0.4, 0.4)
    shapes = [_shape(polygon((-0.12, 0), (0.12, 0), (lean + 0.07, height), (lean - 0.07, height)), WOOD)]
    for index, (x, y) in enumerate(((-0.75, -0.22), (0.75, -0.22), (-0.5, 0.34), (0.5, 0.34))):
        leaf = smooth((0, 0), (x * 0.4, y * 0.5 + 0.2), (x, y), (x * 0.4, y * 0.4 - 0.06))
        shapes.append(_shape(moved(leaf, lean, height), rgb, color, False, merged=index > 0))
    return shapes


def bush(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    size = chance.between(0.5, 0.7)
    places = ((-0.6, 0.4, 0.9), (0.6, 0.4, 0.9), (0, 0.55, 1.2))
    return [
        _shape(ellipse(x * size, y * size, size * scale, size * scale), rgb, color, merged=index > 0)
        for index, (x, y, scale) in enumerate(places)
    ]


def bench(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    half = chance.between(0.6, 0.8)
    return [
        _shape(box(-half + 0.08, 0, -half + 0.2, 0.5), METAL),
        _shape(box(half - 0.2, 0, half - 0.08, 0.5), METAL),
        _shape(box(-half, 0.56, half, 0.8), rgb, color),
        _shape(box(-half, 0.3, half, 0.47), rgb, color),
    ]


def lantern(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    height = chance.between(1.7, 2.1)
    return [
        _shape(box(-0.055, 0, 0.055, height), METAL),
        _shape(box(-0.13, 0, 0.13, 0.14), METAL),
        _shape(polygon((-0.13, height), (0.13, height), (0.2, height + 0.38), (-0.2, height + 0.38)), rgb, color),
    ]


def house(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    half, height = chance.between(0.9, 1.2), chance.between(1.5, 2.0)
    roof = chance.pick(((176, 92, 74), (112, 108, 128), (146, 108, 84)))
    shapes = [_shape(box(-half, 0, half, height), rgb, color)]
    shapes.append(
        _shape(
            polygon(
                (-half - 0.18, height), (half + 0.18, height), (half * 0.5, height + 0.6), (-half * 0.5, height + 0.6)
            ),
            roof,
        )
    )
    shapes.append(_shape(box(-0.2, 0, 0.24, 0.82), WOOD))
    for x in (-half * 0.62, half * 0.62):
        shapes.append(_shape(box(x - 0.2, height * 0.55, x + 0.2, height * 0.55 + 0.42), GLASS))
    return shapes


def car(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    half = chance.between(0.85, 1.0)
    return [
        _shape(polygon((-half * 0.55, 0.5), (half * 0.6, 0.5), (half * 0.36, 0.95), (-half * 0.4, 0.95)), GLASS),
        _shape(smooth((-half, 0.14), (half, 0.14), (half, 0.58), (-half, 0.6), rounds=1), rgb, color),
        _shape(ellipse(-half * 0.58, 0.16, 0.36, 0.36), (66, 66, 74)),
        _shape(ellipse(half * 0.58, 0.16, 0.36, 0.36), (66, 66, 74)),
    ]


def sign(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    height = chance.between(1.2, 1.5)
    face = chance.pick(
        (ellipse(0, 0, 0.56, 0.56), box(-0.36, -0.2, 0.36, 0.24), polygon((-0.34, -0.24), (0.34, -0.24), (0, 0.36)))
    )
    return [_shape(box(-0.05, 0, 0.05, height), METAL), _shape(moved(face, 0, height), rgb, color)]


def boat(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    half, mast = chance.between(0.7, 0.95), chance.between(1.2, 1.6)
    return [
        _shape(box(-0.04, 0.3, 0.04, mast), WOOD),
        _shape(polygon((0.08, 0.48), (half * 0.8, 0.48), (0.08, mast)), (244, 240, 230)),
        _shape(polygon((-half * 0.7, 0), (half * 0.7, 0), (half, 0.42), (-half, 0.42)), rgb, color),
    ]


def parasol(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    height = chance.between(1.3, 1.6)
    return [
        _shape(box(-0.04, 0, 0.04, height), WOOD),
        _shape(moved(ellipse(0, 0, 1.5, 0.95, 0, 180), 0, height - 0.05), rgb, color),
    ]


def ball(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    size = chance.between(0.4, 0.55)
    return [
        _shape(ellipse(0, size / 2, size, size), rgb, color),
        _shape(ellipse(0, size / 2, size * 0.36, size), (244, 240, 230)),
    ]


def rock(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    half, top = chance.between(0.4, 0.65), chance.between(0.4, 0.6)
    corners = (
        (-half, 0),
        (half, 0),
        (half * 0.9, top * 0.6),
        (half * chance.between(-0.2, 0.3), top),
        (-half * 0.8, top * 0.65),
    )
    return [_shape(smooth(*corners, rounds=1), rgb, color)]


def mushroom(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    size = chance.between(0.45, 0.65)
    return [
        _shape(polygon((-0.1, 0), (0.1, 0), (0.07, size * 0.7), (-0.07, size * 0.7)), (240, 230, 208)),
        _shape(moved(ellipse(0, 0, size * 1.3, size, 0, 180), 0, size * 0.55), rgb, color),
    ]


def crate(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    side = chance.between(0.5, 0.75)
    return [
        _shape(box(-side / 2, 0, side / 2, side), rgb, color),
        _shape(box(-side / 2, side * 0.4, side / 2, side * 0.6), WOOD),
    ]


def lighthouse(chance: Chance, color: str, rgb: Rgb) -> list[Shape]:
    height = chance.between(2.2, 2.7)
    shapes = [_shape(polygon((-0.4, 0), (0.4, 0), (0.24, height), (-0.24, height)), (246, 242, 232))]
    for row in (0.18, 0.58):
        low, high = height * row, height * (row + 0.18)
        wide = [0.4 - 0.16 * y / height for y in (low, high)]
        shapes.append(_shape(polygon((-wide[0], low), (wide[0], low), (wide[1], high), (-wide[1], high)), rgb, color))
    shapes.append(_shape(box(-0.18, height, 0.18, height + 0.26), COLORS["yellow"]))
    shapes.append(_shape(polygon((-0.26, height + 0.26), (0.26, height + 0.26), (0, height + 0.5)), rgb, color))
    return shapes


GREENERY = ("green", "orange", "yellow", "red", "pink")
ANY = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")

LANDMARKS: dict[str, tuple[Builder, tuple[str, ...]]] = {
    "door": (door, ("red", "green", "blue", "brown", "white", "purple")),
    "window": (window, ANY),
    "shelf": (shelf, ("brown", "gray", "white", "green", "blue")),
    "sofa": (sofa, ANY),
    "lamp": (lamp, ANY),
    "tree": (tree, GREENERY),
    "pine": (pine, ("green", "blue", "yellow", "brown")),
    "palm": (palm, ("green", "yellow", "orange")),
    "bush": (bush, GREENERY),
    "bench": (bench, ("brown", "red", "green", "blue", "yellow", "purple")),
    "lantern": (lantern, ("yellow", "orange", "red", "white", "blue")),
    "house": (house, ("red", "yellow", "blue", "white", "pink", "orange", "green", "gray")),
    "car": (car, ("red", "yellow", "green", "blue", "black", "white", "orange")),
    "sign": (sign, ("red", "blue", "yellow", "green", "orange")),
    "boat": (boat, ("red", "blue", "green", "brown", "orange", "purple")),
    "parasol": (parasol, ANY),
    "ball": (ball, ("red", "blue", "green", "orange", "purple", "pink")),
    "rock": (rock, ("gray", "brown", "black", "white")),
    "mushroom": (mushroom, ("red", "brown", "purple", "orange", "white")),
    "crate": (crate, ("brown", "red", "blue", "green", "yellow", "gray")),
    "lighthouse": (lighthouse, ("red", "blue", "black", "green")),
}
"""Kind -> (its builder, the colours it may have)."""


def build_landmark(kind: str, chance: Chance) -> tuple[str, list[Shape]]:
    """A landmark of this kind: the name of its colour, and its shapes around (0, 0), the point where it stands."""
    builder, colors = LANDMARKS[kind]
    color = chance.pick(colors)
    return color, builder(chance, color, COLORS[color])


__all__ = ["LANDMARKS", "build_landmark"]
