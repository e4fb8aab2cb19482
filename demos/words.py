"""Text of the pages as HTML."""

from __future__ import annotations

import html
import re

from visionzoo.console import printable


def plain(text: str) -> str:
    return html.escape(printable(text))


def prose(text: str) -> str:
    """With what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", plain(text))


def show_problem(reason: str, below: str = "") -> str:
    """A line on what went wrong, above the HTML `below`."""
    return f'<div class="vz-problem" role="alert">{plain(reason)}</div>{below}'


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


__all__ = ["duration", "plain", "prose", "show_problem"]
