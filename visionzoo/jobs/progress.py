"""How far the work is: one callback for everything that takes time, and the bars that show it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tqdm import tqdm

Progress = Callable[[str, int, int], object]
"""Called with (what is being done, how many are done, of how many), e.g. ("encode", 3, 20)."""


def silent(what: str, done: int, of: int) -> None:
    """A `Progress` that shows nothing."""


class Bars:
    """A progress bar for every kind of work, one after the other, on standard error if that is a terminal.

    Args:
        shown: show bars.
        name: stands before what is being done, e.g. the name of a file.
        unit: of what is counted.
    """

    def __init__(self, shown: bool, name: str = "", unit: str = "it"):
        self.shown, self.name, self.unit = shown, name, unit
        self._what = ""
        self._bar: Any = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def show(self, what: str, done: int, of: int) -> None:
        """A `Progress`."""
        if self._bar is None or what != self._what:
            self.__exit__()
            self._what = what
            title = f"{self.name}: {what}" if self.name else what
            self._bar = tqdm(total=of, desc=title, unit=self.unit, disable=None if self.shown else True, leave=False)
        self._bar.total = max(of, done)
        self._bar.update(done - self._bar.n)


__all__ = ["Bars", "Progress", "silent"]
