"""What diffusion systems share: text, latents on disk, schedulers, LoRA, attention processors, and the base of their pipelines.

Everything works with the classes and folders of diffusers and transformers (extra `diffusion`).
"""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
