"""Progress: one callback for everything that takes time, shown as bars, or as lines where no bar can be drawn."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, Self

from tqdm import tqdm

from ..console import printable

Progress = Callable[[str, int, int], object]
"""Called with (activity, number done, total), e.g. ("encode", 3, 20)."""

FIRST_LINE_S, LINE_EVERY_S = 10.0, 60.0
"""Seconds until the first line and between lines, if standard error is a pipe or the process is in the background."""


def silent(what: str, done: int, of: int) -> None:
    """A `Progress` that shows nothing."""


class Counter:
    """Shows progress: as a bar on a terminal, elsewhere as occasional lines with the remaining time.

    Args:
        total: total number of items.
        title: the activity, e.g. "indexing".
        unit: noun for the items, in the singular; empty if the title names them.
        shown: whether anything is shown.
        initial: number of items that are done already.
        leave: whether the bar stays visible at the end.
    """

    def __init__(
        self, total: int, title: str, unit: str = "file", *, shown: bool = True, initial: int = 0, leave: bool = True
    ):
        self.total, self.title, self.unit, self.done, self._initial = total, title, unit, initial, initial
        self._note = ""
        self._started = time.monotonic()
        self._due = self._started + FIRST_LINE_S
        bar = shown and _can_draw()
        self._lines = shown and not bar
        self._bar = tqdm(total=total, initial=initial, desc=title, unit=unit or "it", leave=leave, disable=not bar)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, count: int = 1, total: int | None = None, note: str = "") -> None:
        """Count `count` more items as done, set `total` if it has become known, and show `note`, such as a loss."""
        if total is not None:
            self.total = self._bar.total = total
        self.done += count
        self._note = note
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        now = time.monotonic()
        if self._lines and now >= self._due and self.done < self.total:
            self._due = now + LINE_EVERY_S
            print(self._line(now - self._started), file=sys.stderr, flush=True)

    def _line(self, seconds: float) -> str:
        plural = f"{self.unit[:-1]}ies" if self.unit.endswith("y") else f"{self.unit}s"
        unit = f" {plural}" if self.unit else ""
        shown = f", {self._note}" if self._note else ""
        text = f"visionzoo: {printable(self.title)}: {self.done} of {self.total}{unit}{shown}"
        fresh = self.done - self._initial
        if not fresh:
            return text
        return f"{text}, about {duration(seconds / fresh * (self.total - self.done))} left"


class Bars:
    """Shows a counter for each activity, one after another.

    Args:
        shown: whether anything is shown.
        name: prefix of the activity, e.g. the name of a file.
        unit: noun for the items, in the singular; empty if the activity names them.
    """

    def __init__(self, shown: bool, name: str = "", unit: str = ""):
        self.shown, self.name, self.unit = shown, name, unit
        self._what = ""
        self._counter: Counter | None = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._counter is not None:
            self._counter.__exit__()
            self._counter = None

    def show(self, what: str, done: int, of: int) -> None:
        """A `Progress`."""
        if self._counter is None or what != self._what:
            self.__exit__()
            self._what = what
            title = f"{self.name}: {what}" if self.name else what
            # what is done at the first report may be of an earlier run, and says nothing about the time
            self._counter = Counter(of, title, self.unit, shown=self.shown, initial=done, leave=False)
        self._counter.update(done - self._counter.done, max(of, done))


def duration(seconds: float) -> str:
    """A duration as text with suitable units: "40 s", "7 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{round(hours / 24)} days"


def _can_draw() -> bool:
    """Whether standard error is a terminal and this process is in the foreground."""
    stream: Any = sys.stderr
    try:
        if not stream.isatty():
            return False
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except (AttributeError, OSError, ValueError):
        return bool(getattr(stream, "isatty", lambda: False)())


__all__ = ["Bars", "Counter", "Progress", "duration", "silent"]
