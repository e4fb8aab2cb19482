"""Other views of a photo, as another visitor might have taken them: part of it, turned, tilted, darker, blurred, recompressed."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps


def random_view(photo: Image.Image, rng: np.random.Generator, strength: float = 1.0, side: int = 480) -> Image.Image:
    """A view of `photo` that lies inside it (no invented borders).

    Args:
        photo: RGB.
        rng: source of every choice.
        strength: 0 is nearly a copy; 1 shows down to a third of each side, turned by up to 25 degrees; 1.5 is hard.
        side: longest side of the view in pixels.
    """
    view = _quad(photo, rng, strength, side)
    for enhancer, amount in ((ImageEnhance.Brightness, 0.35), (ImageEnhance.Contrast, 0.3), (ImageEnhance.Color, 0.4)):
        view = enhancer(view).enhance(float(np.exp(rng.uniform(-amount, amount) * strength)))
    if rng.random() < 0.25 * strength:
        view = ImageOps.mirror(view)
    if rng.random() < 0.4 * strength:
        view = view.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.6)))
    data = io.BytesIO()
    view.save(data, "JPEG", quality=int(rng.uniform(92 - 45 * min(strength, 1.5), 92)))
    return Image.open(data).convert("RGB")


def _quad(photo: Image.Image, rng: np.random.Generator, strength: float, side: int) -> Image.Image:
    """The part of `photo` under a random quadrilateral, straightened."""
    w, h = photo.size
    while True:
        extent = rng.uniform(max(0.3, 1 - 0.65 * strength), 0.98, size=2) * (w, h)
        angle = np.deg2rad(rng.uniform(-25, 25) * strength)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners = (
            np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]]) * extent
        )  # as Image.transform wants them
        corners += rng.uniform(-0.06, 0.06, size=(4, 2)) * extent * strength  # perspective
        corners = corners @ turn.T
        low, high = corners.min(0), corners.max(0)
        room = np.array([w, h]) - (high - low)
        if (room >= 0).all():
            break
    corners += rng.uniform(0, 1, size=2) * room - low
    scale = side / extent.max()
    size = (max(32, round(extent[0] * scale)), max(32, round(extent[1] * scale)))
    return photo.transform(size, Image.Transform.QUAD, corners.ravel().tolist(), Image.Resampling.BICUBIC)
