"""MCNet animates a still face like a face in a video, with a learned memory of faces (arXiv 2307.09906)."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.registry import register_model
from visionzoo.weights.converters import register_converter

from .cards import CARDS

for _card in CARDS:
    register_model(_card, builder=f"{__name__}.model:build")
register_converter(
    f"{__name__}.checkpoint",
    networks=[
        f"{__name__}.model:MCNet",
        f"{__name__}.generator:Generator",
        f"{__name__}.keypoints:KeypointDetector",
        f"{__name__}.memory:MemoryUnit",
        f"{__name__}.motion:DenseMotion",
        f"{__name__}.discriminator:Discriminator",
    ],
)

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
