"""Options and arguments shared by the commands, so that names, help texts and groups are the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

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
"""The groups of every `--help`, in this order. "Model" also holds other options that affect the result."""

Device = Annotated[
    str, Parameter(group=SPEED, help="Device to run on: auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1 or mps.")
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    Parameter(group=SPEED, help="Precision of the network's computations; bfloat16 is faster on many CPUs, too."),
]
Engine = Annotated[
    Literal["local", "ray"],
    Parameter(
        group=SPEED,
        help="ray distributes the files over a Ray cluster (needs the extra ray); local processes one after another.",
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
    """Options that control what a command prints.

    Attributes:
        quiet: print only errors.
        json: print the results as JSON.
    """

    quiet: Quiet = False
    json: Json = False

    @property
    def silent(self) -> bool:
        """Whether to print no notes, as with `quiet` and `json`."""
        return self.quiet or self.json


@Parameter(name="*")
@dataclass(frozen=True)
class Computing(Reporting):
    """Options that control what a command prints and where it computes.

    Attributes:
        device, dtype: where and in what precision the network runs.
    """

    device: Device = "auto"
    dtype: Dtype = "auto"


@Parameter(name="*")
@dataclass(frozen=True)
class Processing(Computing):
    """Options of every command that turns files into files.

    Attributes:
        engine: "local", or "ray" for a cluster.
        overwrite: replace existing outputs.
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
        default: the default, as help text, e.g. "dehazexl_nano by default".
    """
    return Parameter(help=f"Registered model (`visionzoo models --task {task}` lists them); {default}.", group=MODEL)


def option(group: Group, help: str, **more: Any) -> Parameter:
    """The parameter of an option. A flag has no negative form unless `negative` gives one."""
    return Parameter(help=help, group=group, **{"negative": "", **more})


def command_app(name: str, examples: Sequence[str], help: str | None = None, usage: str | None = None) -> App:
    """The app of a task's command, with examples below its help. Add subcommands with `subcommand`.

    Args:
        examples: example command lines.
        help: by default the summary of the registered task.
        usage: usage of the command itself, if it has one besides its subcommands, e.g. "visionzoo dehaze INPUTS -o OUTPUT".
    """
    lines = "  \n".join(f"`{line}`" for line in examples)  # two spaces end a line in Markdown
    first = None if usage is None else f"Usage: {usage}"
    return App(name=name, help=help, usage=first, help_epilogue=f"Examples:  \n{lines}")


def subcommand(app: App) -> Callable[[F], F]:
    """Decorator that adds a function as a subcommand; its help does not repeat the examples of `app`."""
    _mention_subcommands(app)
    return app.command(help_epilogue="", usage=None)


def _mention_subcommands(app: App) -> None:
    """Add a line about subcommands to the usage, unless cyclopts writes the usage."""
    line = f"\n       visionzoo {app.name[0]} COMMAND --help"
    if app.usage and not app.usage.endswith(line):
        app.usage += line


def refuse_empty_paths(app: App, commands: Sequence[str], arguments: Any) -> None:
    """Raise `InputError` for a path that is an empty text, as from a shell variable that is not set: it would be the current folder.

    It is a source of options for cyclopts that gives none.
    """
    for argument in arguments:
        if _holds_paths(argument.hint) and any(token.value == "" for token in argument.tokens):
            raise InputError(f"{argument.name}: the path is empty; give a file or folder")


def _holds_paths(hint: Any) -> bool:
    return hint is Path or any(map(_holds_paths, get_args(hint)))


def samples_command(app: App, task: str, write: str, *, folder: str, help: str, then: str) -> None:
    """Add the subcommand `samples`, which writes sample files for a task.

    Args:
        write: "module:function" that writes the files: called with a folder and whether files may be replaced, returns their paths.
        folder: folder name in the example.
        help: help text that describes the files.
        then: an example command line that uses them.
    """
    from .console import emit, note

    def samples(
        *,
        output: Annotated[Path, output("Folder for the files; created if it does not exist.")],
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
    _mention_subcommands(app)
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
    """Parse comma-separated numbers: "1,2,3" -> (1, 2, 3).

    Args:
        option: name of the option, for the error message.
        counts: allowed numbers of values.

    Raises:
        InputError: a wrong number of values, or a value that is not a number.
    """
    try:
        found = tuple(kind(word) for word in text.replace(" ", "").split(","))
    except ValueError:
        found = ()
    if len(found) not in counts:
        wanted = " or ".join(map(str, counts))
        raise InputError(f"--{option} must be {wanted} numbers separated by commas, got {text!r}")
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
    "refuse_empty_paths",
    "samples_command",
    "subcommand",
]
