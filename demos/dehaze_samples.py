"""Hazy sample images of the haze page, made of bundled clear photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from visionzoo.errors import writing
from visionzoo.io.files import atomic_path, bundled
from visionzoo.io.image import load_image
from visionzoo.io.pixels import floats_to_bytes

from ..models.dehazexl.haze import Haze

SAMPLES = {"temple": (7, True), "flower": (8, False), "camera": (10, True)}
"""Bundled photo -> the seed of its haze, and whether haze grows with the distance of a view over ground."""


def sample_haze(seed: int) -> Haze:
    return Haze(
        seed=seed,
        density=0.6,
        base=0.7,
        cell=400.0,
        persistence=0.5,
        contrast=2.0,
        slope=(0.0, 0.2),
        airlight=(0.62, 0.64, 0.66),
    )


def samples(home: Path) -> list[Path]:
    """Hazy images in `home`, made of bundled clear photos if they are not there yet."""
    folder = home / "dehaze"
    paths = [folder / f"{name}_hazy.jpg" for name in SAMPLES]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path, (name, (seed, far)) in zip(paths, SAMPLES.items(), strict=True):
            if path.exists():
                continue
            clear = load_image(bundled("photos", f"{name}_1.jpg"))
            height, width = clear.shape[:2]
            pixels = sample_haze(seed)(clear, distance=view_distance(height, width) if far else None)
            with atomic_path(path) as temporary:
                Image.fromarray(floats_to_bytes(pixels)).save(temporary, "JPEG", quality=92)
    return paths


def view_distance(height: int, width: int) -> np.ndarray:
    """(height, width): distance in a view over ground, similar to `draw_distance` but not random."""
    row = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    return np.broadcast_to(0.75 / (row + 0.25), (height, width)).astype(np.float32)


__all__ = ["samples"]
