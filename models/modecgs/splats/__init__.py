"""Static Gaussians for viewers: a scene at one time, and the files that viewers read."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
