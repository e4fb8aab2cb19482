"""visionzoo: eight published vision and video systems on current PyTorch.

Names below are imported on first use: `import visionzoo` itself loads neither torch nor anything heavy.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from pathlib import Path as _Path

import lazy_loader as _lazy

__version__ = "0.1.0"

_root = _Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "models" / "__init__.py").is_file():
    __path__.append(str(_root))  # a source checkout: visionzoo.models is <root>/models

_getattr, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)  # the names are listed once, in __init__.pyi
__all__ += ["__version__"]
globals().pop("attention", None)  # lazy_loader under EAGER_IMPORT=1 has put the function there


def __getattr__(name: str) -> object:
    if name != "attention":
        return _getattr(name)
    # a package that can be called: type checkers see the function of that name, which alone would hide its submodules
    return globals().setdefault(name, _import_module(f"{__name__}.attention"))
