"""The command `visionzoo classify`: its output, wrong arguments, and Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import visionzoo

from ...command import run
from ..assets import ASSETS
from .networks import COLOURS


def test_help(capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run(capsys, "classify", "--help")
    assert code == 0
    for word in (
        "Usage: visionzoo classify",
        "Example",
        "visionzoo classify PHOTOS --top 3 -o result.html",
        "--labels",
    ):
        assert word in out
    assert "classify" in run(capsys, "--help")[1]


def test_command_prints(capsys: pytest.CaptureFixture, weights: Path, folder: Path) -> None:
    code, out, _ = run(capsys, "classify", folder / "0.png", "--checkpoint", weights)
    assert code == 0
    first = out.splitlines()[0].split()
    assert (first[0], first[-1]) == ("1", "red")
    assert first[1].endswith("%")
    assert set(first[2]) <= set("█▏▎▍▌▋▊▉#")
    assert len(out.splitlines()) == 3
    code, out, _ = run(capsys, "classify", folder, "--checkpoint", weights)
    assert [line.split()[1] for line in out.splitlines()] == list(COLOURS) * 3
    assert out.splitlines()[8].endswith("8.png")
    code, out, _ = run(capsys, "classify", folder / "[01].png", "--checkpoint", weights, "--top", 2)
    lines = out.splitlines()
    assert len(lines) == 6
    assert lines[3].endswith("1.png")
    assert lines[4].endswith("green")


def test_command_as_json_and_files(capsys: pytest.CaptureFixture, weights: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "broken.jpg").write_text("words")
    words = ["classify", folder, "--checkpoint", weights, "-o", tmp_path / "r.csv", "--features", tmp_path / "f.npz"]
    code, out, err = run(capsys, *words, "--json", "--top", 1)
    assert code == 1, "one of the files cannot be read"
    rows = json.loads(out)
    assert [row["predictions"][0]["label"] for row in rows if not row["error"]] == list(COLOURS) * 3
    assert [Path(row["source"]).name for row in rows if row["error"]] == ["broken.jpg"]
    assert "broken.jpg" in err
    assert "Traceback" not in err
    code, out, err = run(capsys, *words, "--overwrite")
    assert code == 1
    assert "r.csv" in err
    assert "f.npz" in err
    assert run(capsys, *words)[0] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.jpg"], r"gone\.jpg: no such file or folder"),
        (["text.jpg"], r"text\.jpg: not an image"),
        (["text.jpg", "empty.jpg"], "none of the 2 images can be read"),
        (["good.png", "--top", "0"], "--top must be at least 1, got 0"),
        (["good.png", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["good.png", "--image-size", "0"], "image_size must be at least 1"),
        (["good.png", "-o", "out.txt"], r"out\.txt: results are written as"),
        (["good.png", "-o", "good.png"], r"good\.png: exists already"),
        (["good.png", "--labels", "text.jpg"], r"text\.jpg: names 1 class, but the network has 3"),
        (["good.png", "--model", "superglobal_r50"], "is not a classification model"),
        (["good.png", "--model", "shvit_s3"], "holds weights of shvit_s1, not of shvit_s3"),
        (["good.png", "--checkpoint", "text.jpg"], r"text\.jpg: is not a checkpoint"),
        (["good.png", "--device", "cuda:77"], "not available"),
        ([], "inputs|INPUTS"),
    ],
)
def test_wrong_arguments_are_one_line_errors_with_exit_code_2(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch, weights: Path, words: list[str], message: str
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.jpg").write_text("words")
    (tmp_path / "empty.jpg").touch()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "good.png")
    given = words if "--checkpoint" in words else [*words, "--checkpoint", weights]
    code, out, err = run(capsys, "classify", *given)
    errors = [line for line in err.splitlines() if line.startswith("visionzoo: error: ")]
    assert code == 2
    assert len(errors) == 1
    assert re.search(message, errors[0])
    assert "Traceback" not in out + err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty.jpg", "good.png", "text.jpg"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupted(weights: Path, folder: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle: one correct line, exit code 130, and an older result stays unchanged."""
    shutil.copy(ASSETS / "queries" / "temple.jpg", folder / "0000.jpg")
    for number in range(1, 3000):  # more than can be done before the signal comes, however late
        os.link(folder / "0000.jpg", folder / f"{number:04}.jpg")
    (tmp_path / "out.json").write_text("older")
    worker = subprocess.Popen(
        [sys.executable, "-m", "visionzoo", "classify", folder, "--checkpoint", weights, "-o", tmp_path / "out.json",
         "--overwrite", "--batch-size", "2"],
        cwd=Path(visionzoo.__file__).parent.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background inherits that it is ignored
    )  # fmt: skip
    assert worker.stdout is not None
    worker.stdout.readline()
    worker.send_signal(signal.SIGINT)
    _, err = worker.communicate(timeout=60)
    assert worker.returncode == 130
    assert "of 3009 images are done and kept in" in err
    assert "run the same command again to resume" in err
    assert "Traceback" not in err
    assert (tmp_path / "out.json").read_text() == "older"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["images", "out.json", "out.json.part"]
