"""Work that a page does for a visitor: its progress, its files, and its summary."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from .uploads import new_folder
from .words import plain

RESULTS = "results"
"""Folder, next to the uploads, for files that are offered as downloads."""


class Cancelled(Exception):
    """The visitor pressed Cancel, or left."""


@dataclass
class Work:
    """Arguments that a page's function gets in addition to its inputs.

    Attributes:
        home: the demo's folder of uploads and results.
        names: path -> name of the uploads among the inputs.
        stop: set when the visitor cancels.
        live: the latest HTML of `show`.
    """

    home: Path
    names: dict[str, str] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    live: str = ""
    _folder: Path | None = None
    _told: tuple[str, int, int] = ("starting", 0, 0)
    _since: float = field(default_factory=time.monotonic)

    def report(self, what: str, done: int, of: int) -> None:
        """Show how far the work is: a `visionzoo.jobs.Progress`.

        Raises:
            Cancelled: the visitor no longer wants the result.
        """
        if self.stop.is_set():
            raise Cancelled
        if what != self._told[0]:
            self._since = time.monotonic()
        self._told = (what, done, of)

    def show(self, html: str) -> None:
        """Show an intermediate result below the progress, on a page with `panel.results(live=True)`."""
        self.live = html

    def folder(self) -> Path:
        """A folder for files that are offered as downloads; it is deleted if the work fails, else after an hour."""
        if self._folder is None:
            self._folder = new_folder(self.home / RESULTS)
        return self._folder

    def drop(self) -> None:
        """Delete the files that were written."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def shown(self) -> str:
        """The progress as HTML."""
        what, done, of = self._told
        spent = time.monotonic() - self._since
        if of <= 0:
            return progress_line(f"{what} …")
        left = f", about {_roughly(spent / done * (of - done))} left" if done and spent > 2 else ""
        return progress_line(f"{what}: {done:,} of {of:,}{left}", done / of)


def _roughly(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 100 else f"{max(1, round(seconds))} s"


def progress_line(text: str, share: float | None = None) -> str:
    """A line of text above a bar; the bar is indeterminate if `share` is None."""
    value = "" if share is None else f' value="{min(1, share):.3f}"'
    text = plain(text[:1].upper() + text[1:])
    return f'<div class="vz-progress" role="status"><span>{text}</span><progress{value} aria-label="progress"></progress></div>'


def saved(path: Path, label: str = "Download") -> str:
    """A link, as HTML, that downloads a file of `Work.folder`."""
    size = path.stat().st_size
    text = f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{max(1, round(size / 1000))} kB"
    return (
        f'<a class="vz-download" href="gradio_api/file={quote(path.as_posix())}" download="{plain(path.name)}">'
        f"{plain(label)} ({path.suffix[1:].upper()}, {text})</a>"
    )


def sweep(home: Path, age_s: float = 3600) -> None:
    """Delete the results in a demo's folder that are older than an hour."""
    for folder in (home / RESULTS).glob("*"):
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile, as the work failed
            if time.time() - folder.stat().st_mtime > age_s:
                shutil.rmtree(folder, ignore_errors=True)


def summary(heading: str, *facts: str, below: str = "") -> str:
    """A summary: a heading, facts and a sentence, as HTML. The arguments are plain text."""
    details = ", ".join(fact for fact in facts if fact)
    return (
        f'<div class="vz-done"><h2>{plain(heading)}</h2><span>{plain(details)}</span>'
        f"{f'<p>{plain(below)}</p>' if below else ''}</div>"
    )


__all__ = ["Cancelled", "Work", "progress_line", "saved", "summary", "sweep"]
