"""From images to SHViT's input, as in the published evaluation."""

from __future__ import annotations

from visionzoo.preprocess import IMAGENET_MEAN as MEAN
from visionzoo.preprocess import IMAGENET_STD as STD
from visionzoo.preprocess import Preprocess

IMAGE_SIZES = {"shvit_s4": 256}
"""Side in pixels at which the published weights were trained and tested, if it is not 224."""


def preprocess_of(name: str) -> Preprocess:
    """The preprocessing with which the published weights of the model `name` were tested."""
    return Preprocess(IMAGE_SIZES.get(name.partition(".")[0], 224))


__all__ = ["MEAN", "STD", "Preprocess", "preprocess_of"]
