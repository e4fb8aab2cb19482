"""The named colours of the toy world."""

from __future__ import annotations

Rgb = tuple[int, int, int]

COLORS: dict[str, Rgb] = {
    "red": (214, 48, 49),
    "orange": (240, 142, 44),
    "yellow": (250, 216, 78),
    "green": (62, 160, 76),
    "blue": (48, 98, 208),
    "purple": (136, 70, 172),
    "pink": (246, 150, 184),
    "brown": (132, 84, 52),
    "black": (48, 46, 56),
    "gray": (148, 152, 160),
    "white": (246, 246, 242),
}
"""Name -> sRGB. Everything that a caption names has exactly one of these colours."""

INK: Rgb = (36, 32, 42)
"""The colour of lines, eyes and mouths."""

SKINS: tuple[Rgb, ...] = ((250, 220, 192), (236, 190, 150), (192, 134, 94), (124, 82, 60))


def tinted(rgb: Rgb, by: tuple[float, float, float]) -> Rgb:
    """A colour with `by` added to its channels, within 0 to 255."""
    red, green, blue = (min(255, max(0, round(value + change))) for value, change in zip(rgb, by, strict=True))
    return red, green, blue


__all__ = ["COLORS", "INK", "SKINS", "Rgb", "tinted"]
