"""Files in, files out: what every command does around the processing of one file.

`plan` pairs inputs with outputs, `run` processes them (locally or on a Ray cluster), `resume` keeps finished work and explains how
to resume, `progress` shows progress, and `results` writes the sidecar of an output.
"""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
