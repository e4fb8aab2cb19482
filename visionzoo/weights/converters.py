"""Registry of the modules that convert published checkpoints.

A system registers its converter with its models; a subclass of one of its networks inherits it, wherever it is defined.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_converters: dict[str, str] = {}


def register_converter(module: str, *, networks: Iterable[str]) -> None:
    """Register a converter for `load_checkpoint` and `to_official`. Both arguments are text, so that registering imports nothing.

    The module defines `to_ours(state_dict, model)`, and optionally `to_official(state_dict)` for the inverse, `SAFE_CLASSES`, plain
    classes that its published files hold besides tensors, and `join_parts(loaded)`, which merges the state dicts of a file
    that holds several.

    Args:
        module: import name, e.g. "visionzoo.models.mcnet.checkpoint".
        networks: classes whose checkpoints it converts, as "module:class".
    """
    for network in networks:
        if _converters.setdefault(network, module) != module:
            raise ValueError(f"two converters are registered for {network}")


def converter_of(model: nn.Module) -> ModuleType | None:
    """The converter of the model's class, or of its nearest registered base class; None if there is none."""
    for kind in type(model).__mro__:
        module = _converters.get(f"{kind.__module__}:{kind.__qualname__}")
        if module is not None:
            return importlib.import_module(module)
    return None
