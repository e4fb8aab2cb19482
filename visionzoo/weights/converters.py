"""Which module converts the published checkpoints of which network.

A system binds its converter when it registers its models; a subclass of one of its networks, wherever it is defined, inherits it.
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
    """Let `load_checkpoint` and `to_official` use a converter. Both arguments are text, so that registering imports nothing.

    The module has `to_ours(state_dict, model)`, and may have `to_official(state_dict)` for the way back, `SAFE_CLASSES`, plain
    classes that its published files hold beside tensors, and `join_parts(loaded)`, which makes one state dict of a file
    that holds several.

    Args:
        module: its import name, e.g. "visionzoo.models.mcnet.checkpoint".
        networks: the classes that it converts for, as "module:class".
    """
    for network in networks:
        if _converters.setdefault(network, module) != module:
            raise ValueError(f"two converters are registered for {network}")


def converter_of(model: nn.Module) -> ModuleType | None:
    """The converter of the nearest registered class among those that the model's class derives from."""
    for kind in type(model).__mro__:
        module = _converters.get(f"{kind.__module__}:{kind.__qualname__}")
        if module is not None:
            return importlib.import_module(module)
    return None
