"""Behaviour that only a real process shows: pipes, signals, and imports before an error."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import visionzoo

from .setting import draw

COMMAND = [sys.executable, "-m", "visionzoo"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(visionzoo.__file__).parent.parent)}


def test_an_image_is_read_and_written_through_pipes(tmp_path: Path) -> None:
    source = draw(tmp_path / "a.jpg")
    done = subprocess.run(
        [*COMMAND, "dehaze", "-", "-o", "-", "--format", "png", "--quiet"],
        input=source.read_bytes(), cwd=tmp_path, env=ENVIRONMENT, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert (image.format, image.size) == ("PNG", (80, 70))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


MISTAKES = [
    ["dehaze", "gone.jpg", "-o", "out.png"],
    ["dehaze", "attribute", "gone.jpg", "--region", "0,0,8,8", "-o", "out.png"],
    ["classify", "gone.jpg"],
    ["edit", "gone.mp4", "-o", "out.mp4"],
    ["reenact", "gone.jpg", "gone.mp4", "-o", "out.mp4"],
    ["retrieve", "search", "gone.index", "gone.jpg"],
    ["export", "nosuch", "-o", "x.onnx"],
    ["export", "shvit_s1", "-o", "x.foo"],
    ["bench", "nosuch"],
    ["bench", "dehazexl", "--rounds", "0"],
    ["models", "--task", "nosuch"],
]

LIGHT = """
import sys
from visionzoo.cli import main
for words in {mistakes!r}:
    try:
        main(words)
    except SystemExit as stop:
        assert stop.code == 2, (words, stop.code)
    assert "torch" not in sys.modules, words
"""


def test_wrong_arguments_are_found_before_torch_is_loaded(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(mistakes=MISTAKES)],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("visionzoo: error: ") == len(MISTAKES)
    assert "writing" not in done.stderr.lower()


@pytest.mark.slow
def test_ctrl_c(tmp_path: Path) -> None:
    """A signal in the middle of a folder: finished files stay, and the next run does the rest."""
    for number in range(40):
        draw(tmp_path / "in" / f"{number}.png", number)
    words = [*COMMAND, "dehaze", "in", "-o", "out"]
    running = subprocess.Popen(words, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "out").glob("[!.]*.png.json")) and running.poll() is None:  # a temporary name has a dot
        pass
    running.send_signal(signal.SIGINT)
    _, err = running.communicate()
    assert running.returncode == 130, err
    assert "of 40 files are finished: run the same command again to resume" in err
    finished = set((tmp_path / "out").glob("*.png"))
    assert 0 < len(finished) < 40
    done = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 40
