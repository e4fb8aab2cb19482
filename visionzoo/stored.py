"""What a weights file says of itself: the model, its configuration, its classes, the size of its input."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from .errors import InputError
from .weights import read_metadata


@dataclass(frozen=True)
class Stored:
    """The texts that a training or `save_pretrained` put beside the tensors.

    Attributes:
        model: registered name.
        config: fields of the configuration that differ from the model's.
        classes: names, in the order of the network's outputs.
        image_size: side in pixels that it was trained for.
    """

    model: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    image_size: int | None = None


def read_stored(path: str | PathLike[str]) -> Stored:
    """What a `.safetensors` file says of itself; nothing for other files.

    Raises:
        InputError: the file is missing or none, or what it says is damaged.
    """
    texts = read_metadata(path)
    try:
        facts = {key: json.loads(texts[key]) for key in ("config", "classes", "image_size") if key in texts}
        config, classes, size = facts.get("config") or {}, facts.get("classes"), facts.get("image_size")
        if not isinstance(config, dict) or not isinstance(classes, list | None) or not isinstance(size, int | None):
            raise ValueError("expected an object, a list and a number")
    except ValueError as error:
        raise InputError(f"{path}: its config, classes or image_size are damaged ({error})") from error
    return Stored(texts.get("model"), config, None if classes is None else tuple(map(str, classes)), size)
