"""The help of every command: the same groups in the same order, examples once, and no noise from the option parser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from cyclopts import App

from tests.command import run
from visionzoo import options
from visionzoo.cli import build_app

GROUPS = [group.name for group in (options.INPUT, options.OUTPUT, options.MODEL, options.SPEED)]


def commands(name: tuple[str, ...], app: App) -> Iterator[tuple[str, ...]]:
    """Every command and subcommand that can be called."""
    if app.default_command is not None:
        yield name
    for word in app:
        if not word.startswith("-"):
            yield from commands((*name, word), app[word])


COMMANDS = list(commands((), build_app()))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(command: tuple[str, ...], capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    boxes = re.findall(r"^╭─ (\w+)", out, re.MULTILINE)
    shown = [name for name in boxes if name in GROUPS]
    assert shown == [name for name in GROUPS if name in shown]
    assert set(boxes) <= {*GROUPS, "Commands"}, "an option is in no group"
    assert len(re.findall(r"^Examples?:", out, re.MULTILINE)) == (1 if command else 0)
    assert not re.search(r"--empty-|--no-(quiet|json|overwrite)|default: False|\bAny\b", out)


def test_options_have_one_name_and_one_meaning() -> None:
    """An option of the same name is in the same group everywhere."""
    app, seen = build_app(), dict[str, set[str]]()
    for command in COMMANDS:
        here = app
        for word in command:
            here = here[word]
        for argument in here.assemble_argument_collection():
            if argument.names and not argument.field_info.is_positional and argument.show:
                (group,) = argument.parameter.group  # pyright: ignore[reportGeneralTypeIssues, reportOptionalIterable]
                seen.setdefault(argument.names[0], set()).add(getattr(group, "name", str(group)))
    assert {"--output", "--quiet", "--json", "--device", "--model"} <= seen.keys()
    several = {name: groups for name, groups in seen.items() if len(groups) > 1}
    # of an export, --dtype is the precision of the file; `data` makes frames and actions that others read; a single file of weights
    # needs the --config that diffusers calls so; the memory of an edit is a method, that of a generated video a folder
    assert several.keys() <= {"--actions", "--config", "--dtype", "--frames", "--memory", "--size"}, several


def test_models_of_a_task_are_all_that_it_can_use(capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run(capsys, "models", "--task", "retrieve", "--json")
    names = {row["name"] for row in json.loads(out)}
    assert code == 0
    assert {"superglobal_lite0", "shvit_s1"} <= names
    assert "dehazexl_nano" not in names
    assert "timm:NAME" in run(capsys, "models", "--task", "retrieve")[1]


def test_some_of_several_checkpoints(capsys: pytest.CaptureFixture, tmp_path) -> None:
    """Exit code 1 if one of two names fails, 2 if both do; a single name gives a single message."""
    (tmp_path / "a").write_bytes(b"a")
    code, out, err = run(capsys, "weights", "verify", tmp_path / "a", "nosuch")
    assert (code, out.startswith("ca978112")) == (1, True)
    assert "1 of 2 checkpoints could not be verified" in err
    assert run(capsys, "weights", "verify", "nosuch", "nosuch2")[0] == 2
    assert len(run(capsys, "weights", "verify", "nosuch")[2].splitlines()) == 1


def test_benchmarks_are_listed(capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run(capsys, "bench", "list")
    assert code == 0
    assert out == run(capsys, "bench")[1]
    assert "memory-bank" in out
    assert run(capsys, "bench", "--rounds", "0")[0] == 2
