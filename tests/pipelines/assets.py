"""The photos that come with visionzoo."""

from __future__ import annotations

from pathlib import Path

import visionzoo

ASSETS = Path(visionzoo.__file__).parent / "assets"
