"""Memory-efficient attention: one call, several backends, partial results that merge.

Layout everywhere: (batch, heads, length, width). The module itself can be called: `visionzoo.attention(q, k, v)` is
`visionzoo.attention.attention(q, k, v)`. In code that `torch.compile` traces, import the function.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)


# `vz.attention(q, k, v)` is public, and so is this package under the same name: importing it binds the name to the
# module, in place of the function. Only a module that can be called serves both.
class _CallableModule(ModuleType):
    """The package `visionzoo.attention` is also the function of that name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.attention(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
