"""DehazeXL: haze removal in very large images (arXiv 2504.09621)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from visionzoo.lazy import attach
from visionzoo.registry import register_model
from visionzoo.weights.converters import register_converter

from .cards import CARDS

for _card in CARDS:
    register_model(_card, builder=f"{__name__}.model:build")
register_converter(
    f"{__name__}.checkpoint",
    networks=[
        f"{__name__}.model:DehazeXL",
        f"{__name__}.encoder:SwinV2Encoder",
    ],
)

_names = {
    "DehazeXL": f"{__name__}.model:DehazeXL",
    "DehazeXLConfig": f"{__name__}.model:DehazeXLConfig",
    "Bottleneck": f"{__name__}.bottleneck:Bottleneck",
    "DehazeData": f"{__name__}.data:DehazeData",
    "DehazeXLTraining": f"{__name__}.training:DehazeXLTraining",
    "HyperDraw": f"{__name__}.bottleneck:HyperDraw",
    "SwinDecoder": f"{__name__}.decoder:SwinDecoder",
    "SwinV2Encoder": f"{__name__}.encoder:SwinV2Encoder",
    "attribution_map": f"{__name__}.attribution:attribution_map",
    "attribution_picture": f"{__name__}.attribution_picture:attribution_picture",
    "hyper_attention": f"{__name__}.bottleneck:hyper_attention",
    "restoration_loss": f"{__name__}.losses:restoration_loss",
}
__getattr__, __dir__ = attach(__name__, _names)

if TYPE_CHECKING:
    from .attribution import attribution_map as attribution_map
    from .attribution_picture import attribution_picture as attribution_picture
    from .bottleneck import Bottleneck as Bottleneck
    from .bottleneck import HyperDraw as HyperDraw
    from .bottleneck import hyper_attention as hyper_attention
    from .data import DehazeData as DehazeData
    from .decoder import SwinDecoder as SwinDecoder
    from .encoder import SwinV2Encoder as SwinV2Encoder
    from .losses import restoration_loss as restoration_loss
    from .model import DehazeXL as DehazeXL
    from .model import DehazeXLConfig as DehazeXLConfig
    from .training import DehazeXLTraining as DehazeXLTraining
