"""Gaussian splatting: one differentiable function `render` with three renderers.

`gsplat` runs on CUDA, `cpu` is a set of compiled kernels for all cores of a CPU, and `reference` is dense torch in any
precision. All of them draw the same image from the same Gaussians, with gsplat's notation, and with gsplat's rules or those
of the original rasteriser.
"""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
