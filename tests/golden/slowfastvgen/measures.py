"""The measures of generated videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torchvision.models import resnet18

from visionzoo.metrics import (
    NetworkFeatures,
    frechet_distance,
    image_features,
    psnr,
    scene_cuts,
    scene_return_consistency,
    ssim,
)

from .. import seeded
from ..case import Case


def metrics(case: Case) -> dict[str, Any]:
    features = frechet_distance(case.input("features_real"), 1.3 * case.input("features_fake") + 0.4)
    return {**_cuts(case), "frechet_distance": features, **_returns(case), **_quality(case)}


def _scenes(case: Case) -> Iterator[np.ndarray]:
    config, time = case.config["scene_cuts"], 0
    height, width = config["height"], config["width"]
    for scene, length in enumerate(config["scene_lengths"]):
        colors = seeded.tensor(f"scene.{scene}", (height // 8, width // 8, 3), case.seed).numpy()
        picture = np.kron(colors, np.ones((8, 8, 1), np.float32))
        for frame in range(length):
            noise = seeded.tensor(f"frame_noise.{time}", (height, width, 3), case.seed).numpy()
            mixed = 0.9 * np.roll(picture, frame, axis=1) + 0.1 * noise
            yield np.round(255 * mixed).astype(np.uint8)[..., ::-1]  # recorded as BGR
            time += 1


def _cuts(case: Case) -> dict[str, Any]:
    frames = list(_scenes(case))
    return {
        "content_detector_cuts": scene_cuts(frames, detector="content").cuts,
        "adaptive_detector_cuts": scene_cuts(frames).cuts,
        "adaptive_detector_cuts_min_scene_len_2": scene_cuts(frames, min_scene_len=2).cuts,
    }


def _returns(case: Case) -> dict[str, Any]:
    """Scene-return consistency of random frames, with a seeded ResNet-18."""
    visits = case.config["src"]["visits"].values()
    pairs = [(first, later) for first, *others in visits for later in others]
    frames = case.input("frames")
    network = resnet18(weights=None)
    network.fc = torch.nn.Identity()
    network.load_state_dict(seeded.fill(network.state_dict(), case.seed))
    extractor = NetworkFeatures("seeded ResNet-18", network, lambda images: images)  # recorded without normalisation
    found = scene_return_consistency(frames, pairs, extractor)
    return {
        "resnet18_features": image_features(frames, extractor),
        "src": found.score,
        "revisit_cosines": found.cosines,
    }


def _quality(case: Case) -> dict[str, Any]:
    """Of every frame, and their mean."""
    generated, reference = case.input("generated")[0], case.input("reference")[0]
    true = 0.8 * reference + 0.2 * generated
    scores = {
        name: [measure(ours, theirs) for ours, theirs in zip(generated, true, strict=True)]
        for name, measure in MEASURES
    }
    return {
        key: value
        for name, values in scores.items()
        for key, value in ((f"{name}_per_frame", values), (f"{name}_mean", sum(values) / len(values)))
    }


MEASURES = (("psnr", psnr), ("ssim", partial(ssim, borders="reflected")))

KINDS: dict[str, Callable[[Case], Any]] = {"metrics": metrics}
