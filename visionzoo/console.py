"""What commands print: results on standard output, notes and warnings on standard error, one line each."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any


def emit(data: Any) -> None:
    """Print `data` as JSON on standard output."""
    print(json.dumps(data, indent=1, ensure_ascii=True, default=str))


def note(text: str, *, quiet: bool = False) -> None:
    """Print a line on standard error."""
    if not quiet:
        print(printable(text), file=sys.stderr)


def fail(text: str) -> None:
    """Print an error as one line on standard error."""
    print(f"visionzoo: error: {printable(' '.join(text.split()))}", file=sys.stderr)


def show_warnings_as_lines() -> None:
    """Show our own warnings as one line each, and hide those of libraries, which a user cannot mend."""

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
    ) -> None:
        if issubclass(category, UserWarning):
            print(f"visionzoo: warning: {printable(str(message).splitlines()[0])}", file=sys.stderr)

    warnings.showwarning = show
    warnings.simplefilter("ignore")
    warnings.filterwarnings("always", category=UserWarning, module=r"visionzoo(\.|$)")


def printable(text: str) -> str:
    """`text` with bytes of file names that are no text shown as question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
