"""SlowFast-VGen: action-driven long videos, with a memory in weights that learns while the video is made (arXiv 2410.23277)."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.registry import register_model
from visionzoo.weights.converters import register_converter

from .cards import CARDS

for _card in CARDS:
    register_model(
        _card, builder=f"{__name__}.{'inverse_dynamics' if _card.name == 'toy_actions' else 'networks'}:build"
    )
register_converter(f"{__name__}.checkpoint", networks=[f"{__name__}.unet:SlowFastUNet"])

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
