"""Messages about command lines that cannot be parsed, with an example from the command's help."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from cyclopts import App, CycloptsError, MissingArgumentError, UnknownOptionError, UnusedCliTokensError


def usage_error(app: App, error: CycloptsError) -> str:
    """The message for a command line that `app` does not accept."""
    if isinstance(error, MissingArgumentError):
        return _missing(app, error)
    if isinstance(error, UnusedCliTokensError):
        words = " ".join(error.unused_tokens or ())
        return f"{words}: too many arguments" + _for_example(app, tuple(error.command_chain or ()))
    return _unknown_option(error) if isinstance(error, UnknownOptionError) else str(error)


def _missing(app: App, error: MissingArgumentError) -> str:
    """The missing argument, named as in the help (INPUTS, --output (-o)), and an example."""
    if error.argument is None:
        return str(error)
    name, *short = error.argument.names
    option = not error.argument.field_info.is_positional
    if option and short:
        name = f"{name} ({short[0]})"
    lacks = "needs a value" if option and error.keyword is not None else "is missing"
    chain = tuple(error.command_chain or ())
    return f"{name} {lacks}" + _for_example(app, chain, error.argument.names if option else ())


def _for_example(app: App, chain: tuple[str, ...], names: Sequence[str] = ()) -> str:
    """The end of a message: an example from the help of a command, preferably one that uses an option of these names."""
    examples = list(_examples(app, chain))
    shown = [line for line in examples if not names or any(f" {word} " in line for word in names)]
    return f", e.g. {(shown or examples)[0]}" if examples else ""


def _examples(app: App, chain: tuple[str, ...]) -> Iterator[str]:
    """The example command lines in the help of a command."""
    for word in chain:
        app = app[word]
    shown = (app.help_epilogue, app.help, getattr(app.default_command, "__doc__", None))
    begin = f"visionzoo {' '.join(chain)} "
    for line in re.findall(r"visionzoo [^`\n]+", "\n".join(filter(None, shown))):
        if (
            line.startswith(begin) and line.removeprefix(begin).split()[0] not in app
        ):  # examples of subcommands are skipped
            yield line


def _unknown_option(error: UnknownOptionError) -> str:
    """The message for an unknown option; if a file of that name exists, it explains how to pass it as a file."""
    word = error.token.value or error.token.keyword or ""
    return f"{word}: begins like an option; if it is a file, write ./{word}" if os.path.lexists(word) else str(error)


__all__ = ["usage_error"]
