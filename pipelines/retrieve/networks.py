"""Networks that describe photos: SuperGlobal's pooling on other networks, and the size at which a model sees photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from visionzoo.weights import load_checkpoint

from ...models.superglobal import SuperGlobal, SuperGlobalConfig, from_classifier, from_timm

MAX_SIDE = {"superglobal_lite0": 448}
"""Longest side in pixels for models that do not use the photos' native size; for others it is `DEFAULT_MAX_SIDE`."""
CLASSIFIER_MAX_SIDE = 320  # at which shvit_xs finds most
DEFAULT_MAX_SIDE = 1024  # as in the benchmarks of the published numbers


def usual_max_side(name: str, config: SuperGlobalConfig) -> int:
    """Default of the longest side in pixels to which photos are shrunk for a model."""
    usual = CLASSIFIER_MAX_SIDE if config.backbone.startswith("visionzoo:") else DEFAULT_MAX_SIDE
    return MAX_SIDE.get(name, usual)


def on_backbone(
    name: str, checkpoint: str | Path | None, overrides: dict[str, Any], classifier: dict[str, Any]
) -> SuperGlobal:
    """SuperGlobal's pooling on a timm network or a registered classifier, `classifier` being fields of its configuration."""
    if classifier and not name.startswith("timm:"):
        overrides = {"backbone_config": classifier, **overrides}
    if not name.startswith("timm:"):
        return from_classifier(name, pretrained=checkpoint is None, checkpoint=checkpoint, **overrides)
    network = from_timm(name.removeprefix("timm:"), pretrained=checkpoint is None, **overrides)
    if checkpoint is not None:
        load_checkpoint(network, checkpoint)
    return network


__all__ = ["on_backbone", "usual_max_side"]
