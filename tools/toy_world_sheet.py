"""Draws the pictures of docs/toy_world.md: places, characters, one frame with its truths, and an animation.

python -m tools.toy_world_sheet -o docs/images
"""

from __future__ import annotations

import argparse
import colorsys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from visionzoo.data.toy_world import Clip, Frame, ToyWorld
from visionzoo.data.toy_world.places import KINDS
from visionzoo.io.files import make_folder

Pixels = NDArray[np.uint8]
MARGIN, LINE = 6, 18
FASTEST = 16.0
"""Motion in pixels per frame that has a full colour in pictures of flow."""


def place_frames(size: tuple[int, int]) -> Iterator[tuple[str, Pixels]]:
    """Each kind of place, with a character in it."""
    for number, kind in enumerate(KINDS):
        yield kind, _clearest(number + 3, kind, size)[1].rgb


def portraits(count: int, size: tuple[int, int]) -> Iterator[tuple[str, Pixels]]:
    """Characters, each cut out of a frame that shows it whole."""
    height, width = size
    for seed in range(count):
        clip, best = _clearest(seed + 20, KINDS[seed % len(KINDS)], (height, 2 * width))
        columns = np.flatnonzero((best.instances == 1).any(axis=0))
        left = np.clip((columns[0] + columns[-1] - width) // 2, 0, width)
        yield f"{clip.characters[0].kind} {best.doing[0]}", best.rgb[:, left : left + width]


def _clearest(seed: int, kind: str, size: tuple[int, int]) -> tuple[Clip, Frame]:
    """The frame of a clip of one place that shows its character whole and largest."""
    clip = ToyWorld.create(seed, "test", places=(kind,)).film(120, size=size, start=3.4, actions=())
    return clip, max(clip.frames(motion=False), key=lambda frame: _shown(frame) * _is_whole(frame))


def _shown(frame: Frame) -> int:
    """Pixels of the first character."""
    return int((frame.instances == 1).sum())


def _is_whole(frame: Frame) -> bool:
    """Whether the first character is visible and does not touch the border of the frame."""
    own = frame.instances == 1
    border = own[0].any() or own[-1].any() or own[:, 0].any() or own[:, -1].any()
    return bool(own.any() and not border)


def truths(clip: Clip, number: int) -> list[tuple[str, Pixels]]:
    """A frame and its truths as pictures."""
    frame = clip[number]
    flat = np.array([region.rgb for region in clip.regions], np.uint8)[frame.regions]
    return [
        ("rgb", frame.rgb),
        ("ink", np.repeat(frame.ink[..., None], 3, axis=2)),
        ("regions, in their colours", flat),
        ("instances", _distinct(frame.instances)),
        (f"flow ({FASTEST:g} px/frame: full colour)", flow_colors(frame.flow)),
        ("valid", np.repeat(frame.valid[..., None], 3, axis=2).astype(np.uint8) * 255),
    ]


def _distinct(numbers: NDArray[np.uint16]) -> Pixels:
    """A colour for each number; 0 is white."""
    golden = 0.618034
    table = [(1.0, 1.0, 1.0)]
    table += [colorsys.hsv_to_rgb(k * golden % 1, 0.55 + 0.3 * (k % 2), 0.95) for k in range(1, int(numbers.max()) + 1)]
    return (np.array(table) * 255).astype(np.uint8)[numbers]


def flow_colors(flow: NDArray[np.float32], fastest: float = FASTEST) -> Pixels:
    """Flow (H, W, 2) as colours: the hue is its direction, the saturation its length over `fastest`, so that frames compare."""
    hue = (np.degrees(np.arctan2(flow[..., 1], flow[..., 0])) % 360) / 360
    saturation = np.hypot(flow[..., 0], flow[..., 1]).clip(0, fastest) / fastest
    hsv = np.stack([hue, saturation, np.ones_like(hue)], axis=-1)
    return np.asarray(Image.fromarray((hsv * 255).round().astype(np.uint8), "HSV").convert("RGB"))


def sheet(images: Sequence[tuple[str, Pixels]], columns: int, below: str = "") -> Image.Image:
    """Pictures in rows with their names below them, and a text below all."""
    height, width = images[0][1].shape[:2]
    font = ImageFont.load_default(13)
    rows = -(-len(images) // columns)
    whole = columns * (width + MARGIN) - MARGIN
    lines = _wrapped(below, font, whole)
    page = Image.new("RGB", (whole, rows * (height + LINE) + len(lines) * LINE + (6 if lines else 0)), "white")
    draw = ImageDraw.Draw(page)
    for number, (name, pixels) in enumerate(images):
        left, top = number % columns * (width + MARGIN), number // columns * (height + LINE)
        page.paste(Image.fromarray(pixels), (left, top))
        draw.text((left + width / 2, top + height + 2), name, fill="black", font=font, anchor="ma")
    for number, line in enumerate(lines):
        draw.text((whole / 2, rows * (height + LINE) + 5 + number * LINE), line, fill="black", font=font, anchor="ma")
    return page


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def animation(clip: Clip) -> list[Image.Image]:
    """Frames next to their lines, with action and caption."""
    shown = []
    for frame in clip.frames(motion=False):
        pair = [(f"camera: {frame.action}", frame.rgb), ("lines", np.repeat(frame.ink[..., None], 3, axis=2))]
        shown.append(sheet(pair, 2, f"{frame.caption}"))
    height = max(image.height for image in shown)
    return [_taller(image, height) for image in shown]


def _taller(image: Image.Image, height: int) -> Image.Image:
    page = Image.new("RGB", (image.width, height), "white")
    page.paste(image, (0, 0))
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the pictures")
    folder = make_folder(parser.parse_args(arguments).output)
    sheet(list(place_frames((210, 300))), 3).save(folder / "toy_world_places.png", optimize=True)
    sheet(list(portraits(12, (210, 147))), 6).save(folder / "toy_world_characters.png", optimize=True)
    clip = ToyWorld.create(2, "test", places=("park", "street"), characters=2).film(
        24, size=(210, 300), actions=["go right", "zoom in", "go left"]
    )
    sheet(truths(clip, 6), 3, clip[6].caption).save(folder / "toy_world_frame.png", optimize=True)
    actions = ["go right"] * 3 + ["zoom in", "zoom out"] + ["go left"] * 3
    moving = ToyWorld.create(4, "test", places=("harbour", "park"), characters=2).film(
        64, size=(210, 300), actions=actions
    )
    first, *rest = animation(moving)
    first.save(folder / "toy_world.webp", save_all=True, append_images=rest, duration=83, loop=0, quality=60, method=4)


if __name__ == "__main__":
    main()
