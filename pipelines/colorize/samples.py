"""Clips of the toy world to colour: line art as an animator hands it over, a reference image, and the true colours to compare with."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from visionzoo.errors import require
from visionzoo.io.files import atomic_path, check_output, make_folder, write_text

if TYPE_CHECKING:
    from visionzoo.data.toy_world import Clip

__all__ = ["SAMPLES", "Sample", "true_clip", "write_samples"]

SIZE, FPS = 128, 12
FRAMES = 341
"""Five segments of 81 frames that overlap by 16."""
COMMANDS = "commands.txt"

ACTIONS = (*["wait"] * 2, *["go right"] * 17, *["wait"] * 4, *["go left"] * 17)
"""The camera leaves a place and comes back; each action takes 8 frames."""
SPEED = 0.3
"""Speed of the camera, close to that of the clips that `longanimation_nano` was trained on; see `ToyWorld.film`."""


@dataclass(frozen=True)
class Sample:
    """A clip with two characters, both of which are in its first frame. One of them leaves the picture and returns later.

    Attributes:
        name: of the files, without extension: the place where the clip begins.
        seed: of the world, in the test split.
        prompt: what the clip shows.
        leaves: number of the character, from 0, that is away for longer than 72 frames, so that the segment before the return
            does not show it.
    """

    name: str
    seed: int
    prompt: str
    leaves: int

    def files(self, folder: Path) -> dict[str, Path]:
        """The files: "lines", "reference" and "color"."""
        return {
            "lines": folder / f"{self.name}_lines.mp4",
            "reference": folder / f"{self.name}_reference.png",
            "color": folder / f"{self.name}_color.mp4",
        }

    def command(self, folder: Path) -> str:
        """A command line that colours the line art."""
        files = self.files(folder)
        words = ["visionzoo", "colorize", str(files["lines"]), "--reference", str(files["reference"])]
        return shlex.join([*words, "--prompt", self.prompt, "-o", f"{self.name}.mp4"])


SAMPLES = (
    Sample(
        "beach",
        5,
        "a woman with a red shirt and a girl with a black shirt on a beach with a green parasol",
        0,
    ),
    Sample(
        "street",
        26,
        "a woman with a blue shirt and a man with a purple shirt on a street with a red tree",
        1,
    ),
)


def write_samples(folder: str | Path, overwrite: bool = False) -> list[Path]:
    """Write the clips as line art, their reference images and their true colours, and `commands.txt` with a command line for each.

    Args:
        folder: created if it does not exist.

    Raises:
        InputError: the folder or a file cannot be written, or a file exists.
        MissingDependencyError: OpenCV or PyAV is not installed.
    """
    require("cv2", extra="toy", purpose="drawing the toy world")
    require("av", extra="video", purpose="writing videos")
    folder = make_folder(folder)
    paths = [path for sample in SAMPLES for path in sample.files(folder).values()]
    for path in (*paths, folder / COMMANDS):
        check_output(path, overwrite=overwrite)
    for sample in SAMPLES:
        write_clip(sample, folder)
    write_text(folder / COMMANDS, "".join(f"{sample.command(folder)}\n" for sample in SAMPLES))
    return [*paths, folder / COMMANDS]


def write_clip(sample: Sample, folder: Path) -> None:
    """Draw a clip of 128 x 128 pixels; existing files are replaced."""
    from PIL import Image

    from visionzoo.io.video import VideoWriter

    files = sample.files(folder)
    with (
        VideoWriter(files["lines"], fps=FPS, crf=12, overwrite=True) as lines,
        VideoWriter(files["color"], fps=FPS, crf=12, overwrite=True) as color,
    ):
        for number, frame in enumerate(true_clip(sample).frames(motion=False)):
            if not number:
                with atomic_path(files["reference"]) as part:
                    Image.fromarray(frame.rgb).save(part, format="PNG")
            lines.write(np.repeat(frame.ink[..., None], 3, 2))
            color.write(frame.rgb)


def true_clip(sample: Sample) -> Clip:
    """The clip in its world, with all that is known about it."""
    from visionzoo.data.toy_world import ToyWorld

    world = ToyWorld.create(sample.seed, "test", places=3, characters=2)
    return world.film(FRAMES, size=(SIZE, SIZE), actions=ACTIONS, speed=SPEED)
