"""Generates synthetic aerial images without haze from seeds: fields, woods, water, relief, roads and houses seen from above.

They do not replace photos, but contain things that haze removal must not mistake for haze: bright roofs and soil, dark water,
shadows, and detail down to the pixel.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tqdm import tqdm

from visionzoo.errors import InputError

from .haze import lattice_noise

Array = NDArray[np.float32]

CROPS = (
    (96, 117, 66),
    (128, 138, 84),
    (150, 138, 98),
    (176, 160, 118),
    (74, 94, 52),
    (140, 118, 88),
    (112, 98, 74),
    (160, 168, 110),
)
DRY = ((196, 172, 138), (178, 150, 116), (210, 194, 164), (150, 124, 98), (222, 210, 188))
ROCK = ((128, 122, 116), (150, 144, 138), (102, 98, 92), (226, 228, 232), (182, 178, 172))
WOOD = ((42, 62, 38), (54, 74, 44), (66, 84, 48), (36, 54, 40))
WATER = ((34, 58, 74), (46, 74, 80), (28, 46, 62), (58, 84, 78))
ROOFS = ((150, 82, 62), (172, 104, 78), (86, 84, 86), (118, 116, 116), (214, 212, 206), (236, 236, 232), (98, 70, 58))
SMALLEST = 64


@dataclass(frozen=True)
class _Kind:
    """The composition of a scene: shares of its area, and the colours of its ground."""

    ground: tuple[tuple[int, int, int], ...]
    woods: tuple[float, float]
    water: tuple[float, float]
    houses: tuple[float, float]
    relief: tuple[float, float]


KINDS = (
    _Kind(CROPS, (0.0, 0.3), (0.0, 0.05), (0.0, 0.15), (0.0, 0.3)),  # farmland
    _Kind(CROPS + ROCK[:3], (0.0, 0.15), (0.0, 0.1), (0.5, 0.95), (0.0, 0.1)),  # town
    _Kind(WOOD + CROPS[:2], (0.5, 0.9), (0.0, 0.2), (0.0, 0.05), (0.1, 0.6)),  # woods
    _Kind(DRY + CROPS[:1], (0.0, 0.1), (0.3, 0.6), (0.0, 0.4), (0.0, 0.3)),  # coast
    _Kind(DRY, (0.0, 0.03), (0.0, 0.02), (0.0, 0.2), (0.3, 1.0)),  # desert
    _Kind(ROCK + WOOD[:1], (0.0, 0.3), (0.0, 0.05), (0.0, 0.0), (0.6, 1.2)),  # mountains, snow
)


def aerial_scene(side: int, seed: int) -> NDArray[np.uint8]:
    """A synthetic aerial image, (side, side, 3) uint8 RGB; the same seed gives the same image.

    Raises:
        InputError: the side is below 64 pixels.
    """
    if side < SMALLEST:
        raise InputError(f"a scene must have at least {SMALLEST} pixels a side, got {side}")
    rng = np.random.default_rng((seed, side))
    kind = KINDS[rng.integers(len(KINDS))]
    metre = float(np.exp(rng.uniform(np.log(0.25), np.log(5))))  # pixels
    sun = rng.uniform(0, 2 * np.pi)
    scene = _fields(side, rng, kind, metre)
    scene *= _relief(side, rng, sun, rng.uniform(*kind.relief))[..., None]
    _fill_water(scene, rng, rng.uniform(*kind.water))
    image = Image.fromarray(_bytes(scene)).resize((2 * side, 2 * side), Image.Resampling.BILINEAR)
    land = ~(scene[..., 2] > scene[..., 0] + 12) | (scene.mean(-1) > 110)
    _draw_roads(image, rng, metre)
    _draw_houses(image, rng, land, metre, rng.uniform(*kind.houses), sun)
    _draw_trees(image, rng, land, metre, rng.uniform(*kind.woods), sun)
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float32)
    return _as_photographed(pixels, rng)


def draw_sky(height: int, width: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A bright, smooth sky without haze, (height, width, 3) uint8, and its mask above an uneven horizon, (height, width).

    A network must learn not to change it, although it looks like very dense haze.
    """
    top = np.cumsum([rng.uniform(60, 170), rng.uniform(5, 50), rng.uniform(5, 40)])  # from grey to blue
    low = np.full(3, rng.uniform(190, 250)) + rng.normal(0, 6, 3)
    share = np.linspace(0, 1, height)[:, None, None] ** rng.uniform(0.5, 2)
    cell = max(height, width) * rng.uniform(0.2, 0.8)
    clouds = lattice_noise(int(rng.integers(2**62)), 0, 0, height, width, cell)[..., None] * rng.uniform(0, 60)
    sky = top * (1 - share) + low * share + clouds + rng.normal(0, rng.uniform(0.3, 1.5), (height, width, 3))
    line = lattice_noise(int(rng.integers(2**62)), 0, 0, 1, width, width / 4)[0]
    line = line + 0.3 * lattice_noise(int(rng.integers(2**62)), 0, 0, 1, width, width / 40)[0]
    horizon = height * (rng.uniform(0.2, 0.8) + rng.uniform(0, 0.3) * line)
    return _bytes(sky.astype(np.float32)), np.arange(height)[:, None] < horizon


