"""EfficientNet-Lite: a small image classifier for CPUs, whose weights come with visionzoo (arXiv 1905.11946)."""

from __future__ import annotations

import lazy_loader as _lazy

from visionzoo.export.exporters import register_exporter
from visionzoo.registry import register_model
from visionzoo.weights.converters import register_converter

from .cards import CARDS

_NETWORK = f"{__name__}.model:EfficientNetLite"

for _card in CARDS:
    register_model(_card, builder=f"{__name__}.model:build")
register_converter(f"{__name__}.checkpoint", networks=[_NETWORK])
register_exporter(
    f"{__name__}.exporting",
    models=[card.name for card in CARDS],
    networks=[_NETWORK, f"{__name__}.fused:FusedEfficientNetLite"],
)

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
