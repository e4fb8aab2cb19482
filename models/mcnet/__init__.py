"""MCNet: a still face moves like the one in a video, with a learned memory of faces (arXiv 2307.09906)."""

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
        f"{__name__}.model:MCNet",
        f"{__name__}.generator:Generator",
        f"{__name__}.keypoints:KeypointDetector",
        f"{__name__}.memory:MemoryUnit",
        f"{__name__}.motion:DenseMotion",
        f"{__name__}.discriminator:Discriminator",
    ],
)

_names = {
    "MCNet": f"{__name__}.model:MCNet",
    "MCNetConfig": f"{__name__}.config:MCNetConfig",
    "Animated": f"{__name__}.generator:Animated",
    "Discriminator": f"{__name__}.discriminator:Discriminator",
    "DiscriminatorConfig": f"{__name__}.config:DiscriminatorConfig",
    "KeypointDetector": f"{__name__}.keypoints:KeypointDetector",
    "Keypoints": f"{__name__}.keypoints:Keypoints",
    "LossWeights": f"{__name__}.losses:LossWeights",
    "MCNetTraining": f"{__name__}.training:MCNetTraining",
    "SourceCache": f"{__name__}.generator:SourceCache",
    "TalkingHeads": f"{__name__}.data:TalkingHeads",
    "ThinPlateTransform": f"{__name__}.losses:ThinPlateTransform",
    "VGG19Features": f"{__name__}.losses:VGG19Features",
    "join_parts": f"{__name__}.checkpoint:join_parts",
    "link_tubes": f"{__name__}.crop:link_tubes",
    "movement_scale": f"{__name__}.keypoints:movement_scale",
    "reenactment_loss": f"{__name__}.losses:reenactment_loss",
    "split_parts": f"{__name__}.checkpoint:split_parts",
    "square_crop": f"{__name__}.crop:square_crop",
    "transfer_motion": f"{__name__}.keypoints:transfer_motion",
}
__getattr__, __dir__ = attach(__name__, _names)

if TYPE_CHECKING:
    from .checkpoint import join_parts as join_parts
    from .checkpoint import split_parts as split_parts
    from .config import DiscriminatorConfig as DiscriminatorConfig
    from .config import MCNetConfig as MCNetConfig
    from .crop import link_tubes as link_tubes
    from .crop import square_crop as square_crop
    from .data import TalkingHeads as TalkingHeads
    from .discriminator import Discriminator as Discriminator
    from .generator import Animated as Animated
    from .generator import SourceCache as SourceCache
    from .keypoints import KeypointDetector as KeypointDetector
    from .keypoints import Keypoints as Keypoints
    from .keypoints import movement_scale as movement_scale
    from .keypoints import transfer_motion as transfer_motion
    from .losses import LossWeights as LossWeights
    from .losses import ThinPlateTransform as ThinPlateTransform
    from .losses import VGG19Features as VGG19Features
    from .losses import reenactment_loss as reenactment_loss
    from .model import MCNet as MCNet
    from .training import MCNetTraining as MCNetTraining
