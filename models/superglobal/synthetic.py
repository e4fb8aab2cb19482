"""Synthetic landmarks: images for tests and for trying the commands without a data set.

A landmark is a random set of shapes on a background; a view of it is rotated, enlarged, shifted, and lit differently.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from .revisited import Benchmark, read_benchmark, write_ground_truth

MILD, STRONG = 0.3, 0.9
"""How far a view differs from the frontal view of the landmark, for easy and for hard images."""


def draw_landmark(seed: int, size: int = 160) -> Image.Image:
    """Landmark number `seed`: (size, size) RGB, the same on every machine."""
    random = np.random.default_rng([7, seed])
    image = Image.new("RGB", (size, size), _colour(random))
    draw = ImageDraw.Draw(image)
    for _ in range(int(random.integers(8, 16))):
        x, y = random.uniform(-0.1, 0.9, 2) * size
        width, height = random.uniform(0.1, 0.5, 2) * size
        box = (x, y, x + width, y + height)
        kind = int(random.integers(4))
        if kind == 0:
            draw.rectangle(box, fill=_colour(random))
        elif kind == 1:
            draw.ellipse(box, fill=_colour(random))
        elif kind == 2:
            corners = random.uniform(0, 1, (3, 2)) * size
            draw.polygon([(float(a), float(b)) for a, b in corners], fill=_colour(random))
        else:  # stripes
            step = max(2, int(random.integers(3, 9)) * size // 160)
            for offset in range(0, int(width), 2 * step):
                draw.rectangle((x + offset, y, x + offset + step, y + height), fill=_colour(random))
    return image


def view(landmark: Image.Image, random: np.random.Generator, strength: float, size: tuple[int, int]) -> Image.Image:
    """A view of `landmark` as in another photo: (width, height) = `size`.

    Args:
        strength: 0 shows all of it from the front; 1 shows it rotated by up to 30 degrees, up to twice as large, shifted and dimmed.
    """
    width, height = size
    angle = math.radians(30) * strength * random.uniform(-1, 1)
    zoom = landmark.width / min(width, height) / (1 + strength * random.uniform(0, 1))
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    shift = strength * random.uniform(-0.15, 0.15, 2) * landmark.width
    cx, cy = landmark.width / 2 + shift[0], landmark.height / 2 + shift[1]
    affine = (cos, -sin, cx - cos * width / 2 + sin * height / 2, sin, cos, cy - sin * width / 2 - cos * height / 2)
    background = tuple(int(value) for value in random.integers(0, 256, 3))
    turned = landmark.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR, fillcolor=background)
    turned = ImageEnhance.Brightness(turned).enhance(1 + strength * random.uniform(-0.4, 0.4))
    return ImageEnhance.Contrast(turned).enhance(1 + strength * random.uniform(-0.4, 0.4))


def make_benchmark(
    root: str | Path,
    name: str = "rtoy",
    *,
    landmarks: int = 5,
    views: int = 4,
    others: int = 10,
    seed: int = 0,
    side: int = 160,
) -> Benchmark:
    """Write a small data set in the published layout and return it.

    Each landmark has one query, `views` easy and `views` hard images, and one junk image that shows a sliver of it;
    `others` images show no queried landmark.

    Args:
        root: folder that gets <name>/jpg/*.jpg and <name>/gnd_<name>.pkl.
        side: approximate longer side of the images in pixels; it varies, as in the real sets.
    """
    random = np.random.default_rng(seed)
    folder = Path(root) / name
    (folder / "jpg").mkdir(parents=True, exist_ok=True)
    sizes = [(side, side * 3 // 4), (side * 3 // 4, side), (side, side)]
    images: list[str] = []
    queries: list[str] = []
    entries: list[dict] = []

    def save(image: Image.Image, label: str) -> None:
        image.save(folder / "jpg" / f"{label}.jpg", quality=92)

    def add(landmark: int, strength: float) -> int:
        size = sizes[int(random.integers(len(sizes)))]
        label = f"{name}_{len(images):04d}"
        save(view(draw_landmark(1000 * seed + landmark, side), random, strength, size), label)
        images.append(label)
        return len(images) - 1

    for landmark in range(landmarks):
        easy = [add(landmark, MILD) for _ in range(views)]
        hard = [add(landmark, STRONG) for _ in range(views)]
        junk = [add(landmark, 2.0)]
        size = sizes[landmark % len(sizes)]
        queries.append(f"{name}_query_{landmark:03d}")
        save(view(draw_landmark(1000 * seed + landmark, side), random, MILD / 2, size), queries[-1])
        x0, y0, x1, y1 = 0.05 * size[0], 0.05 * size[1], 0.95 * size[0], 0.95 * size[1]
        entries.append(
            {"bbx": [x0, y0, x1, y1], "easy": np.array(easy), "hard": np.array(hard), "junk": np.array(junk)}
        )
    for other in range(others):
        add(landmarks + other, MILD)
    write_ground_truth(folder / f"gnd_{name}.pkl", {"imlist": images, "qimlist": queries, "gnd": entries})
    return read_benchmark(root, name)


def make_distractors(folder: str | Path, count: int, *, seed: int = 1, side: int = 160) -> Path:
    """Write `count` images below `folder` and revisitop1m.txt, which names them; returns the list's path."""
    folder = Path(folder)
    random = np.random.default_rng(seed)
    names = []
    for i in range(count):
        name = f"{i % 3:02d}/{i:06d}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        size = (side, side * 3 // 4) if i % 2 else (side, side)
        view(draw_landmark(500_000 + 1000 * seed + i, side), random, MILD, size).save(folder / name, quality=92)
        names.append(name)
    listing = folder / "revisitop1m.txt"
    listing.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return listing


def _colour(random: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in random.integers(0, 256, 3))
    return red, green, blue
