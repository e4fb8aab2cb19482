"""Output containers: FFmpeg's names, their codecs, and whether they keep time stamps."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import NamedTuple

from ..extensions import extension


class Container(NamedTuple):
    """The container of a file extension.

    Attributes:
        name: FFmpeg's name.
        codecs: codecs that can be written to it here.
        usual, lossless: the default codec, and the default one for lossless output.
        tick: time base in seconds; None if the container keeps no time stamps.
    """

    name: str
    codecs: tuple[str, ...]
    usual: str
    lossless: str
    tick: Fraction | None


CONTAINERS = {
    ".mp4": Container("mp4", ("h264",), "h264", "h264", Fraction(1, 90_000)),
    ".m4v": Container("mp4", ("h264",), "h264", "h264", Fraction(1, 90_000)),
    ".mov": Container("mov", ("h264",), "h264", "h264", Fraction(1, 90_000)),
    ".mkv": Container("matroska", ("h264", "vp9", "ffv1"), "h264", "ffv1", Fraction(1, 1000)),
    ".webm": Container("webm", ("vp9",), "vp9", "vp9", Fraction(1, 1000)),
    ".avi": Container("avi", ("h264", "ffv1"), "h264", "ffv1", None),
}


def keeps_times(path: str | os.PathLike[str]) -> bool:
    """Whether a video written to `path` can have a variable frame rate; an .avi cannot."""
    container = CONTAINERS.get(extension(path))
    return container is not None and container.tick is not None
