"""Options and arguments that the commands share, so that they are called and explained alike everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeVar

from cyclopts import App, Parameter

from .errors import InputError

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T", int, float)

Device = Annotated[str, Parameter(help="Device to run on: auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    Parameter(help="Precision that the network computes in; bfloat16 is faster on many CPUs, too."),
]
Engine = Annotated[
    Literal["local", "ray"],
    Parameter(help="ray spreads the files over a Ray cluster (needs the extra ray); local takes one after the other."),
]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print the results as JSON on standard output.")]
Overwrite = Annotated[bool, Parameter(negative="", help="Replace existing outputs.")]
Quiet = Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", help="Show no progress bars and no notes.")]


def command_app(name: str, examples: Sequence[str], help: str | None = None) -> App:
    """The app of a task's command, with examples below its help. Subcommands are added with `subcommand`.

    Args:
        examples: command lines.
        help: by default the task's line in the list of commands.
    """
    return App(name=name, help=help, help_epilogue="\n\n".join(["Examples:", *examples]))


def subcommand(app: App) -> Callable[[F], F]:
    """A decorator that adds a function as a subcommand; the examples of `app` are not repeated in its help."""
    return app.command(help_epilogue="")


def inputs(help: str) -> Parameter:
    """The parameter of a list of inputs, which has no `--empty-inputs` switch."""
    return Parameter(help=help, negative="")


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


__all__ = ["Device", "Dtype", "Engine", "Json", "Overwrite", "Quiet", "command_app", "inputs", "numbers", "subcommand"]
