"""The command `visionzoo dehaze attribute`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")


from ...command import run
from .images import names


def test_attribute(capsys: pytest.CaptureFixture, weights: Path, photo: Callable, inside: Path) -> None:
    photo("hazy.jpg", size=(120, 90))
    photo("clear.png", size=(120, 90), seed=1)
    words = ["dehaze", "attribute", "hazy.jpg", "--region", "20,10,30,40", "--steps", "2", "--checkpoint", weights]
    assert run(capsys, *words, "-o", "map.png")[0] == 0
    with Image.open("map.png") as image:
        assert image.height == 90
        assert image.width > 120
    code, out, _ = run(capsys, *words, "-o", "map.npz", "--clear", "clear.png", "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["region"] == {"left": 20, "top": 10, "width": 30, "height": 40}
    stored = np.load("map.npz")
    assert (stored["saliency"].shape, stored["values"].shape) == ((90, 120), (3, 90, 120))
    assert stored["saliency"].max() == pytest.approx(1)
    assert facts["share_inside"] == pytest.approx(
        stored["saliency"][10:50, 20:50].sum() / stored["saliency"].sum(), abs=1e-5
    )
    saved = json.loads((inside / "map.npz.json").read_text())
    assert (saved["clear"], saved["options"]["checkpoint"]) == ("clear.png", str(weights))
    code, _, err = run(capsys, *words, "-o", "map.png")
    assert code == 2
    assert "exists already" in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--region": "110,10,30,40"}, r"the window of 30 x 40 pixels at row 10, column 110 is not inside 120 x 90"),
        ({"--region": "1,2,3"}, "--region must be 4 numbers"),
        ({"--region": "0,0,0,9"}, "is not inside"),
        ({"-o": "map.tif"}, r"map\.tif: a map is written as \.png, .*\.npz"),
        ({"-o": "no/map.png"}, "the folder .* does not exist"),
        ({"--clear": "small.png"}, r"small\.png: is 60 x 40, but hazy\.jpg is 120 x 90"),
        ({"--clear": "gone.png"}, r"gone\.png: no such file"),
        ({"--steps": "0"}, "steps must be at least 1"),
    ],
)
def test_attribute_errors_name_the_problem(
    capsys: pytest.CaptureFixture, weights: Path, photo: Callable, inside: Path, changes: dict[str, str], message: str
) -> None:
    photo("hazy.jpg", size=(120, 90))
    photo("small.png", size=(60, 40))
    given = {"--region": "20,10,30,40", "-o": "map.png", "--checkpoint": str(weights), "--steps": "1"} | changes
    code, _, err = run(capsys, "dehaze", "attribute", "hazy.jpg", *(word for pair in given.items() for word in pair))
    assert code == 2
    assert len([line for line in err.splitlines() if "error: " in line]) == 1
    assert re.search(message, err)
    assert names(inside) == ["hazy.jpg", "small.png"]
