"""The commands `visionzoo fit|validate|test|predict`."""

from __future__ import annotations

from visionzoo.lazy import attach

_names = {name: f"{__name__}.run:{name}" for name in ("load_config", "run", "packaged_configs")}
__getattr__, __dir__ = attach(__name__, _names)
__all__ = list(_names)  # pyright: ignore[reportUnsupportedDunderAll]
