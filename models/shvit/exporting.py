"""What `visionzoo export` needs to know of SHViT."""

from __future__ import annotations

from typing import Any

from torch import nn

from .loading import load_classifier as load
from .preprocess import MEAN, STD, Preprocess


def image_size(name: str) -> int:
    """Side in pixels at which the published weights of the model `name` were trained."""
    return Preprocess.of(name).size


def texts(network: nn.Module) -> dict[str, Any]:
    """The normalisation and the crop; none for networks that do not take RGB."""
    if getattr(getattr(network, "config", None), "in_chans", 3) != 3:
        return {}
    return {"mean": MEAN, "std": STD, "crop": Preprocess().crop}


__all__ = ["image_size", "load", "texts"]
