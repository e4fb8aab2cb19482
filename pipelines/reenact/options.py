"""The settings of a reenactment: the command, the pipeline and its jobs share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from visionzoo.errors import InputError
from visionzoo.faces.crop import CropBox
from visionzoo.options import INPUT, MODEL, OUTPUT, SPEED, option

SourceCrop = Literal["auto", "centre", "none"] | CropBox
"""The square of an image that the network sees: around the face, the largest central one, all of it (squeezed), or a given one."""
DrivingCrop = SourceCrop | Literal["follow"]
"""The same for a video: "auto" and the others stay where they are, "follow" keeps the face in the middle of every frame."""
Mode = Literal["relative", "absolute"]
View = Literal["face", "whole", "side-by-side"]
"""The content of a video: the animated crop, the source image with the crop pasted back, or source, driver and result in a row."""


def _text(_: Any, tokens: Sequence[Any]) -> Any:
    return tokens[0].value


@Parameter(name="*")
@dataclass(frozen=True)
class ReenactOptions:
    """How a face is animated.

    Attributes:
        mode: "relative" keeps the source's shape and place and moves it as the driver moved since frame `start`; "absolute" takes
            the driver's keypoints unchanged.
        adapt_scale: with "relative", fit movements to the size of the source's face.
        start: with "relative", the frame that is taken to have the source's pose: "best" searches for it, "first", or a number
            from 0.
        crop, crop_driving: see `SourceCrop` and `DrivingCrop`; "left,top,side" in pixels is a `CropBox`.
        face, face_driving: "largest", or a number counted from the left, from 1; where the crop is "auto" or "follow".
        smooth: how much jitter is removed from the motion, from 0 to below 1.
        view: see `View`.
        sound: copy the driving video's sound.
        watermark: mark frames invisibly as synthetic (`visionzoo.watermark.read_watermark` detects it).
        label: also write "synthetic" into a corner.
        batch_size: frames that go through the network together.
        noise: noise in the network's memory; the published code draws it at random in every frame.
        seed: random seed for the noise.

    Raises:
        InputError: a value is not allowed.
    """

    mode: Annotated[
        Mode,
        option(
            MODEL,
            help="relative keeps the shape and place of the source's face; absolute uses those of the driving video's.",
        ),
    ] = "relative"
    adapt_scale: Annotated[
        bool, option(MODEL, negative="--no-adapt-scale", help="Scale movements to the size of the source's face.")
    ] = True
    start: Annotated[
        int | str,
        option(
            MODEL,
            converter=_text,
            help="Frame of the driving video that has the source's pose: best (searched for), first, or a number from 0.",
        ),
    ] = "best"
    crop: Annotated[
        Any,
        option(
            INPUT,
            converter=_text,
            help="Part of the source image to use: auto (around the face), centre, none (all of it, squeezed), or "
            "left,top,side in pixels.",
        ),
    ] = "auto"
    crop_driving: Annotated[
        Any,
        option(
            INPUT,
            converter=_text,
            help="Part of the driving video to use: as for --crop, or follow, which keeps the face in the middle of every frame.",
        ),
    ] = "auto"
    face: Annotated[
        int | str,
        option(
            INPUT,
            converter=_text,
            help="Which face to animate if there are several: largest, or counted from the left (1 = leftmost).",
        ),
    ] = "largest"
    face_driving: Annotated[
        int | str,
        option(
            INPUT,
            converter=_text,
            help="Which face of the driving video to use: largest, or counted from the left (1 = leftmost).",
        ),
    ] = "largest"
    smooth: Annotated[
        float, option(MODEL, help="Remove jitter from the motion, from 0 (off) to below 1; 0.8 is strong.")
    ] = 0.0
    view: Annotated[
        View,
        option(
            OUTPUT,
            help="What the video shows: face (the crop), whole (the crop pasted back into the source), or side-by-side "
            "(source, driving video and result).",
        ),
    ] = "face"
    sound: Annotated[bool, option(OUTPUT, negative="--no-sound", help="Copy the sound of the driving video.")] = True
    watermark: Annotated[
        bool, option(OUTPUT, negative="--no-watermark", help="Mark the frames invisibly as synthetic.")
    ] = True
    label: Annotated[bool, option(OUTPUT, help='Also write "synthetic" into a corner.')] = False
    batch_size: Annotated[int, option(SPEED, help="Number of frames that go through the network together.")] = 8
    noise: Annotated[
        Literal["none", "fixed", "random"],
        option(MODEL, help="Noise in the network's memory; the published code draws random noise in every frame."),
    ] = "none"
    seed: Annotated[int, option(MODEL, help="Random seed for the noise.")] = 0

    def __post_init__(self) -> None:
        resolved = {
            "start": _start(self.start),
            "crop": _crop("crop", self.crop),
            "crop_driving": _crop("crop-driving", self.crop_driving, "follow"),
            "face": _face("face", self.face),
            "face_driving": _face("face-driving", self.face_driving),
        }
        for name, value in resolved.items():
            object.__setattr__(self, name, value)
        if self.mode not in ("relative", "absolute"):
            raise InputError(f"mode must be relative or absolute, got {self.mode!r}")
        if self.view not in ("face", "whole", "side-by-side"):
            raise InputError(f"view must be face, whole or side-by-side, got {self.view!r}")
        if self.noise not in ("none", "fixed", "random"):
            raise InputError(f"noise must be none, fixed or random, got {self.noise!r}")
        if not 0 <= self.smooth < 1:
            raise InputError(f"smooth must be at least 0 and below 1, got {self.smooth:g}")
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}")

    def to_dict(self) -> dict[str, Any]:
        """The settings that results depend on, as plain values."""
        return {key: value for key, value in asdict(self).items() if key != "batch_size"}


def _start(value: int | str) -> int | str:
    if value in ("best", "first"):
        return value
    if not str(value).isdigit():
        raise InputError(f"--start must be best, first, or the number of a frame from 0, got {value!r}")
    return int(value)


def _face(option: str, value: int | str) -> int | str:
    if value == "largest":
        return value
    if not str(value).isdigit() or int(value) < 1:
        raise InputError(
            f"--{option} must be largest, or the number of a face counted from the left (1 = leftmost); got {value!r}"
        )
    return int(value)


def _crop(option: str, value: Any, *others: str) -> Any:
    words = ("auto", "centre", "none", *others)
    if isinstance(value, CropBox) or value in words:
        return value
    try:
        left, top, side = (float(part) for part in (value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError) as error:
        raise InputError(f"--{option} must be {', '.join(words)}, or left,top,side in pixels, got {value!r}") from error
    if side <= 0:
        raise InputError(f"--{option} must have a side above 0, got {value!r}")
    return CropBox(left, top, side)


__all__ = ["DrivingCrop", "Mode", "ReenactOptions", "SourceCrop", "View"]
