"""What a weights file says of itself: the model, its configuration, its classes, the size of its input."""

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
"""The model name of a network that was made in code; its whole configuration is stored."""


@dataclass(frozen=True)
class Stored:
    """The facts that a training or `save_pretrained` put beside the tensors.

    Attributes:
        model: registered name, or "custom".
        task: of the pipeline that saved it.
        config: fields of the configuration that differ from the model's.
        classes: names, in the order of the network's outputs.
        image_size: side in pixels that it was trained for.
        max_side: longest side in pixels to which images are shrunk; 0 for their native size.
    """

    model: str | None = None
    task: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    image_size: int | None = None
    max_side: int | None = None

    @classmethod
    def of(cls, facts: Any) -> Stored:
        """Check facts that were read from JSON. Raises `ValueError`."""
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
            raise ValueError("config is an object, classes a list, image_size and max_side numbers")
        return cls(**texts, config=config, classes=None if classes is None else tuple(map(str, classes)), **numbers)


def read_stored(path: str | PathLike[str]) -> Stored:
    """What a `.safetensors` file or a checkpoint of our training says of itself; nothing for other files.

    Raises:
        InputError: the file is missing or none, or what it says is damaged.
    """
    from .weights import read_metadata

    texts = read_metadata(path)
    try:
        facts = {key: json.loads(texts[key]) for key in ("config", "classes", "image_size", "max_side") if key in texts}
        return Stored.of({**facts, **{key: texts[key] for key in ("model", "task") if key in texts}})
    except ValueError as error:
        raise InputError(f"{path}: its config, classes or image_size are damaged ({error})") from error


def facts_of(path: str | PathLike[str]) -> Stored:
    """As `read_stored`, but nothing where the texts of a file have another meaning: other programs write some, too."""
    try:
        return read_stored(path)
    except InputError:
        return Stored()


def remember_stored(model: nn.Module, stored: Stored) -> None:
    """Let a network know what is known of its weights."""
    object.__setattr__(model, "stored", stored)


def stored_of(model: nn.Module) -> Stored:
    """What `load_checkpoint` and `create_model` found out about a network's weights."""
    return getattr(model, "stored", Stored())


def stored_facts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts as the texts that a `.safetensors` file holds; `read_stored` reads them."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


__all__ = ["CUSTOM", "Stored", "facts_of", "read_stored", "remember_stored", "stored_facts", "stored_of"]
