"""Containers that videos are written to: FFmpeg's names, the codecs they hold, and whether they keep times."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import NamedTuple

from ..extensions import extension


class Container(NamedTuple):
    """What a file extension stands for.

    Attributes:
        name: FFmpeg's name.
        codecs: those that are written here.
        usual, lossless: the codec for each purpose.
        tick: times are multiples of this, in seconds; None where the container keeps no times.
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
    """Whether frames of a video written to `path` may last differently long; an .avi has one rate throughout."""
    container = CONTAINERS.get(extension(path))
    return container is not None and container.tick is not None
