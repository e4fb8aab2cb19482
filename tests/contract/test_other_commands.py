"""Commands that do not turn an image into a file, over awkward files: their messages, exit codes and files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.command import run

from .calls import ELSEWHERE, Call
from .cases import Case, Material
from .other_cases import OTHERS
from .test_commands import assert_left, lay_out

PAIRS = [(command, case) for command, cases in OTHERS.items() for case in cases]
CALL = Call("", output="")


@pytest.mark.parametrize(("command", "case"), PAIRS, ids=[f"{command}-{case.name}" for command, case in PAIRS])
def test_messages_and_remaining_files(
    command: str,
    case: Case,
    stuff: Material,
    index: Path,
    capture: Path,
    scene: Path,
    busy: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    needed = {"export": "onnxscript", "view": "viser"}
    if command in needed:
        pytest.importorskip(needed[command])
    monkeypatch.chdir(tmp_path)
    before = lay_out(case, CALL, stuff, tmp_path)
    code, _, err = run(
        capsys, *(word.format(index=index, capture=capture, scene=scene, busy=busy) for word in case.inputs)
    )
    lines = [one for one in err.splitlines() if "is below the smallest size" not in one]
    assert re.match(case.says, lines[0].removeprefix("visionzoo: error: ")), err
    assert code == case.code, err
    assert sum(one.startswith("visionzoo: error: ") for one in lines) == 1
    assert_left(tmp_path, before, list(case.left))


@pytest.mark.parametrize("command", OTHERS)
def test_missing_settings_are_named_with_an_example(command: str, capsys: pytest.CaptureFixture) -> None:
    code, _, err = run(capsys, *command.split())
    assert code == 2
    assert re.fullmatch(rf"visionzoo: error: \S+( \(-\w\))? is missing, e\.g\. visionzoo {command} .*\n", err)


def test_a_weights_file_resumes_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(tiny.NETWORKS["classify"]().state_dict(), "w.pth")
    code, _, err = run(capsys, "fit", "--config", "shvit/tiny", "ckpt_path=w.pth")
    assert (code, err.count("\n")) == (2, 1)
    assert re.search(r"w\.pth: is not a training checkpoint \(it holds no training state\); .*earlier run", err)


def test_commands_that_are_tested_elsewhere_exist() -> None:
    assert set(ELSEWHERE) <= set(OTHERS)
