"""Loads checkpoints of SHViT, and describes its input."""

from __future__ import annotations

from typing import Any

from torch import nn

from .loading import load_classifier as load
from .preprocess import MEAN, STD, Preprocess
from .preprocess import preprocess_of as preprocess


def texts(network: nn.Module) -> dict[str, Any]:
    """The normalisation and the crop; none for networks that do not take RGB."""
    if getattr(getattr(network, "config", None), "in_chans", 3) != 3:
        return {}
    return {"mean": MEAN, "std": STD, "crop": Preprocess().crop}


__all__ = ["load", "preprocess", "texts"]
