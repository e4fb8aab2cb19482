"""Presets: YAML files with settings of an edit, for the command and for Python."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny
from tests.command import run
from tests.pipelines.edit.test_files import TEXTS, clip, edit, shown
from visionzoo.errors import InputError
from visionzoo.pipelines.edit import EditOptions, load_preset, preset_names


def test_the_presets_are_the_published_recipes() -> None:
    """Every setting is that of the release, which is also the default; the types of edits and their masks differ."""
    assert preset_names() == ["attribute", "background", "style"]
    for name in preset_names():
        made = asdict(EditOptions("a", "b", **load_preset(name)))
        changed = {key for key, value in asdict(EditOptions("a", "b")).items() if made[key] != value}
        assert made["edit"] == name
        assert changed <= {"edit", "phrase"}
    assert load_preset("style")["phrase"] == ""


def test_the_command_takes_what_is_not_given_from_the_preset(tmp_path: Path, capsys: Any) -> None:
    tiny.edit().save_pretrained(tmp_path / "whole")
    clip(tmp_path / "a.mp4", 2)
    (tmp_path / "mine.yaml").write_text(
        "edit: style\nsteps: 1\nwindow: 5\nguidance: 1\ncanny_thresholds: [30, 60]\nwatermark: false\nphrase: ''\n"
    )
    words = ("--prompt", TEXTS["prompt"], "--source-prompt", TEXTS["source_prompt"], "--checkpoint", tmp_path / "whole")
    code, _, _ = run(
        capsys,
        "edit",
        tmp_path / "a.mp4",
        "-o",
        tmp_path / "b.mkv",
        *words,
        "--preset",
        tmp_path / "mine.yaml",
        "--window",
        2,
    )
    assert code == 0
    made = json.loads((tmp_path / "b.mkv.json").read_text())["options"]
    want = {"edit": "style", "steps": 1, "window": 2, "guidance": 1.0, "canny_thresholds": [30, 60], "watermark": False}
    assert {key: made[key] for key in want} == want
    (result,) = (load_preset(tmp_path / "mine.yaml"),)
    edit(tiny.edit(), tmp_path / "a.mp4", tmp_path / "c.mkv", **{**result, "window": 2})
    assert np.array_equal(shown(tmp_path / "b.mkv"), shown(tmp_path / "c.mkv"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("stps: 3", "there is no setting of an edit 'stps'; did you mean steps"),
        ("- 3", "holds no settings, expected lines such as"),
        ("", "holds no settings"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_presets_that_cannot_be_used(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match=f"mine.yaml: {reason}") as error:
        load_preset(tmp_path / "mine.yaml")
    assert "\n" not in str(error.value)


def test_presets_that_do_not_exist(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(InputError, match="there is no preset 'styl'; did you mean style"):
        load_preset("styl")
    with pytest.raises(InputError, match=r"gone\.yaml: no such file, expected a preset"):
        load_preset(tmp_path / "gone.yaml")
    (tmp_path / "mine.yaml").write_text("steps: many")
    code, _, err = run(capsys, "edit", "a.mp4", "-o", "b.mp4", "--preset", tmp_path / "mine.yaml")
    assert (code, err.count("\n")) == (2, 1)
    assert 'unable to convert "many" into int' in err
