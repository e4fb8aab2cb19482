"""The toy world: cartoon clips of any length with the exact truth about every pixel, drawn from a seed.

from visionzoo.data.toy_world import ToyWorld

clip = ToyWorld.create(seed=1, characters=2).film(frames=64)
for frame in clip:
    print(frame.caption, frame.rgb.shape, frame.flow.mean())
"""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
