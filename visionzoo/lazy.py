"""Objects given as text, "package.module:attribute", and imported on use."""

from __future__ import annotations

import importlib
from typing import Any


def resolve(place: str) -> Any:
    """The object at "package.module:attribute"."""
    module, _, attribute = place.partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded
