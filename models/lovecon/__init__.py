"""LOVECon: text-driven editing of long videos with Stable Diffusion and ControlNet, without training (arXiv 2310.09711)."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.registry import register_model
from visionzoo.weights.converters import register_converter

from .cards import CARDS

for _card in CARDS:
    register_model(_card, builder=f"{__name__}.{'networks' if _card.name == 'lovecon_nano' else 'ifnet'}:build")
register_converter(f"{__name__}.checkpoint", networks=[f"{__name__}.ifnet:IFNet"])

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
