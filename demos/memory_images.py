"""Four images of a video that passes through a memory.

python -m visionzoo.demos.memory_images VIDEO -o FOLDER
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from visionzoo.console import fail
from visionzoo.errors import InputError, VisionZooError, writing
from visionzoo.io.files import bundled

from .memory_walk import DESIGNS, PATCH, LiteFeatures, Moment, Pixels, Walk, sample_frames, unpatched, video_frames

__all__ = ["attention_map", "cuts", "held_image", "now_image", "read_image", "rebuilt_image"]

PAPER, INK, FAINT, LINE = "#f7f7f5", "#1d1d1b", "#6b6b66", "#d8d8d2"
TIERS = ((179, 57, 31), (36, 104, 148))  # brick for the first tier, blue for the long-term one
WIDTH = 1080


def held_image(walk: Walk, moment: int | None = None) -> Image.Image:
    """Horizontal: time in the video. Vertical: the frames in memory at that time, darker if more of their tokens are held."""
    steps = len(walk.frames)
    thumbs = min(12, steps)
    thumb_w = (WIDTH - 70) // thumbs
    thumb_h = round(thumb_w * walk.frames[0].shape[0] / walk.frames[0].shape[1])
    side, plot_h, top = WIDTH - 70, 430, 60
    canvas, draw = _canvas(top + plot_h + thumb_h + 70)
    names = ("working memory", "long-term memory") if len(walk.shares) > 1 else ("memory",)
    _title(draw, f"What the memory held: {walk.design.label.lower()}, room for {walk.room} frames")
    x = 50
    for color, name in zip(TIERS, names, strict=False):
        draw.rectangle((x, 36, x + 12, 48), fill=color)
        draw.text((x + 18, 34), name, fill=INK, font=_font(14))
        x += 36 + round(draw.textlength(name, font=_font(14)))
    draw.text((x, 34), "darker: more of the frame is held", fill=FAINT, font=_font(14))
    image = np.full((steps, steps, 3), 247.0)
    for share, color in zip(walk.shares, TIERS, strict=False):
        strength = np.clip(share.T[::-1], 0, 1)[..., None] ** 0.5
        image = image * (1 - strength) + np.array(color) * strength
    plot = Image.fromarray(image.round().astype(np.uint8)).resize((side, plot_h), Image.Resampling.NEAREST)
    canvas.paste(plot, (50, top))
    for cut in cuts(walk):
        x = 50 + round(cut * side / steps)
        draw.line((x, top, x, top + plot_h), fill=LINE)
    if moment is not None:
        x = 50 + round((moment + 0.5) * side / steps)
        draw.line((x, top, x, top + plot_h), fill=INK, width=2)
    draw.rectangle((50, top, 50 + side, top + plot_h), outline=FAINT)
    label = Image.new("RGB", (plot_h, 20), PAPER)
    ImageDraw.Draw(label).text((plot_h // 2, 2), "frame that is held", fill=FAINT, font=_font(14), anchor="ma")
    canvas.paste(label.rotate(90, expand=True), (18, top))
    for number in range(thumbs):
        step = round((number + 0.5) * steps / thumbs - 0.5)
        small = Image.fromarray(walk.frames[step]).resize((thumb_w - 4, thumb_h))
        canvas.paste(small, (50 + number * thumb_w + 2, top + plot_h + 6))
    draw.text(
        (50 + side // 2, top + plot_h + thumb_h + 14),
        "the video, from left to right",
        fill=FAINT,
        font=_font(14),
        anchor="ma",
    )
    return canvas.crop((0, 0, WIDTH, top + plot_h + thumb_h + 44))


def now_image(walk: Walk, moment: Moment) -> Image.Image:
    """The content of the memory: complete frames of each tier, or its patches, the most used first."""
    parts: list[tuple[str, list[Pixels], int]] = []
    for number, (times, uses, patches, _) in enumerate(moment.held):
        long_term = number == 1
        if long_term or walk.design.label == "Most used":
            order = np.argsort(-uses, kind="stable")[:640]
            parts.append((f"{len(times):,} tokens, the most used first", [_strip(patches[order].numpy())], 0))
        else:
            whole = np.unique(times).tolist()
            parts.append((f"{len(whole)} frames", [walk.frames[step] for step in whole], 118))
    heights = [24 + (_rows(images, h) if h else images[0].shape[0]) + 14 if images else 40 for _, images, h in parts]
    canvas, draw = _canvas(44 + sum(heights))
    _title(draw, f"What is in memory before frame {moment.number}")
    y = 44
    names = ("Working memory", "Long-term memory") if len(moment.held) > 1 else ("Memory",)
    for name, (text, images, height), total, color in zip(names, parts, heights, TIERS, strict=False):
        draw.rectangle((20, y + 3, 30, y + 13), fill=color)
        draw.text((38, y), f"{name}: {text}", fill=INK, font=_font(14))
        x, row = 20, y + 24
        for image in images:
            small = Image.fromarray(image)
            if height:
                small = small.resize((round(height * small.width / small.height), height))
            if x + small.width > WIDTH - 10:
                x, row = 20, row + height + 6
            canvas.paste(small, (x, row))
            x += small.width + 6
        y += total
    return canvas


def _rows(images: Sequence[Pixels], height: int) -> int:
    width = round(height * images[0].shape[1] / images[0].shape[0]) + 6
    per_row = max(1, (WIDTH - 30) // width)
    return -(-len(images) // per_row) * (height + 6)


def _strip(patches: NDArray[np.float32]) -> Pixels:
    """Patches as a mosaic of 64 columns, each 16 pixels wide."""
    columns = 64
    rows = max(1, -(-len(patches) // columns))
    padded = np.full((rows * columns, patches.shape[1]), 0.97, np.float32)
    padded[: len(patches)] = patches
    mosaic = unpatched(torch.from_numpy(padded), (rows * PATCH, columns * PATCH, 3))
    return np.kron(mosaic, np.ones((2, 2, 1), np.uint8))


def attention_map(walk: Walk, moment: Moment, point: tuple[float, float]) -> tuple[int, NDArray[np.float64]]:
    """The token at a point (x, y in 0..1), and its attention (steps,) to the tokens held of each frame."""
    rows, columns = (side // PATCH for side in walk.frames[0].shape[:2])
    column, row = (min(int(p * n), n - 1) for p, n in zip(point, (columns, rows), strict=True))
    token = row * columns + column
    mass = np.zeros(len(walk.frames))
    times = np.concatenate([times for times, *_ in moment.held]) if moment.held else np.zeros(0, int)
    np.add.at(mass, times, moment.weights[token].double().numpy())
    return token, mass


def read_image(walk: Walk, moment: Moment, point: tuple[float, float]) -> Image.Image:
    """The frame with a point, and the frames of the memory that its token attends to, most first, with a heat map."""
    token, mass = attention_map(walk, moment, point)
    height, width = walk.frames[0].shape[:2]
    small_w = 340
    small_h = round(small_w * height / width)
    top = [step for step in np.argsort(-mass, kind="stable")[:5] if mass[step] > 0]
    canvas, draw = _canvas(50 + 2 * (small_h + 40))
    _title(draw, f"What a read attends to: one token of frame {moment.number}, and the memory")
    query = Image.fromarray(walk.frames[moment.number]).resize((small_w, small_h))
    canvas.paste(query, (20, 50))
    columns = width // PATCH
    x0, y0 = 20 + (token % columns) * PATCH * small_w / width, 50 + (token // columns) * PATCH * small_h / height
    box = PATCH * small_w / width
    draw.rectangle((x0 - 2, y0 - 2, x0 + box + 2, y0 + box + 2), outline="white", width=2)
    draw.rectangle((x0 - 4, y0 - 4, x0 + box + 4, y0 + box + 4), outline=TIERS[0], width=2)
    draw.text(
        (20, 50 + small_h + 6), f"frame {moment.number} and the token; its attention goes to", fill=INK, font=_font(14)
    )
    if not top:
        draw.text((400, 50 + small_h // 2), "the memory is still empty", fill=FAINT, font=_font(16))
    heats = _heats(walk, moment, token, top)
    for number, (step, heat) in enumerate(zip(top, heats, strict=True), 1):
        x, y = 20 + number % 3 * (small_w + 10), 50 + number // 3 * (small_h + 40)
        canvas.paste(heat.resize((small_w, small_h)), (x, y))
        draw.text((x, y + small_h + 6), f"frame {step}: {mass[step]:.0%}", fill=INK, font=_font(14))
    return canvas


def _heats(walk: Walk, moment: Moment, token: int, steps: Sequence[int]) -> list[Image.Image]:
    """The frames, grey where nothing is held, red where the token attends."""
    height, width = walk.frames[0].shape[:2]
    rows, columns = height // PATCH, width // PATCH
    images = []
    highest = max(1e-9, *moment.weights[token].tolist()) if steps else 1.0
    for step in steps:
        heat, there = np.zeros(rows * columns), np.zeros(rows * columns, bool)
        offset = 0
        frame = walk.features[step]
        for times, _, _, keys in moment.held:
            mine = np.flatnonzero(times == step)
            weights = moment.weights[token, offset : offset + len(times)].double().numpy()[mine]
            places = (keys[mine] @ frame.T).argmax(1).numpy()  # keys never change, so each is found at its own position
            np.add.at(heat, places, weights)
            there[places] = True
            offset += len(times)
        strength = np.kron(np.clip(heat / highest, 0, 1).reshape(rows, columns) ** 0.5, np.ones((PATCH, PATCH)))[
            ..., None
        ]
        held = np.kron(there.reshape(rows, columns), np.ones((PATCH, PATCH)))[..., None]
        pixels = walk.frames[step].astype(np.float64)
        grey = pixels.mean(2, keepdims=True) * 0.35 + 160
        base = np.where(held > 0, pixels * 0.75 + 25, grey)
        pixels = base * (1 - 0.85 * strength) + np.array((255, 70, 20)) * 0.85 * strength
        images.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    return images


def rebuilt_image(walk: Walk, moment: Moment) -> Image.Image:
    """The frame, the frame rebuilt from memory, and the PSNR of rebuilt frames along the video."""
    height, width = walk.frames[0].shape[:2]
    big_w = (WIDTH - 50) // 2
    big_h = round(big_w * height / width)
    canvas, draw = _canvas(50 + big_h + 30 + 170)
    _title(draw, f"Frame {moment.number}, and the same frame rebuilt from memory alone")
    canvas.paste(Image.fromarray(walk.frames[moment.number]).resize((big_w, big_h)), (20, 50))
    if moment.rebuilt is None:
        draw.text((40 + big_w, 50 + big_h // 2), "the memory is still empty", fill=FAINT, font=_font(16))
    else:
        canvas.paste(Image.fromarray(moment.rebuilt).resize((big_w, big_h)), (30 + big_w, 50))
    y, x, side, tall = 50 + big_h + 30, 60, WIDTH - 90, 120
    known = [p for p in walk.psnr if np.isfinite(p)]
    low, high = (np.floor(min(known) / 5) * 5, np.ceil(max(known) / 5) * 5 + 0.1) if known else (0, 1)
    for value in np.arange(low, high, 5):
        line = y + tall - (value - low) / (high - low) * tall
        draw.line((x, line, x + side, line), fill=LINE)
        draw.text((x - 6, line), f"{value:.0f} dB", fill=FAINT, font=_font(12), anchor="rm")
    for cut in cuts(walk):
        at = x + cut * side / len(walk.frames)
        draw.line((at, y, at, y + tall), fill=FAINT)
    points = [
        (x + (n + 0.5) * side / len(walk.frames), y + tall - (min(p, high) - low) / (high - low) * tall)
        for n, p in enumerate(walk.psnr)
        if not np.isnan(p)
    ]
    if len(points) > 1:
        draw.line(points, fill=TIERS[0], width=3, joint="curve")
    at = x + (moment.number + 0.5) * side / len(walk.frames)
    draw.line((at, y, at, y + tall), fill=INK, width=2)
    draw.text(
        (x + side / 2, y + tall + 10),
        "PSNR of the rebuilt frame along the video; thin lines: cuts",
        fill=FAINT,
        font=_font(14),
        anchor="ma",
    )
    return canvas


def cuts(walk: Walk) -> list[int]:
    """Steps with a cut: the mean feature of a frame is far from that of the previous one."""
    means = [feature.mean(0) for feature in walk.features]
    return [n for n in range(1, len(means)) if float((means[n] - means[n - 1]).norm()) > 0.25]


def _canvas(height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("RGB", (WIDTH, height), PAPER)
    return canvas, ImageDraw.Draw(canvas)


def _title(draw: ImageDraw.ImageDraw, text: str) -> None:
    draw.text((20, 8), text, fill=INK, font=_font(17))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the images of a video file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m visionzoo.demos.memory_images", description=main.__doc__)
    parser.add_argument("video", type=Path, nargs="?", help="default: a walk over the bundled sample photos")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder for the images; made if it does not exist"
    )
    parser.add_argument("--design", default="working-and-long-term", help=f"one of {', '.join(DESIGNS)}")
    parser.add_argument("--room", type=int, default=8, help="frames that the memory may hold")
    parser.add_argument("--steps", type=int, default=84, help="frames to walk through, spread over the video")
    parser.add_argument("--moment", type=float, default=0.7, help="time of the other images, from 0 (start) to 1 (end)")
    parser.add_argument(
        "--point",
        type=float,
        nargs=2,
        default=(0.5, 0.5),
        metavar=("X", "Y"),
        help="place in the frame, each from 0 to 1",
    )
    options = parser.parse_args(arguments)
    try:
        if not 0 <= options.moment <= 1 or not all(0 <= value <= 1 for value in options.point) or options.steps < 1:
            raise InputError("--moment and --point must be from 0 to 1, and --steps at least 1")
        if options.video is None:
            inputs = sample_frames(bundled(), options.steps)
        else:
            inputs = video_frames(options.video, options.steps)
        frames = tqdm(inputs, desc="features", disable=not sys.stderr.isatty())
        walk = Walk.describe(frames, LiteFeatures(), options.design, options.room)
        list(tqdm(walk.run(), total=len(walk.frames), desc="through the memory", disable=not sys.stderr.isatty()))
        moment = walk.at(round(options.moment * (len(walk.frames) - 1)))
        images = {
            "held": held_image(walk, moment.number),
            "read": read_image(walk, moment, tuple(options.point)),
            "now": now_image(walk, moment),
            "rebuilt": rebuilt_image(walk, moment),
        }
        with writing(options.output):
            options.output.mkdir(parents=True, exist_ok=True)
            for name, image in images.items():
                image.save(options.output / f"memory_{name}.jpg", quality=88)
    except VisionZooError as error:
        fail(str(error))
        return error.exit_code
    print(f"written: {', '.join(f'memory_{name}.jpg' for name in images)} in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
