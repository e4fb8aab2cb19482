"""Loads checkpoints of EfficientNet-Lite, and describes its input."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from torch import nn

from visionzoo.preprocess import Preprocess
from visionzoo.registry import create_model
from visionzoo.weights import find_state_dict, load_checkpoint, read_checkpoint

PREPROCESS = Preprocess(224, 0.875, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def load(path: str | PathLike[str], name: str, config: Mapping[str, Any] | None = None) -> nn.Module:
    """The network with a file's weights, in eval mode.

    Args:
        path: published or own key names, any precision.
        name: the registered model.
        config: fields of its configuration; the number of classes is the file's unless it is in here.

    Raises:
        WeightsError: the file cannot be read, or does not fit.
    """
    state = find_state_dict(read_checkpoint(path), str(path))
    head = next((state[key] for key in ("classifier.weight", "_fc.weight") if key in state), None)
    classes = {} if head is None else {"num_classes": len(head)}
    network = create_model(name, **{**classes, **(config or {})})
    return load_checkpoint(network, path).eval()


def preprocess(name: str) -> Preprocess:
    """The preprocessing with which the weights of the model `name` were tested; it is the same for every variant."""
    del name
    return PREPROCESS


def texts(network: nn.Module) -> dict[str, Any]:
    """The normalisation and the crop."""
    del network
    return {"mean": PREPROCESS.mean, "std": PREPROCESS.std, "crop": PREPROCESS.crop}


__all__ = ["load", "preprocess", "texts"]
