"""Output of commands: results on standard output; notes and warnings on standard error, one line each."""

from __future__ import annotations

import json
import re
import sys
import warnings
from typing import Any

from .errors import Caution, FileFailed


def emit(data: Any) -> None:
    """Print `data` as JSON on standard output."""
    print(json.dumps(data, indent=1, ensure_ascii=True, default=str))


def note(text: str, *, quiet: bool = False) -> None:
    """Print a note, one line, on standard error."""
    if not quiet:
        print(printable(text), file=sys.stderr)


def fail(text: str) -> None:
    """Print an error as one line on standard error."""
    print(f"visionzoo: error: {printable(' '.join(text.split()))}", file=sys.stderr)


def show_warnings_as_lines(*, quiet: bool = False, json: bool = False) -> None:
    """Show our own warnings as one line each, and hide those of libraries, which a user cannot fix.

    Args:
        quiet: show only warnings that a file could not be processed.
        json: show no cautions about weights, as the output is for a program.
    """

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
    ) -> None:
        if issubclass(category, FileFailed if quiet else UserWarning) and not (json and issubclass(category, Caution)):
            print(f"visionzoo: warning: {printable(str(message).splitlines()[0])}", file=sys.stderr)

    warnings.showwarning = show
    warnings.simplefilter("ignore")
    warnings.filterwarnings("always", category=UserWarning, module=r"visionzoo(\.|$)")


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: "1 photo", "2 photos", "1,200 photos"."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters, line and paragraph separators, and bidirectional controls."""


def printable(text: str) -> str:
    """`text` as one line, with special characters made visible.

    A file name can contain a newline or a terminal escape sequence; these become escapes such as \\n. Bytes that are not text
    become question marks.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
