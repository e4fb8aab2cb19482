"""Memory-efficient attention: one call, several backends, partial results that merge.

Layout everywhere: (batch, heads, length, width). The module itself can be called: `visionzoo.attention(q, k, v)` is
`visionzoo.attention.attention(q, k, v)`. In code that `torch.compile` traces, import the function.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..lazy import attach as _attach

_names = {
    "Segment": "visionzoo.attention.call:Segment",
    "VisionZooAttnProcessor": "visionzoo.attention.diffusion:VisionZooAttnProcessor",
    "attention": "visionzoo.attention.functional:attention",
    "attention_backend": "visionzoo.attention.select:attention_backend",
    "attention_with_lse": "visionzoo.attention.functional:attention_with_lse",
    "merge_attention": "visionzoo.attention.functional:merge_attention",
    "segment_attention": "visionzoo.attention.segments:segment_attention",
}
__getattr__, __dir__ = _attach(__name__, _names)
__all__ = [*_names]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from .call import Segment as Segment
    from .diffusion import VisionZooAttnProcessor as VisionZooAttnProcessor
    from .functional import attention as attention
    from .functional import attention_with_lse as attention_with_lse
    from .functional import merge_attention as merge_attention
    from .segments import segment_attention as segment_attention
    from .select import attention_backend as attention_backend


# `vz.attention(q, k, v)` is public, and so is this package under the same name: importing it binds the name to the
# module, in place of the function. Only a module that can be called serves both.
class _CallableModule(ModuleType):
    """The package `visionzoo.attention` is also the function of that name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.attention(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
