"""MoDec-GS: a small dynamic scene of Gaussians, from a video with poses (arXiv 2501.03714)."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.registry import register_model
from visionzoo.weights.converters import register_converter

from .cards import CARDS

for _card in CARDS:
    register_model(_card, builder=f"{__name__}.model:build")
register_converter(
    f"{__name__}.checkpoint", networks=[f"{__name__}.model:MoDecGS", f"{__name__}.fourdgs:FourDGaussians"]
)

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
