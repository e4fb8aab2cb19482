"""Registry of the modules that load models for export and describe them in the file.

A system registers its exporter with its models; a subclass of one of its networks inherits it, wherever it is defined.
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
    """Register an exporter for `visionzoo export`. All arguments are text, so that registering imports nothing.

    The module defines `load(file, name, config)`, which returns the network with a file's weights; `preprocess(name)`, which
    returns the `visionzoo.preprocess.Preprocess` of its input; and `texts(network)`, which returns metadata besides name,
    configuration and classes (a dict of JSON values).

    Args:
        module: import name, "visionzoo.models.<system>.exporting".
        models: registered names of the models that it can load.
        networks: classes that it describes, as "module:class".
    """
    _by_model.update(dict.fromkeys(models, module))
    _by_network.update(dict.fromkeys(networks, module))


def exporter_of(name: str) -> ModuleType | None:
    """The exporter of a registered model, given its name without a tag; None if there is none."""
    return importlib.import_module(_by_model[name]) if name in _by_model else None


def exporter_of_network(network: nn.Module) -> ModuleType | None:
    """The exporter of the network's class, or of its nearest registered base class; None if there is none."""
    for kind in type(network).__mro__:
        module = _by_network.get(f"{kind.__module__}:{kind.__qualname__}")
        if module is not None:
            return importlib.import_module(module)
    return None


def exportable_models() -> list[str]:
    """Names of the models that can be exported, sorted."""
    return sorted(_by_model)
