"""The settings of a generated video that concern files: size and rate of its frames, the memory on disk, marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from visionzoo.errors import InputError
from visionzoo.options import INPUT, OUTPUT, option

from .source import Fit, check_fit

__all__ = ["GenerateFileOptions"]


def _text(_: Any, tokens: Sequence[Any]) -> Any:
    return tokens[0].value


@Parameter(name="*")
@dataclass(frozen=True)
class GenerateFileOptions:
    """How a file is continued, beside the settings of `GenerateOptions`.

    Attributes:
        size: width and height of the video in pixels; None: what the model was trained for.
        fit: how an image of another size is used, see `SlowFastVGenPipeline.stream`.
        fps: frames per second; None: those of a given video, or the model's own.
        show_source: the video begins with what was given; otherwise it has new frames only.
        memory: folder of the episode's memory: continued if it exists, and written when the video is finished.
        watermark: mark frames invisibly as synthetic (`visionzoo.watermark.read_watermark` detects it).
        label: also write "synthetic" into a corner.

    Raises:
        InputError: a value is not allowed.
    """

    size: Annotated[
        Any,
        option(
            OUTPUT,
            "Size of the video in pixels, e.g. 576x320; by default what the model was trained for.",
            converter=_text,
        ),
    ] = None
    fit: Annotated[
        Fit,
        option(
            INPUT, "An image of another size is scaled and cropped (crop), distorted (stretch), or refused (exact)."
        ),
    ] = "crop"
    fps: Annotated[
        float | None, option(OUTPUT, "Frames per second; by default those of a given video, or the model's.")
    ] = None
    show_source: Annotated[
        bool,
        option(OUTPUT, "Begin the video with the given image or video.", negative="--no-show-source"),
    ] = True
    memory: Annotated[
        Path | None,
        option(
            INPUT,
            "Folder of the episode's memory. If it exists, the episode is continued; without an image, from its last frames. It is "
            "written when the video is finished.",
        ),
    ] = None
    watermark: Annotated[
        bool, option(OUTPUT, negative="--no-watermark", help="Mark the frames invisibly as synthetic.")
    ] = True
    label: Annotated[bool, option(OUTPUT, help='Also write "synthetic" into a corner.')] = False

    def __post_init__(self) -> None:
        if self.size is not None:
            object.__setattr__(self, "size", _size(self.size))
        if self.memory is not None:
            object.__setattr__(self, "memory", Path(self.memory))
        check_fit(self.fit)
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise InputError(f"fps must be above 0 and at most 1000, got {self.fps:g}")

    def to_dict(self) -> dict[str, Any]:
        """The settings that results depend on, as plain values."""
        found = asdict(self)
        return {**found, "size": self.size and list(self.size), "memory": self.memory and str(self.memory)}


def _size(given: Any) -> tuple[int, int]:
    if isinstance(given, str):
        found = re.fullmatch(r"\s*(\d+)\s*[x,]\s*(\d+)\s*", given)
        given = [int(side) for side in found.groups()] if found else given
    if (
        isinstance(given, str)
        or not isinstance(given, Sequence)
        or len(given) != 2
        or any(not isinstance(side, int) or side < 1 for side in given)
    ):
        raise InputError(f"size must be width x height in pixels, e.g. 576x320, got {given!r}")
    return int(given[0]), int(given[1])
