"""Files in, files out: what every command does around the work on one file.

`plan` turns inputs into outputs, `run` does one after the other (here or on a Ray cluster), `resume` leaves finished work alone and
says how to resume, `progress` shows how far it is, `results` writes what is recorded beside an output.
"""

from __future__ import annotations

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
