"""Loads a classifier from any weights file: trained or fused, with any number of classes and heads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

from visionzoo.registry import create_model
from visionzoo.weights import find_state_dict, load_checkpoint, read_checkpoint

from .checkpoint import SAFE_CLASSES, is_training_form
from .fused import FusedSHViT
from .model import SHViT

_HEAD = re.compile(r"(backbone\.)?head\.(l\.|linear\.)?weight")
_SECOND_HEAD = re.compile(r"(backbone\.)?(head_dist|distillation_head)\.")


def load_classifier(
    path: str | PathLike[str], name: str, config: Mapping[str, Any] | None = None
) -> SHViT | FusedSHViT:
    """The network with a file's weights, in eval mode; in fused form if the file is.

    Args:
        path: published or own key names, any precision.
        name: the registered model.
        config: fields of its `SHViTConfig`; the number of classes and of heads are the file's unless they are given here.

    Raises:
        WeightsError: the file cannot be read, or does not fit.
    """
    state = find_state_dict(read_checkpoint(path, safe_classes=SAFE_CLASSES), str(path))
    rows = [len(value) for key, value in state.items() if _HEAD.fullmatch(key) and value.ndim == 2]
    heads: dict[str, Any] = {"num_classes": rows[0]} if rows else {}
    if any(_SECOND_HEAD.match(key) for key in state):
        heads["distillation"] = True
    network = create_model(name, **{**heads, **(config or {})})
    assert isinstance(network, SHViT)
    if not is_training_form(state) and any(key.endswith(".bias") for key in state):
        network = FusedSHViT(network.config)
    load_checkpoint(network, path)
    return network
