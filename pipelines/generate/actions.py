"""Actions: what happens in each chunk of a video, as text, one after another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from visionzoo.errors import InputError, described
from visionzoo.io.head import read_head

__all__ = ["EXAMPLE", "check_action", "check_actions", "read_actions", "repeated"]

EXAMPLE = 'one action per line, e.g. "go left" or "go left x3"'
_REPEATED = re.compile(r"(.*\S)\s+x\s?(\d+)")
LONGEST = 1_000_000
"""Bytes of a file of actions: a million chunks would take months."""


def repeated(text: str) -> list[str]:
    """The action of a line, as often as it says: "go left x3" is "go left" three times.

    Raises:
        InputError: zero times.
    """
    text = " ".join(text.split())
    found = _REPEATED.fullmatch(text)
    if found is None:
        return [text]
    if not 1 <= int(found[2]) <= 10_000:
        raise InputError(f"{text!r}: an action can be repeated 1 to 10,000 times")
    return [found[1]] * int(found[2])


def read_actions(path: str | Path) -> list[str]:
    """Read a text file with an action on each line; empty lines and those that begin with # are skipped.

    Raises:
        InputError: there is no such file, it is no text, or holds no actions.
    """
    path = Path(path)
    read_head(path, f"a text file with {EXAMPLE}")
    if path.stat().st_size > LONGEST:
        raise InputError(f"{path}: holds {path.stat().st_size:,} bytes, expected a text file with {EXAMPLE}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text file (UTF-8); expected {EXAMPLE}") from error
    actions: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                actions += repeated(line)
            except InputError as error:
                raise InputError(f"{path}, line {number}: {error}") from error
    if not actions:
        raise InputError(f"{path}: holds no actions; write {EXAMPLE}")
    return actions


def check_action(action: object, known: Sequence[str] | None) -> str:
    """An action as the model was given it in training, without surplus spaces.

    Args:
        known: all actions of the model; None if it takes any text.

    Raises:
        InputError: an empty action, another type, or one that the model does not know.
    """
    if not isinstance(action, str):
        raise InputError(f"an action must be a text such as 'go left', got {described(action)}")
    text = " ".join(action.split())
    if not text:
        raise InputError("an action is empty; describe what happens, e.g. 'go left'")
    if known is None:
        return text
    text = text.lower()
    if text not in known:
        raise InputError(f"the model does not know the action {action!r}; it knows: {', '.join(known)}")
    return text


def check_actions(actions: Iterable[object], known: Sequence[str] | None) -> list[str]:
    """All actions, checked; raises `InputError` as `check_action`, or if there are none."""
    found = [check_action(action, known) for action in actions]
    if not found:
        raise InputError(f"no actions: describe what happens, {EXAMPLE}")
    return found
