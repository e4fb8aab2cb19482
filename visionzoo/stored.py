"""Metadata of a weights file: model, configuration, classes, input size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from torch import nn

CUSTOM = "custom"
"""Model name for a network that was made in code; its whole configuration is stored."""


@dataclass(frozen=True)
class Stored:
    """The metadata that training or `save_pretrained` stores with the tensors.

    Attributes:
        model: registered name, or "custom".
        task: task of the pipeline that saved it.
        config: configuration fields that differ from those of the registered model.
        classes: class names in the order of the network's outputs.
        image_size: side in pixels of the training images.
        max_side: maximum side in pixels; larger images are shrunk; 0 for no limit.
    """

    model: str | None = None
    task: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    image_size: int | None = None
    max_side: int | None = None

    @classmethod
    def of(cls, facts: Any) -> Stored:
        """Check metadata that were read from JSON. Raises `ValueError`."""
        if not isinstance(facts, dict):
            raise ValueError(f"expected an object, got {type(facts).__name__}")
        config, classes = facts.get("config") or {}, facts.get("classes")
        numbers = {key: facts.get(key) for key in ("image_size", "max_side")}
        texts = {key: facts.get(key) for key in ("model", "task")}
        fits = (
            isinstance(config, dict)
            and isinstance(classes, list | None)
            and all(isinstance(value, int | None) for value in numbers.values())
            and all(isinstance(value, str | None) for value in texts.values())
        )
        if not fits:
            raise ValueError("config must be an object, classes a list, image_size and max_side numbers")
        return cls(**texts, config=config, classes=None if classes is None else tuple(map(str, classes)), **numbers)


def read_stored(path: str | PathLike[str]) -> Stored:
    """The metadata of a `.safetensors` file or a checkpoint of our training; empty for other files.

    Raises:
        InputError: the file is missing or not a checkpoint, or its metadata are damaged.
    """
    from .weights import read_metadata

    texts = read_metadata(path)
    try:
        facts = {key: json.loads(texts[key]) for key in ("config", "classes", "image_size", "max_side") if key in texts}
        return Stored.of({**facts, **{key: texts[key] for key in ("model", "task") if key in texts}})
    except ValueError as error:
        raise InputError(f"{path}: its config, classes or image_size are damaged ({error})") from error


def facts_of(path: str | PathLike[str]) -> Stored:
    """Like `read_stored`, but empty if the metadata cannot be parsed, as other programs also write metadata."""
    try:
        return read_stored(path)
    except InputError:
        return Stored()


def remember_stored(model: nn.Module, stored: Stored) -> None:
    """Attach metadata to a network, as `model.stored`."""
    object.__setattr__(model, "stored", stored)


def stored_of(model: nn.Module) -> Stored:
    """The metadata of a network's weights, from `load_checkpoint` or `create_model`."""
    return getattr(model, "stored", Stored())


def stored_facts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as text for a `.safetensors` file; `read_stored` reads them."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


__all__ = ["CUSTOM", "Stored", "facts_of", "read_stored", "remember_stored", "stored_facts", "stored_of"]
