"""SHViT: a small image classifier and backbone with single-head attention (arXiv 2401.16456)."""

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
        f"{__name__}.model:SHViT",
        f"{__name__}.fused:FusedSHViT",
        f"{__name__}.detection:DetectionBackbone",
        f"{__name__}.detectors:SHViTRetinaNet",
        f"{__name__}.detectors:SHViTMaskRCNN",
    ],
)

_names = {
    "SHViT": f"{__name__}.model:SHViT",
    "SHViTConfig": f"{__name__}.model:SHViTConfig",
    "FusedSHViT": f"{__name__}.fused:FusedSHViT",
    "DetectionBackbone": f"{__name__}.detection:DetectionBackbone",
    "NeckConfig": f"{__name__}.detection:NeckConfig",
    "DetectorConfig": f"{__name__}.detectors:DetectorConfig",
    "SHViTData": f"{__name__}.data:SHViTData",
    "SHViTRetinaNet": f"{__name__}.detectors:SHViTRetinaNet",
    "SHViTTraining": f"{__name__}.training:SHViTTraining",
    "SHViTMaskRCNN": f"{__name__}.detectors:SHViTMaskRCNN",
    "retinanet": f"{__name__}.detectors:retinanet",
    "load_classifier": f"{__name__}.loading:load_classifier",
    "mask_rcnn": f"{__name__}.detectors:mask_rcnn",
    "DistillationLoss": f"{__name__}.losses:DistillationLoss",
    "Preprocess": f"{__name__}.preprocess:Preprocess",
    "RepeatedAugmentationSampler": f"{__name__}.sampler:RepeatedAugmentationSampler",
}
__getattr__, __dir__ = attach(__name__, _names)

if TYPE_CHECKING:
    from .data import SHViTData as SHViTData
    from .detection import DetectionBackbone as DetectionBackbone
    from .detection import NeckConfig as NeckConfig
    from .detectors import DetectorConfig as DetectorConfig
    from .detectors import SHViTMaskRCNN as SHViTMaskRCNN
    from .detectors import SHViTRetinaNet as SHViTRetinaNet
    from .detectors import mask_rcnn as mask_rcnn
    from .detectors import retinanet as retinanet
    from .fused import FusedSHViT as FusedSHViT
    from .loading import load_classifier as load_classifier
    from .losses import DistillationLoss as DistillationLoss
    from .model import SHViT as SHViT
    from .model import SHViTConfig as SHViTConfig
    from .preprocess import Preprocess as Preprocess
    from .sampler import RepeatedAugmentationSampler as RepeatedAugmentationSampler
    from .training import SHViTTraining as SHViTTraining
