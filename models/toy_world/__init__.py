"""Small networks for the toy world: the VAE and text encoder that its three diffusion models share, a text-to-image UNet, and a
network that finds the parts of characters."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.registry import register_model

from .cards import CARDS

for _card in CARDS:
    register_model(_card, builder=f"{__name__}.{'parts' if _card.name == 'toy_parts' else 'networks'}:build")

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
