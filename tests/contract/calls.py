"""A call of every command that makes files from files. Registered tasks have one automatically; the table lists exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cyclopts import App

from visionzoo.cli import build_app
from visionzoo.lazy import resolve
from visionzoo.registry import pipeline_entries

ELSEWHERE = ("retrieve index", "retrieve duplicates", "reconstruct", "interpolate", "edit", "generate", "colorize")
"""Commands of tasks whose output or input is not a file; their cases are in `other_cases.py`."""


@dataclass(frozen=True)
class Call:
    """One call with a tiny network.

    Attributes:
        command: as typed, e.g. "dehaze attribute".
        words: the rest; INPUT and OUTPUT are replaced by paths, {weights}, {motion} and {index} by those of the tiny networks.
        output: extension of the output.
        many: whether several inputs can be given.
        to_folder: whether several inputs go to a folder, one file per input; otherwise into one output.
        videos: whether videos are inputs.
    """

    command: str
    words: str = "INPUT -o OUTPUT --checkpoint {weights} --device cpu"
    output: str = ".png"
    many: bool = True
    to_folder: bool = True
    videos: bool = False

    @property
    def task(self) -> str:
        return self.command.split()[0]


CALLS = [
    Call("classify", "INPUT -o OUTPUT --checkpoint {weights} --device cpu", ".html", to_folder=False),
    Call("dehaze", videos=True),
    Call(
        "dehaze attribute", "INPUT --region 0,0,8,8 --steps 1 -o OUTPUT --checkpoint {weights} --device cpu", many=False
    ),
    Call("reenact", "INPUT {motion} -o OUTPUT --crop none --checkpoint {weights} --device cpu", ".mkv", many=False),
    Call("retrieve search", "{index} INPUT -o OUTPUT --device cpu", ".html", to_folder=False),
]


def calls() -> list[Call]:
    """A call of every registered command that reads and writes files."""
    stated = {call.command: call for call in CALLS}
    return [stated.get(name) or _usual(name) for name in commands_with_files()]


def commands_with_files() -> list[str]:
    """Every command of a registered task that has an input and `--output`, e.g. "dehaze attribute"."""
    app = build_app()
    found = []
    for entry in pipeline_entries():
        if entry.command:
            found += [name for name in _leaves(entry.task, app[entry.task]) if name not in ELSEWHERE]
    return found


def _leaves(name: str, app: App) -> Iterator[str]:
    if app.default_command is not None:
        arguments = app.assemble_argument_collection()
        named = {word for argument in arguments for word in argument.names}
        if "--output" in named and any(argument.field_info.is_positional for argument in arguments):
            yield name
    for word in app:
        if not word.startswith("-"):
            yield from _leaves(f"{name} {word}", app[word])


def _usual(name: str) -> Call:
    """The default call of a command; the extension of the output is that of the files that its job writes."""
    call = Call(name)
    (entry,) = (entry for entry in pipeline_entries() if entry.task == call.task)
    job = resolve(entry.factory).files
    return replace(call, output=resolve(job).kinds[0].default) if job else call


def words_of(call: Call, inputs: list[str], output: str, places: dict[str, Path]) -> list[str]:
    """The command line."""
    words = call.command.split()
    for word in call.words.split():
        if word == "INPUT":
            words += inputs
        else:
            words.append(output if word == "OUTPUT" else word.format(**places))
    return words


def options_of(words: list[str], more: list[str]) -> list[str]:
    """A command line with more options, which replace those of the same name (--model also replaces the weights file)."""
    words = list(words)
    for name in more[::2]:
        for old in {"--model": ("--checkpoint",)}.get(name, (name,)):
            if old in words:
                place = words.index(old)
                del words[place : place + 2]
    return words + more
