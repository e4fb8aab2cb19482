"""Options and arguments that the commands share, so that they are called, explained and grouped alike everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import App, Group, Parameter

from .errors import InputError
from .lazy import resolve

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T", int, float)

MOST_LISTED = 12
"""Files of a folder that `samples` names one by one; of more it prints the number."""

INPUT, OUTPUT, MODEL, SPEED = (
    Group(name, sort_key=place) for place, name in enumerate(("Input", "Output", "Model", "Speed"), 1)
)
"""The groups of every `--help`, in this order. "Model" also holds what else decides how a result is computed."""

Device = Annotated[
    str, Parameter(group=SPEED, help="Device to run on: auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1 or mps.")
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    Parameter(group=SPEED, help="Precision that the network computes in; bfloat16 is faster on many CPUs, too."),
]
Engine = Annotated[
    Literal["local", "ray"],
    Parameter(
        group=SPEED,
        help="ray spreads the files over a Ray cluster (needs the extra ray); local takes one after the other.",
    ),
]
Json = Annotated[
    bool, Parameter(name="--json", negative="", group=OUTPUT, help="Print the results as JSON on standard output.")
]
Overwrite = Annotated[bool, Parameter(negative="", group=OUTPUT, help="Replace existing outputs.")]
Quiet = Annotated[
    bool,
    Parameter(
        name=["--quiet", "-q"],
        negative="",
        group=OUTPUT,
        help="Report errors only: no progress, no notes, no warnings.",
    ),
]
Checkpoint = Annotated[
    Path | None, Parameter(group=MODEL, help="Weights file to use instead of the model's own weights.")
]


@Parameter(name="*")
@dataclass(frozen=True)
class Reporting:
    """What a command prints.

    Attributes:
        quiet: errors only.
        json: the results, as JSON.
    """

    quiet: Quiet = False
    json: Json = False

    @property
    def silent(self) -> bool:
        """Whether notes are left out: they would be noise beside errors, or beside JSON."""
        return self.quiet or self.json


@Parameter(name="*")
@dataclass(frozen=True)
class Computing(Reporting):
    """What a command prints, and where it computes.

    Attributes:
        device, dtype: where and in what precision the network runs.
    """

    device: Device = "auto"
    dtype: Dtype = "auto"


@Parameter(name="*")
@dataclass(frozen=True)
class Processing(Computing):
    """Options of every command that makes files of files.

    Attributes:
        engine: "local", or "ray" for a cluster.
        overwrite: replace outputs that exist.
    """

    engine: Engine = "local"
    overwrite: Overwrite = False


def inputs(help: str) -> Parameter:
    """The parameter of an input."""
    return Parameter(help=help, group=INPUT, negative="")


def output(help: str) -> Parameter:
    """The parameter of `--output`."""
    return Parameter(name=["--output", "-o"], help=help, group=OUTPUT)


def model(task: str, default: str) -> Parameter:
    """The parameter of `--model`.

    Args:
        default: what is used without it, e.g. "dehazexl_nano by default".
    """
    return Parameter(help=f"Registered model (`visionzoo models --task {task}` lists them); {default}.", group=MODEL)


def option(group: Group, help: str, **more: Any) -> Parameter:
    """The parameter of an option. A flag has no negative form unless `negative` names one."""
    return Parameter(help=help, group=group, **{"negative": "", **more})


def command_app(name: str, examples: Sequence[str], help: str | None = None, usage: str | None = None) -> App:
    """The app of a task's command, with examples below its help. Subcommands are added with `subcommand`.

    Args:
        examples: command lines.
        help: by default the task's line in the list of commands.
        usage: how the command itself is called, if it has subcommands too, e.g. "visionzoo dehaze INPUTS -o OUTPUT".
    """
    lines = "  \n".join(f"`{line}`" for line in examples)  # two spaces end a line in Markdown
    first = None if usage is None else f"Usage: {usage}\n       visionzoo {name} COMMAND --help"
    return App(name=name, help=help, usage=first, help_epilogue=f"Examples:  \n{lines}")


def subcommand(app: App) -> Callable[[F], F]:
    """A decorator that adds a function as a subcommand; the examples of `app` are not repeated in its help."""
    return app.command(help_epilogue="", usage=None)


def samples_command(app: App, task: str, write: str, *, folder: str, help: str, then: str) -> None:
    """Add the subcommand `samples`, which writes files to try a task on.

    Args:
        write: "module:function", which makes the files: called with a folder and whether files may be replaced, returns their paths.
        folder: name for the example.
        help: what the files are.
        then: a command line that uses them.
    """
    from .console import emit, note

    def samples(
        *,
        output: Annotated[Path, output("Folder for the files; made if it does not exist.")],
        overwrite: Overwrite = False,
        reporting: Reporting = Reporting(),
    ) -> None:
        paths: list[Path] = resolve(write)(output, overwrite)
        if reporting.json:
            emit([str(path) for path in paths])
        for line in _listed(paths):
            note(line, quiet=reporting.silent)
        note(f"now try: {then.replace(folder, str(output))}", quiet=reporting.silent)
        takes_folders = app.default_command is not None
        if takes_folders and Path("samples").is_dir() and output.absolute() != Path("samples").absolute():
            note(
                f"to use a folder of your own called samples, write visionzoo {task} ./samples", quiet=reporting.silent
            )

    example = f"Example: visionzoo {task} samples -o {folder}"
    app.command(samples, name="samples", help=f"{help}\n\n{example}", help_epilogue="", usage=None)


def _listed(paths: Sequence[Path]) -> list[str]:
    """The paths, or their number in a folder of many."""
    from .console import counted

    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    lines = []
    for folder, files in folders.items():
        lines += [f"{folder}: {counted(len(files), 'file')}"] if len(files) > MOST_LISTED else map(str, files)
    return lines


def numbers(option: str, text: str, counts: tuple[int, ...], kind: Callable[[str], T] = int) -> tuple[T, ...]:
    """ "1,2,3" -> (1, 2, 3).

    Args:
        option: its name, for the message.
        counts: how many numbers there may be.

    Raises:
        InputError: other counts, or something that is not a number.
    """
    try:
        found = tuple(kind(word) for word in text.replace(" ", "").split(","))
    except ValueError:
        found = ()
    if len(found) not in counts:
        wanted = " or ".join(map(str, counts))
        raise InputError(f"--{option} takes {wanted} numbers separated by commas, got {text!r}")
    return found


__all__ = [
    "INPUT",
    "MODEL",
    "OUTPUT",
    "SPEED",
    "Checkpoint",
    "Computing",
    "Device",
    "Dtype",
    "Engine",
    "Json",
    "Overwrite",
    "Processing",
    "Quiet",
    "Reporting",
    "command_app",
    "inputs",
    "model",
    "numbers",
    "option",
    "output",
    "samples_command",
    "subcommand",
]
