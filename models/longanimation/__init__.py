"""LongAnimation: colours long line-art animations from one reference image, with a memory of all frames so far (arXiv 2507.01945)."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.registry import register_model
from visionzoo.weights.converters import register_converter

from .cards import CARDS

for _card in CARDS:
    register_model(_card, builder=f"{__name__}.networks:build")
register_converter(
    f"{__name__}.checkpoint",
    networks=[
        f"{__name__}.{place}"
        for place in ("sketch_dit:SketchDiT", "memory_fusion:DynamicMemoryFusion", "lineart:LineartGenerator")
    ],
)

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
