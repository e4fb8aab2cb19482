"""SHViT: a small image classifier and backbone with single-head attention (arXiv 2401.16456)."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.export.exporters import register_exporter
from visionzoo.registry import register_model
from visionzoo.weights.converters import register_converter

from .cards import CARDS

for _card in CARDS:
    register_model(_card, builder=f"{__name__}.model:build")
register_converter(
    f"{__name__}.checkpoint",
    networks=[
        f"{__name__}.model:SHViT",
        f"{__name__}.fused:FusedSHViT",
        f"{__name__}.detection:DetectionBackbone",
        f"{__name__}.detectors:SHViTRetinaNet",
        f"{__name__}.detectors:SHViTMaskRCNN",
    ],
)
register_exporter(
    f"{__name__}.exporting",
    models=[card.name for card in CARDS if card.task == "classify"],
    networks=[f"{__name__}.model:SHViT", f"{__name__}.fused:FusedSHViT", f"{__name__}.detection:DetectionBackbone"],
)

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
