"""Which files of Gaussians there are, without loading what reads them."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from visionzoo.errors import InputError

FORMATS = (".compressed.ply", ".ply", ".spz", ".splat")
"""Extensions of files of Gaussians."""


def format_of(path: str | PathLike[str]) -> str | None:
    """The format that the extension names, one of `FORMATS`; None for another extension."""
    name = Path(path).name.lower()
    return next((ending for ending in FORMATS if name.endswith(ending)), None)


def splat_format(path: str | PathLike[str]) -> str:
    """The same; raises `InputError` for another extension."""
    found = format_of(path)
    if found is None:
        raise InputError(f"{path}: the extension chooses the format and must be one of {', '.join(FORMATS)}")
    return found


__all__ = ["FORMATS", "format_of", "splat_format"]
