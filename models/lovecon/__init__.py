"""LOVECon: text-driven editing of long videos with Stable Diffusion and ControlNet, without training (arXiv 2310.09711)."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
