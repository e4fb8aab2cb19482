"""The example of the guide trains."""

from __future__ import annotations

import runpy
from pathlib import Path

from PIL import Image

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "static_splatting.py"


def test_the_example_trains(tmp_path: Path) -> None:
    out = tmp_path / "fit.png"
    program = runpy.run_path(str(EXAMPLE))
    losses = program["main"](["--out", str(out), "--steps", "150", "--gaussians", "400", "--size", "32"])
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert Image.open(out).size == (128, 64)
