"""Which system can export which of its models, and what it says about them in the file.

A system binds its exporter when it registers its models; a subclass of one of its networks, wherever it is defined, inherits it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_by_model: dict[str, str] = {}
_by_network: dict[str, str] = {}


def register_exporter(module: str, *, models: Iterable[str], networks: Iterable[str]) -> None:
    """Let `visionzoo export` write a system's models. All arguments are text, so that registering imports nothing.

    The module has `load(file, name, config)`, which gives the network with a file's weights, `preprocess(name)`, the
    `visionzoo.preprocess.Preprocess` that makes its input, and `texts(network)`, what a file says besides its name,
    configuration and classes (a dict of JSON values).

    Args:
        module: its import name, "visionzoo.models.<system>.exporting".
        models: registered names of the models that it can load.
        networks: the classes that it describes, as "module:class".
    """
    _by_model.update(dict.fromkeys(models, module))
    _by_network.update(dict.fromkeys(networks, module))


def exporter_of(name: str) -> ModuleType | None:
    """The exporter of a registered model, by its name without a tag."""
    return importlib.import_module(_by_model[name]) if name in _by_model else None


def exporter_of_network(network: nn.Module) -> ModuleType | None:
    """The exporter of the nearest registered class among those that the network's class derives from."""
    for kind in type(network).__mro__:
        module = _by_network.get(f"{kind.__module__}:{kind.__qualname__}")
        if module is not None:
            return importlib.import_module(module)
    return None


def exportable_models() -> list[str]:
    """Names of the models that can be exported, sorted."""
    return sorted(_by_model)
