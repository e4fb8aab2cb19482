"""Memory of training: it grows with the Gaussians and the size of an image, not with the number of frames."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from visionzoo.benchmark import peak_memory_mb
from visionzoo.models.modecgs import Fit, Recipe, batches
from visionzoo.models.modecgs.captures.reading import read_capture
from visionzoo.models.modecgs.captures.synthetic import SyntheticConfig, synthetic_capture
from visionzoo.models.modecgs.data import Frames
from visionzoo.models.modecgs.model import build
from visionzoo.training.configuration import load_config

FEW = SyntheticConfig(frames=4, size=41, per_blob=12, wall=60)
MANY = replace(FEW, frames=24)
CONFIG = load_config(["modecgs/tiny"])["model"]["init_args"]["config"]
RECIPE = Recipe(coarse_steps=0, fine_steps=12, batch_size=2, grow_until=0)


def training(folder: Path, scene: SyntheticConfig, *, voxel_size: float = 0.05) -> tuple[Fit, Frames]:
    """The points are those of the scene with few frames, so that the anchors do not depend on the number of frames."""
    capture = read_capture(synthetic_capture(folder, scene))
    points = read_capture(synthetic_capture(folder, FEW)).points
    torch.manual_seed(0)
    model = build("modecgs", **{**CONFIG, "voxel_size": voxel_size})
    model.initialize(points.positions.astype(np.float32))
    return Fit(model, RECIPE, capture.extent), Frames(capture.train)


def peak_of_a_step(fit: Fit, frames: Frames) -> float:
    """In MB, the least of three steps after the second one, when moments of the optimizer exist.

    The profiler does not see that memory is freed which was allocated before, so what earlier tests leave makes a peak too high.
    """
    for numbers in (0, 1), (1, 0):
        fit.step([frames.frame(number) for number in numbers])
    return min(peak_memory_mb(lambda: fit.step([frames.frame(number) for number in (0, 1)])) for _ in range(3))


def test_a_step_takes_the_same_memory_for_4_and_24_frames(tmp_path: Path):
    few, many = (peak_of_a_step(*training(tmp_path, scene)) for scene in (FEW, MANY))
    assert many == pytest.approx(few, rel=0.1)
    fewer_anchors = peak_of_a_step(*training(tmp_path, MANY, voxel_size=0.4))
    assert fewer_anchors < 0.8 * many


def test_images_are_kept_as_bytes_and_never_as_tensors(tmp_path: Path):
    fit, frames = training(tmp_path, MANY)
    for numbers in batches(len(frames), RECIPE):
        fit.step([frames.frame(number) for number in numbers])
    assert frames._bytes == len(frames) * 41 * 41 * 3
    gc.collect()
    images = [value for value in gc.get_objects() if type(value) is torch.Tensor and value.shape[-2:] == (41, 41)]
    assert len(images) <= 2  # bands of the SSIM


def test_images_of_a_long_video_are_not_all_kept(tmp_path: Path):
    capture = read_capture(synthetic_capture(tmp_path, MANY))
    frames = Frames(capture.train, limit=5 * 41 * 41 * 3)
    for number in range(len(frames)):
        frames.frame(number)
    assert len(frames._kept) == 5
    assert frames._bytes <= frames.limit