def _fractal(side: int, rng: np.random.Generator, cell: float, persistence: float = 0.5, octaves: int = 6) -> Array:
    """Noise at several scales, with mean 0 and standard deviation 1."""
    seed, total, weight = int(rng.integers(2**62)), np.zeros((side, side), np.float32), 1.0
    for octave in range(octaves):
        if cell < 2:
            break
        total += np.float32(weight) * lattice_noise(seed + octave, 0, 0, side, side, cell)
        cell, weight = cell / 2, weight * persistence
    return (total - total.mean()) / max(float(total.std()), 1e-6)


def _fields(side: int, rng: np.random.Generator, kind: _Kind, metre: float) -> Array:
    """The ground in patches with borders, each with its own colour, furrows and grain."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    bend = 0.03 * side * rng.uniform(0, 1)
    y, x = y + bend * _fractal(side, rng, side / 3, 0.4, 3), x + bend * _fractal(side, rng, side / 3, 0.4, 3)
    turn = rng.uniform(0, np.pi)
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    count = int(np.clip((side / (metre * rng.uniform(60, 250))) ** 2, 3, 48))
    centres = rng.uniform(-0.2, 1.2, (count, 2)).astype(np.float32) * side * 1.4
    centres[:, 1] -= 0.7 * side * (np.sin(turn) > 0)
    square = rng.random() < 0.6  # farmland is parcelled in right angles
    best, label, second = np.full((side, side), np.inf, np.float32), np.zeros((side, side), np.int64), None
    second = best.copy()
    for number, (a, b) in enumerate(centres):
        du, dv = np.abs(u - a), np.abs(v - b)
        distance = np.maximum(du, 1.7 * dv) if square else np.hypot(du, dv)
        nearer = distance < best
        second = np.where(nearer, best, np.minimum(second, distance))
        label, best = np.where(nearer, number, label), np.where(nearer, distance, best)
    colours = np.array(kind.ground, np.float32)[rng.integers(len(kind.ground), size=count)]
    colours *= rng.uniform(0.8, 1.2, (count, 1)).astype(np.float32)
    colours += rng.normal(0, 4, (count, 3)).astype(np.float32)
    scene = colours[label]
    angle = rng.choice([0.0, np.pi / 2], size=count) + rng.normal(0, 0.1, count)
    period = np.maximum(2.5, metre * rng.uniform(1, 12, count))
    strength = rng.uniform(0, 0.12, count) * (rng.random(count) < 0.7)
    along = np.cos(angle)[label] * u + np.sin(angle)[label] * v
    furrows = np.sin(2 * np.pi * along / period[label]) * strength[label]
    patchy = 0.06 * _fractal(side, rng, side / 4, 0.6) * rng.uniform(0.3, 1.5)
    grain = rng.uniform(0.02, 0.1) * _fractal(side, rng, 8, 0.9, 3)
    edge = np.where(second - best < max(1.5, 2 * metre), rng.uniform(0.75, 1.1), 1.0)
    return (scene * (1 + furrows + patchy + grain)[..., None] * edge[..., None]).astype(np.float32)


def _relief(side: int, rng: np.random.Generator, sun: float, strength: float) -> Array:
    """Brightness of slopes: 1 on level ground."""
    height = _fractal(side, rng, side * rng.uniform(0.2, 0.8), 0.5, 8) * side * 0.03
    down, right = np.gradient(height)
    shade = 1 + strength * 1.1 * (np.cos(sun) * right + np.sin(sun) * down)
    return np.clip(shade, 0.35, 1.4).astype(np.float32)


def _fill_water(scene: Array, rng: np.random.Generator, share: float) -> None:
    """Lakes or a sea in the lowest part of the land, with a shore."""
    if share < 0.01:
        return
    level = _fractal(len(scene), rng, len(scene) * rng.uniform(0.3, 1.2), 0.45)
    depth = np.quantile(level, share) - level
    colour = np.array(WATER[rng.integers(len(WATER))], np.float32)
    waves = 1 + 0.05 * _fractal(len(scene), rng, 6, 0.8, 2)
    scene[(depth > -0.06) & (depth <= 0)] *= 1.15
    shallow = np.exp(-np.maximum(depth, 0) / 0.15)[..., None] * 40
    water = depth > 0
    scene[water] = ((colour + shallow) * waves[..., None])[water]


def _draw_roads(image: Image.Image, rng: np.random.Generator, metre: float) -> None:
    pen, size = ImageDraw.Draw(image), image.width
    for _ in range(rng.integers(0, 6)):
        width = 2 * metre * rng.choice([3.0, 6.0, 12.0, 24.0])
        if width < 1:
            continue
        grey = int(rng.uniform(90, 190))
        tint = (grey, grey, int(grey * rng.uniform(0.9, 1.0)))
        start, angle = rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi)
        points = []
        for step in np.linspace(-1.5 * size, 1.5 * size, 40):
            bend = rng.normal(0, 0.004) * size
            points.append(tuple(start + step * np.array([np.cos(angle), np.sin(angle)]) + bend))
        pen.line(points, fill=tint, width=max(1, round(width)), joint="curve")
        if width > 12:
            pen.line(points, fill=(225, 225, 215), width=max(1, round(width / 24)), joint="curve")


def _draw_houses(
    image: Image.Image, rng: np.random.Generator, land: NDArray, metre: float, share: float, sun: float
) -> None:
    """Rows of rectangular roofs in a turned grid, each with a shadow and, if it has a gable, two sides."""
    size, pitch = image.width, 2 * metre * rng.uniform(18, 45)
    if share < 0.02 or pitch < 8:
        return
    pen, turn, density = ImageDraw.Draw(image), rng.uniform(0, np.pi / 2), 0.3 + 0.7 * share
    where = _fractal(64, rng, 24, 0.5, 3)
    limit = np.quantile(where, 1 - share)
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    shadow = np.array([np.cos(sun), np.sin(sun)]) * 2 * metre
    cells = int(1.5 * size / pitch) + 1
    for row in range(-cells, cells):
        for column in range(-cells, cells):
            centre = (
                size / 2 + (row + rng.normal(0, 0.08)) * pitch * along + (column + rng.normal(0, 0.08)) * pitch * across
            )
            place = (centre / size * 64).astype(int)
            if (place < 0).any() or (place > 63).any() or where[place[1], place[0]] < limit or rng.random() > density:
                continue
            spot = np.clip((centre / 2).astype(int), 0, len(land) - 1)
            if not land[spot[1], spot[0]]:
                continue
            half = pitch * rng.uniform(0.18, 0.42, 2)
            corners = np.array(
                [s * half[0] * along + t * half[1] * across for s, t in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            )
            high = rng.uniform(3, 12)
            pen.polygon([tuple(p) for p in centre + corners + shadow * high * 0.5], fill=(38, 40, 42))
            roof = np.clip(np.array(ROOFS[rng.integers(len(ROOFS))]) * rng.uniform(0.85, 1.12), 0, 255)
            pen.polygon([tuple(p) for p in centre + corners], fill=tuple(int(c) for c in roof))
            if rng.random() < 0.6:
                lit = tuple(int(c) for c in np.clip(roof * rng.uniform(0.65, 0.85), 0, 255))
                middle = [(corners[0] + corners[3]) / 2, (corners[1] + corners[2]) / 2]
                pen.polygon([tuple(p + centre) for p in (corners[0], corners[1], middle[1], middle[0])], fill=lit)


def _draw_trees(
    image: Image.Image, rng: np.random.Generator, land: NDArray, metre: float, share: float, sun: float
) -> None:
    size, radius = image.width, max(2.0, 2 * metre * rng.uniform(2, 5))
    if share < 0.01:
        return
    pen, where = ImageDraw.Draw(image), _fractal(64, rng, 20, 0.6, 4)
    limit = np.quantile(where, 1 - share)
    count = int(min(9000, 1.6 * share * (size / radius / 1.4) ** 2))
    points = rng.uniform(0, size, (count, 2))
    place = np.clip((points / size * 64).astype(int), 0, 63)
    points = points[where[place[:, 1], place[:, 0]] >= limit]
    sides = radius * rng.uniform(0.6, 1.3, len(points))
    dark = np.array([np.cos(sun), np.sin(sun)])
    for (x, y), r in zip(points, sides, strict=True):
        spot = min(int(y / 2), len(land) - 1), min(int(x / 2), len(land) - 1)
        if not land[spot]:
            continue
        colour = np.array(WOOD[rng.integers(len(WOOD))]) * rng.uniform(0.8, 1.35)
        sx, sy = x + dark[0] * r * 0.9, y + dark[1] * r * 0.9
        pen.ellipse((sx - r, sy - r, sx + r, sy + r), fill=(24, 30, 24))
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tuple(int(c) for c in colour))
        lx, ly, q = x - dark[0] * r * 0.35, y - dark[1] * r * 0.35, 0.5 * r
        pen.ellipse((lx - q, ly - q, lx + q, ly + q), fill=tuple(int(min(255, c * 1.25)) for c in colour))


def _as_photographed(pixels: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Contrast, colour balance, sharpness and noise of a camera."""
    side = len(pixels)
    grain = (1 + 0.03 * _fractal(side, rng, 4, 1.0, 2))[..., None]
    balance = rng.uniform(0.95, 1.05, 3).astype(np.float32)
    light = (pixels * grain - 110) * rng.uniform(0.75, 1.15) + 110 + rng.uniform(-20, 12)
    noise = rng.normal(0, rng.uniform(0.5, 3), pixels.shape)
    return _bytes((light * balance + noise).astype(np.float32))


def _bytes(pixels: Array) -> NDArray[np.uint8]:
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write synthetic aerial images.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--side", type=int, default=640, help="pixels")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the first image")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for number in tqdm(range(options.seed, options.seed + options.count), desc="scenes"):
        Image.fromarray(aerial_scene(options.side, number)).save(options.folder / f"scene_{number:06d}.jpg", quality=95)


if __name__ == "__main__":
    main()
