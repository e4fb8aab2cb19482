"""The settings of a colouring that concern files: which frames, and the look of the output."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from visionzoo.errors import InputError
from visionzoo.options import INPUT, OUTPUT, option

__all__ = ["ColorizeFileOptions", "exact_rate"]

FIT = "fit"
"""The size with the proportions of the video, and about as many pixels as the model was trained for."""

MOST_FPS, MULTIPLE = 1000, 16


def _text(_: Any, tokens: Sequence[Any]) -> Any:
    return tokens[0].value


@Parameter(name="*")
@dataclass(frozen=True)
class ColorizeFileOptions:
    """How a file is coloured, beside the settings of `ColorizeOptions`.

    Attributes:
        size: width and height of the result in pixels, multiples of 16; None: what the model was trained for; "fit": as many
            pixels, with the proportions of the video. Frames are scaled to cover it, and what is outside is cut off.
        reference_sketch: a line drawing of the reference image; None: the line-art network makes it.
        frames: use only the first frames; None: all.
        fps: frames per second of a folder of images: a number, or text such as "24000/1001"; None: the model's. Videos have their own.
        preview: colour only the first segment.
        sound: copy the sound.
        watermark: mark frames invisibly as synthetic (`visionzoo.watermark.read_watermark` detects it).
        label: also write "synthetic" into a corner.

    Raises:
        InputError: a value is not allowed.
    """

    size: Annotated[
        Any,
        option(
            OUTPUT,
            "Size of the result in pixels, multiples of 16, e.g. 1024x576, or fit: the proportions of the video; by default what the "
            "model was trained for. Frames are scaled to cover it, and cropped.",
            converter=_text,
        ),
    ] = None
    reference_sketch: Annotated[
        Path | None,
        option(INPUT, help="Line drawing of the reference, if it was made by hand; by default a network extracts it."),
    ] = None
    frames: Annotated[int | None, option(INPUT, help="Use only this many frames, from the beginning.")] = None
    fps: Annotated[
        Any,
        option(
            OUTPUT,
            "Frames per second of a folder of images, e.g. 12, 23.976 or 24000/1001; by default the model's. Videos keep their own.",
            converter=_text,
        ),
    ] = None
    preview: Annotated[
        bool, option(OUTPUT, help="Colour only the first segment, to see quickly what the settings do.")
    ] = False
    sound: Annotated[bool, option(OUTPUT, negative="--no-sound", help="Copy the sound of the video.")] = True
    watermark: Annotated[
        bool, option(OUTPUT, negative="--no-watermark", help="Mark the frames invisibly as synthetic.")
    ] = True
    label: Annotated[bool, option(OUTPUT, help='Also write "synthetic" into a corner.')] = False

    def __post_init__(self) -> None:
        if self.frames is not None and self.frames < 1:
            raise InputError(f"frames must be at least 1, got {self.frames}")
        if self.size not in (None, FIT):
            object.__setattr__(self, "size", _size(self.size))
        if self.fps is not None:
            object.__setattr__(self, "fps", str(exact_rate(self.fps)))

    @property
    def rate(self) -> Fraction | None:
        """`fps` exactly; 23.976 is 24000/1001."""
        return None if self.fps is None else Fraction(self.fps)

    def size_for(self, pipe: Any, height: int, width: int) -> tuple[int, int] | None:
        """Height and width of the result for a video of this height and width; None: what the model was trained for."""
        if self.size == FIT:
            return pipe.fitting_size(height, width)
        return self.size and self.size[::-1]

    def to_dict(self) -> dict[str, Any]:
        """The settings that results depend on, as plain values."""
        found = {**asdict(self), "size": list(self.size) if isinstance(self.size, tuple) else self.size}
        return {key: str(value) if isinstance(value, Path) else value for key, value in found.items()}


def exact_rate(given: Any) -> Fraction:
    """Frames per second as a fraction: 23.976 is 24000/1001.

    Args:
        given: a number, or text such as "12.5" or "24000/1001".

    Raises:
        InputError: it is no rate.
    """
    from visionzoo.io.video.times import standard_rate

    try:
        rate = Fraction(str(given).strip())
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= MOST_FPS:
        raise InputError(f"fps must be above 0 and at most {MOST_FPS}, e.g. 12, 23.976 or 24000/1001, got {given}")
    return standard_rate(rate).limit_denominator(1001)


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
        raise InputError(f"size must be width x height in pixels, e.g. 1024x576, or fit, got {given!r}")
    width, height = int(given[0]), int(given[1])
    if width % MULTIPLE or height % MULTIPLE:
        near = (max(MULTIPLE, MULTIPLE * round(side / MULTIPLE)) for side in (width, height))
        raise InputError(
            f"size must be multiples of {MULTIPLE}, got {width}x{height}; the nearest is {'x'.join(map(str, near))}"
        )
    return width, height
