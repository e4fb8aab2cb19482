"""Memory-efficient attention: one function, several backends, and partial results that can be merged.

The layout is always (batch, heads, length, width). The module itself is callable: `visionzoo.attention(q, k, v)` is
`visionzoo.attention.attention(q, k, v)`. In code traced by `torch.compile`, import the function.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)


# `vz.attention(q, k, v)` is public, and so is this package under the same name: importing it binds the name to the
# module instead of the function. Only a callable module serves both uses.
class _CallableModule(ModuleType):
    """Makes the package `visionzoo.attention` callable like the function of the same name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.attention(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
