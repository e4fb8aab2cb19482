"""Options of a rendering, and the checks before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from visionzoo.errors import InputError
from visionzoo.io.extensions import IMAGES_WRITTEN, VIDEOS_WRITTEN, extension
from visionzoo.jobs import check_result, refuse_inputs

MOST_SIDE = 8192
MOST_FRAMES = 100_000


@dataclass(frozen=True)
class RenderOptions:
    """What a video of a scene shows.

    Attributes:
        path, time, view, turns: see `camera_path`.
        show: "color", "depth" or "opacity".
        resolution: "640x360", or "512" for the longer side; None: that of the training.
        seconds: length; None: 5, and for "input" that of the recording if its frame rate is known.
        fps: frames per second.
    """

    path: Literal["orbit", "input", "still"] = "orbit"
    time: float | None = None
    view: int = 0
    show: Literal["color", "depth", "opacity"] = "color"
    resolution: str | None = None
    seconds: float | None = None
    fps: float = 24.0
    turns: float = 1.0

    def __post_init__(self) -> None:
        if self.time is not None and not 0 <= self.time <= 1:
            raise InputError(f"--time must be between 0 and 1, got {self.time:g}")
        if self.view < 0:
            raise InputError(f"--view must be at least 0, got {self.view}")
        if not (math.isfinite(self.fps) and 0 < self.fps <= 1000):
            raise InputError(f"--fps must be above 0 and at most 1000, got {self.fps:g}")
        if not math.isfinite(self.turns):
            raise InputError(f"--turns must be a finite number, got {self.turns:g}")
        seconds = 5.0 if self.seconds is None else self.seconds
        frames = seconds * self.fps
        if not math.isfinite(frames) or not 1 <= round(frames) <= MOST_FRAMES:
            raise InputError(
                f"--seconds must give between 1 and {MOST_FRAMES:,} frames, got {seconds:g} s at {self.fps:g} fps"
            )
        if self.resolution is not None:
            self.sides(1, 1)

    def sides(self, width: int, height: int) -> tuple[int, int]:
        """Width and height in pixels of images from a camera of this size.

        Raises:
            InputError: `resolution` cannot be parsed.
        """
        if self.resolution is None:
            return width, height
        try:
            numbers = [int(word) for word in self.resolution.lower().split("x")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2) or not all(1 <= number <= MOST_SIDE for number in numbers):
            raise InputError(
                f"--resolution must be WIDTHxHEIGHT or one number of pixels up to {MOST_SIDE}, got {self.resolution!r}"
            )
        if len(numbers) == 2:
            return numbers[0], numbers[1]
        scale = numbers[0] / max(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def is_image(output: Path) -> bool:
    """Whether one image is written, and no video."""
    return extension(output) in IMAGES_WRITTEN and extension(output) not in VIDEOS_WRITTEN


def check_scene(scene: Path) -> None:
    """Raise `InputError` if there is no such scene."""
    if not scene.exists():
        raise InputError(f"{scene}: no such file; make a scene with: visionzoo reconstruct FOLDER -o {scene}")


def check_render(scene: Path, output: Path, *, overwrite: bool) -> None:
    """Check input and output before anything is loaded.

    Raises:
        InputError: no such scene, an output of an unknown extension, or one that exists or is the input.
    """
    check_scene(scene)
    if not is_image(output) and extension(output) not in VIDEOS_WRITTEN:
        known = ", ".join([*VIDEOS_WRITTEN, *IMAGES_WRITTEN])
        raise InputError(f"{output}: unknown extension {output.suffix or 'of a file without one'}; use one of {known}")
    check_result(output, overwrite=overwrite)
    refuse_inputs([output], [scene])


__all__ = ["RenderOptions", "check_render", "check_scene", "is_image"]
