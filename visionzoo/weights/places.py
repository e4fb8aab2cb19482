"""Locations of checkpoints on this machine.

Files are in `weights_dir()` (`VISIONZOO_HOME`, by default a folder in the platform's cache), inside an installed package, or
in `visionzoo/assets`.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from ..cards import WeightSource
from ..io.files import bundled


def weights_dir() -> Path:
    """The folder of downloaded and converted checkpoints."""
    import platformdirs

    home = os.environ.get("VISIONZOO_HOME")
    return (Path(home).expanduser() if home else Path(platformdirs.user_cache_dir("visionzoo"))) / "weights"


def offline() -> bool:
    """Whether `VISIONZOO_OFFLINE` or `HF_HUB_OFFLINE` is set, so that nothing is downloaded."""
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on")
        for name in ("VISIONZOO_OFFLINE", "HF_HUB_OFFLINE")
    )


def keep_others_offline() -> None:
    """In offline mode, set the offline variables of other packages; commands call this before these are imported."""
    if offline():
        os.environ["HF_HUB_OFFLINE"] = "1"


def locate(source: WeightSource) -> Path | None:
    """The local file of a checkpoint (in the cache or inside an installed package), or None."""
    cached = weights_dir() / source.file
    if cached.is_file():
        return cached
    if source.bundled:
        return bundled(source.bundled)
    if source.package:
        package, inner, _ = source.package
        try:
            candidate = Path(str(resources.files(package))) / inner
        except ModuleNotFoundError:
            return None
        return candidate if candidate.is_file() else None
    if source.hub:
        from huggingface_hub import try_to_load_from_cache

        repository, _, revision = source.hub[0].partition("@")
        hit = try_to_load_from_cache(repository, source.hub[1], revision=revision or None)
        return Path(hit) if isinstance(hit, str) else None
    return None
