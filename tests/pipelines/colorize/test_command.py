"""`visionzoo colorize`: clips in, videos out, and one line for what cannot be done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests import tiny
from tests.command import run
from tests.pipelines.colorize.clips import drawings, reference, write
from visionzoo.io.video import probe

QUICK = ("--prompt", "a girl with a red shirt", "--steps", 1, "--guidance", 1, "--device", "cpu", "--quiet")
WHOLE = ("--no-drop-remainder",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline, line art, and a reference."""
    place = tmp_path_factory.mktemp("colorize")
    tiny.colorize().save_pretrained(place / "model")
    write(place / "a.mkv", drawings(11))
    reference(place / "r.png")
    return place


def colorize(capsys: Any, folder: Path, *words: object) -> tuple[int, str, str]:
    return run(capsys, "colorize", *words, "--checkpoint", folder / "model", *QUICK)


def test_line_art_becomes_a_video(folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "b.mp4"
    words = (folder / "a.mkv", "--reference", folder / "r.png", "-o", out, *WHOLE)
    code, text, err = colorize(capsys, folder, *words, "--json")
    assert (code, err) == (0, "")
    assert json.loads(text)[0]["frames"] == probe(out).frames == 11
    record = json.loads((tmp_path / "b.mp4.json").read_text())
    assert record["options"]["reference"] == str(folder / "r.png")
    assert record["options"]["steps"] == 1
    assert record["segments"][0]["first"] == 0
    code, _, err = colorize(capsys, folder, *words)
    assert (code, err.count("\n")) == (2, 1)
    assert "exists already; choose another name or add --overwrite" in err
    assert colorize(capsys, folder, *words, "--overwrite")[0] == 0


def test_several_clips_go_to_a_folder(folder: Path, tmp_path: Path, capsys: Any) -> None:
    for name in ("b.mkv", "c.mkv"):
        (tmp_path / name).write_bytes((folder / "a.mkv").read_bytes())
    words = (tmp_path / "b.mkv", tmp_path / "c.mkv", "--reference", folder / "r.png", "-o", tmp_path / "out", *WHOLE)
    code, _, err = colorize(capsys, folder, *words)
    assert (code, err) == (0, "")
    assert [probe(tmp_path / "out" / name).frames for name in ("b.mp4", "c.mp4")] == [11, 11]


def test_what_is_refused_before_weights_are_loaded(folder: Path, tmp_path: Path, capsys: Any) -> None:
    clip, out = folder / "a.mkv", ("-o", tmp_path / "b.mp4")
    for words, reason in (
        ((clip, *out), "--reference is missing: an image in the colours that the video gets, e.g. visionzoo colorize"),
        ((clip, *out, "--reference", tmp_path / "gone.png"), "gone.png: no such file"),
        ((clip, *out, "--reference", clip), "a.mkv: is a video"),
        ((tmp_path / "gone.mp4", *out, "--reference", folder / "r.png"), "gone.mp4: no such file"),
        ((clip, "--reference", folder / "r.png"), "--output (-o) is missing"),
        ((clip, *out, "--reference", folder / "r.png", "--size", "big"), "size must be width x height in pixels"),
        (
            (clip, *out, "--reference", folder / "r.png", "--size", "50x32"),
            "multiples of 16, got 50x32; the nearest is 48x32",
        ),
        ((clip, *out, "--reference", folder / "r.png", "--reference-sketch", clip), "a.mkv: is a video"),
        (
            (clip, *out, "--reference", folder / "r.png", "--segment-frames", 9),
            "segment_frames must be 8 k + 1 frames and at least 17, e.g. 81, got 9",
        ),
        ((clip, *out, "--reference", folder / "r.png", "--overlap", 3), "overlap must be at least 9, got 3"),
        ((clip, *out, "--reference", folder / "r.png", "--guidance", "inf"), "guidance must be at least 1, got inf"),
    ):
        code, _, err = run(capsys, "colorize", *words, "--checkpoint", tmp_path / "no_model", "--quiet")
        assert (code, err.count("\n")) == (2, 1), err
        assert reason in err
    assert not list(tmp_path.iterdir())


def test_what_is_refused_by_the_model(folder: Path, tmp_path: Path, capsys: Any) -> None:
    words = (folder / "a.mkv", "--reference", folder / "r.png", "-o", tmp_path / "b.mp4")
    for more, reason in (
        (
            ("--overlap", 16),
            "segments of 17 frames can share 9 to 15 frames, not 16; give another overlap (--overlap) or longer",
        ),
        (
            ("--reference-sketch", folder / "r.png", *WHOLE),
            "a.mkv: the line drawing of the reference (reference_sketch) is none: too",
        ),
        (
            ("--inverted", "--no-drop-remainder", "--line-source", "drawings"),
            "have dark lines on bright paper; pass inverted=False (leave out --inverted)",
        ),
    ):
        code, _, err = colorize(capsys, folder, *words, *more)
        assert (code, err.count("\n")) == (2, 1), err
        assert reason in err
    assert not list(tmp_path.iterdir())


def test_a_clip_that_is_too_short_says_what_to_do(folder: Path, tmp_path: Path, capsys: Any) -> None:
    short = write(tmp_path / "a.mkv", drawings(3))
    code, _, err = colorize(
        capsys,
        folder,
        short,
        "--reference",
        folder / "r.png",
        "-o",
        tmp_path / "b.mp4",
    )
    assert (code, err.count("\n")) == (2, 1), err
    assert "a.mkv: the video has 3 frames, but a segment has 17" in err
    assert "--no-drop-remainder" in err
    longer = write(tmp_path / "c.mkv", drawings(20))
    words = (longer, "--reference", folder / "r.png", "-o", tmp_path / "b.mp4", "--segment-frames", 33)
    assert "or shorter segments: segment_frames=17 (--segment-frames 17)" in colorize(capsys, folder, *words)[2]


def test_line_art_as_the_reference_is_noticed(folder: Path, tmp_path: Path, capsys: Any) -> None:
    Image.fromarray(drawings(1)[0]).save(tmp_path / "lines.png")
    words = (
        folder / "a.mkv",
        "--reference",
        tmp_path / "lines.png",
        "-o",
        tmp_path / "b.mp4",
        *WHOLE,
        "--memory",
        "none",
    )
    code, _, err = run(capsys, "colorize", *words, "--checkpoint", folder / "model", *QUICK[:-1])
    assert code == 0
    assert "warning: the reference image has almost no colours, and the result gets its colours from it" in err


def test_a_prompt_that_is_too_long_is_one_line(folder: Path, tmp_path: Path, capsys: Any) -> None:
    words = (folder / "a.mkv", "--reference", folder / "r.png", "-o", tmp_path / "b.mp4", *WHOLE, "--memory", "none")
    more = ("--prompt", "a girl with a red shirt " * 4, *QUICK[2:-1])
    code, _, err = run(capsys, "colorize", *words, "--checkpoint", folder / "model", *more)
    assert code == 0
    assert [line for line in err.splitlines() if "token" in line] == [
        "visionzoo: warning: the prompt has more than 11 tokens, so its end is ignored: "
        + "shirt a girl with a red " * 2
        + "shirt"
    ]


def test_without_weights_it_says_which_files_are_needed(folder: Path, tmp_path: Path, capsys: Any) -> None:
    words = (folder / "a.mkv", "--reference", folder / "r.png", "-o", tmp_path / "b.mp4", "--device", "cpu")
    for more in (("--model", "longanimation"), ("--checkpoint", tmp_path / "gone")):
        code, _, err = run(capsys, "colorize", *words, *more)
        assert (code, err.count("\n")) == (2, 1), err
        for name in ("control_module.safetensors", "glm_module.safetensors", "CogVideoX1.5-5B-I2V", "VideoXL_weight_8"):
            assert name in err
