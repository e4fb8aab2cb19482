"""The settings of an edit that concern files: the control, the mask, which frames, and the look of the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from visionzoo.errors import InputError
from visionzoo.io.extensions import VIDEOS_WRITTEN, extension
from visionzoo.options import INPUT, MODEL, OUTPUT, numbers, option

__all__ = ["EditFileOptions"]


MOST_PIXELS = 4096
"""Limit of the shorter side of edited frames, eight times that of Stable Diffusion 1.5: running out of main memory gives no error."""


def _text(_: Any, tokens: Sequence[Any]) -> Any:
    return tokens[0].value


@Parameter(name="*")
@dataclass(frozen=True)
class EditFileOptions:
    """How a file is edited, beside the settings of `EditOptions`.

    Attributes:
        control: name of a control (see `visionzoo.models.lovecon.control_names`), or ready-made control frames, one for each
            frame: a video or a folder of images, of any size.
        canny_thresholds: lower and upper threshold of the control canny.
        control_weights: see `visionzoo.models.lovecon.control`.
        mask: what may change (with edit="background": what is kept), instead of the attention to words: an image for all frames, or a
            video or a folder of images, one for each frame; white is inside.
        short_side: shorter side in pixels of the frames that are edited; None: what the model was trained for.
        working_size: keep that size in the output; otherwise the output has the size of the source.
        frames: edit only the first frames; None: all.
        preview: edit only the first window.
        sound: copy the sound.
        watermark: mark frames invisibly as synthetic (`visionzoo.watermark.read_watermark` detects it).
        label: also write "synthetic" into a corner.
        save_mask, save_control: also write the mask and the control frames, as videos.

    Raises:
        InputError: a value is not allowed.
    """

    control: Annotated[
        str,
        option(
            INPUT,
            help="What keeps the shape of the source: canny, hed, or with the package controlnet-aux depth, openpose, softedge and "
            "others; or a video or a folder of ready-made control images. The ControlNet must be of this kind.",
        ),
    ] = "canny"
    canny_thresholds: Annotated[
        Any, option(INPUT, converter=_text, help="Lower and upper threshold of canny: 100,100 by default.")
    ] = (100.0, 100.0)
    control_weights: Annotated[
        Path | None,
        option(INPUT, help="Weights of the detector: for hed a .weights.h5 file, for controlnet-aux a folder."),
    ] = None
    mask: Annotated[
        Path | None,
        option(
            INPUT,
            help="Image, video or folder of images that is white where the video may change (with --edit background: where it stays), "
            "instead of a mask from the words.",
        ),
    ] = None
    short_side: Annotated[
        int | None,
        option(
            MODEL,
            help="Shorter side in pixels of the frames while they are edited; by default what the model was made for.",
        ),
    ] = None
    working_size: Annotated[
        bool, option(OUTPUT, help="Write frames in the size in which they were edited, not in that of the source.")
    ] = False
    frames: Annotated[int | None, option(INPUT, help="Edit only this many frames, from the beginning.")] = None
    preview: Annotated[
        bool, option(OUTPUT, help="Edit only the first window, to see quickly what the settings do.")
    ] = False
    sound: Annotated[bool, option(OUTPUT, negative="--no-sound", help="Copy the sound of the video.")] = True
    watermark: Annotated[
        bool, option(OUTPUT, negative="--no-watermark", help="Mark the frames invisibly as synthetic.")
    ] = True
    label: Annotated[bool, option(OUTPUT, help='Also write "synthetic" into a corner.')] = False
    save_mask: Annotated[Path | None, option(OUTPUT, help="Also write the mask as a video.")] = None
    save_control: Annotated[Path | None, option(OUTPUT, help="Also write the control frames as a video.")] = None

    def __post_init__(self) -> None:
        if isinstance(self.canny_thresholds, str):
            given = numbers("canny-thresholds", self.canny_thresholds, (2,), float)
            object.__setattr__(self, "canny_thresholds", given)
        for name in ("short_side", "frames"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if not self.control:
            raise InputError("control is empty; name a control such as canny, or a file or folder of control images")
        if self.short_side is not None and self.short_side > MOST_PIXELS:
            raise InputError(f"short_side must be at most {MOST_PIXELS} pixels, got {self.short_side}")
        for path in (self.save_mask, self.save_control):
            if path is not None and extension(path) not in VIDEOS_WRITTEN:
                raise InputError(
                    f"{path}: is written as a video; choose a name that ends in {', '.join(VIDEOS_WRITTEN)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """The settings that results depend on, as plain values."""
        skipped = ("save_mask", "save_control", "preview", "frames")
        found = {key: value for key, value in asdict(self).items() if key not in skipped}
        return {key: str(value) if isinstance(value, Path) else value for key, value in found.items()}
