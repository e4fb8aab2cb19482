"""Objects for the contract tests: pipelines with tiny networks, and small images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import visionzoo
from tests import tiny

SETTINGS: dict[str, dict[str, Any]] = {
    "classify": {"image_size": 64},
    "reenact": {"size": 128},
    "retrieve": {"max_side": 64},
}
"""Settings of a task's tiny pipeline, if it needs any."""


def made(task: str, settings: dict[str, Any]) -> Any:
    return visionzoo.pipeline(
        task, model={**tiny.NETWORKS, **tiny.PIPELINES}[task](), device="cpu", dtype="float32", **settings
    )


def draw(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(cells).resize((80, 70), Image.Resampling.BICUBIC).save(path)
    return path


def capture(path: Path, seed: int = 0) -> Path:
    """The folder of a small scene: 6 frames of 24 x 24."""
    from visionzoo.models.modecgs.captures.synthetic import SyntheticConfig, synthetic_capture

    config = SyntheticConfig(blobs=1, per_blob=12, wall=60, frames=6, size=24, seed=seed)
    return synthetic_capture(path.parent, config).rename(path)


def film(path: Path, seed: int = 0) -> Path:
    """A video of three frames of 48 x 40."""
    from visionzoo.io.video import VideoWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(cells).resize((60, 48), Image.Resampling.BICUBIC))
    with VideoWriter(path, fps=10) as writer:
        for shift in range(3):
            writer.write(np.ascontiguousarray(picture[4:44, 2 * shift : 2 * shift + 48]))
    return path


def lines(path: Path, seed: int = 0) -> Path:
    """A video of three frames of 48 x 32: dark lines on bright paper."""
    from visionzoo.io.video import VideoWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, fps=10) as writer:
        for number in range(3):
            frame = np.full((32, 48, 3), 255, np.uint8)
            frame[4 + number + seed : 6 + number + seed, 4:-4] = 0
            writer.write(frame)
    return path
