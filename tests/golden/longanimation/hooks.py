"""Outputs of modules inside a network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn


@contextlib.contextmanager
def record(network: nn.Module, names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """A dictionary that is filled with the outputs of modules while the network runs.

    Args:
        names: places of modules -> names of their outputs.
    """
    found: dict[str, Any] = {}
    hooks = [
        network.get_submodule(place).register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out}))
        for place, name in names.items()
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
