"""Export networks to files that run without this package: ONNX (`.onnx`) and torch.export programs (`.pt2`)."""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
