"""The command `visionzoo dehaze`: wrong arguments are one-line errors, and samples are available."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")


from visionzoo.models.dehazexl.scenes import aerial_scene
from visionzoo.pipelines.dehaze import samples

from ...command import run
from .images import names


def test_a_folder_named_samples_is_not_taken_for_the_command(
    inside: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "aerial_scene", lambda _, seed: aerial_scene(64, seed))
    assert "./samples" not in run(capsys, "dehaze", "samples", "-o", "samples")[2]
    assert "write visionzoo dehaze ./samples" in run(capsys, "dehaze", "samples", "-o", "hazy")[2]
    assert names(inside / "hazy") == names(inside / "samples")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.jpg", "-o", "out.png"], r"gone\.jpg: no such file or folder"),
        (["empty", "-o", "out"], "empty: no images or videos found"),
        (["a.jpg", "-o", "b.png"], r"b\.png: exists already; choose another name or add --overwrite"),
        (["a.jpg", "-o", "x.gif"], r"x\.gif: unknown extension \.gif; images are written as \.tif, .*\.mp4"),
        (["a.jpg", "-o", "x.xyz"], r"x\.xyz: unknown extension \.xyz"),
        (["a.jpg", "b.png", "-o", "x.gif"], r"x\.gif: with several inputs, the output must be a folder"),
        (["a.jpg", "b.png", "-o", "x.jpg"], r"x\.jpg: with several inputs, the output must be a folder"),
        (["a.jpg", "-o", "x.mp4"], r"x\.mp4: a\.jpg is an image"),
        (["a.jpg", "-o", "no/x.jpg"], r"no/x\.jpg: the folder .*no does not exist; create it first"),
        (["a.jpg", "-o", "text"], "text: is a file, expected a folder"),
        (["a.jpg", "-o", "text/sub"], "text/sub: the folder cannot be created"),
        (["a.jpg", "-o", "a.jpg", "--overwrite"], r"a\.jpg: is the input itself, which is never overwritten"),
        ([".", "-o", "."], r"is the input itself"),
        (["a.jpg", "-o", "x.png", "--bands", "1,2"], "--bands must be 1 or 3 numbers"),
        (["a.jpg", "-o", "x.png", "--bands", "0,1,2"], "--bands must be counted from 1, got 0,1,2"),
        (["a.jpg", "-o", "x.png", "--bands", "1,2,4"], r"a\.jpg: has 3 bands of colours; .* 1, 2, 4"),
        (["a.jpg", "-o", "x.png", "--bands", "1,1,1"], r"a\.jpg: has 3 bands of colours; .* 1, 1, 1"),
        (["a.jpg", "-o", "x.png", "--limits", "9,9"], "the lower first; got 9, 9"),
        (["a.jpg", "-o", "x.png", "--limits", "0,inf"], "the lower first; got 0, inf"),
        (["a.jpg", "-o", "x.png", "--limits", "a"], "--limits must be 2 numbers"),
        (["a.jpg", "-o", "out", "--format", "gif"], r"written as \.tif, .*; got gif"),
        (["a.jpg", "-o", "x.png", "--smooth", "1"], "smooth must be at least 0 and below 1, got 1"),
        (["a.jpg", "-o", "x.png", "--tiles", "0"], "at least 1"),
        (["a.jpg", "-o", "x.png", "--device", "cuda:77"], "not available"),
        (["a.jpg", "-o", "x.png", "--checkpoint", "text"], "text: "),
        (["text", "-o", "x.png"], "text: not an image"),
    ],
)
def test_wrong_arguments_are_one_line_errors_with_exit_code_2(
    capsys: pytest.CaptureFixture, weights: Path, photo: Callable, inside: Path, words: list[str], message: str
) -> None:
    photo("a.jpg", size=(40, 30))
    photo("b.png", size=(40, 30))
    (inside / "text").write_text("words")
    (inside / "empty").mkdir()
    given = words if "--checkpoint" in words else [*words, "--checkpoint", weights]
    code, _, err = run(capsys, "dehaze", *given)
    errors = [line for line in err.splitlines() if line.startswith("visionzoo: error: ")]
    assert (code, len(errors)) == (2, 1)
    assert re.search(message, errors[0])
    assert names(inside) == ["a.jpg", "b.png", "text"]


def test_extensions_are_refused_before_weights_load(
    capsys: pytest.CaptureFixture, photo: Callable, inside: Path
) -> None:
    photo("a.jpg", size=(8, 8))
    code, _, err = run(capsys, "dehaze", "a.jpg", "-o", "x.gif", "--checkpoint", "gone.safetensors")
    assert code == 2
    assert "unknown extension" in err


def test_help(capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run(capsys, "dehaze", "--help")
    assert code == 0
    for word in ("Usage: visionzoo dehaze", "visionzoo dehaze hazy.jpg -o clear.jpg", "--bands", "attribute"):
        assert word in out
    assert "--region" in run(capsys, "dehaze", "attribute", "--help")[1]
