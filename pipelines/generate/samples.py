"""Images of the toy world to continue, with actions: `slowfastvgen_nano` was trained on other worlds of the same kind."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from visionzoo.errors import require
from visionzoo.io.files import atomic_path, check_output, make_folder, write_text

if TYPE_CHECKING:
    from visionzoo.data.toy_world import Clip

__all__ = ["SAMPLES", "Sample", "true_walk", "write_samples"]

SIZE, HOLD = 96, 8
COMMANDS = "commands.txt"


@dataclass(frozen=True)
class Sample:
    """A first frame, and a walk from it.

    Attributes:
        name: of the files, without extension: the place that they show.
        seed: of the world, in the test split.
        actions: of the walk; it ends where it began.
    """

    name: str
    seed: int
    actions: tuple[str, ...]

    def command(self, folder: Path) -> str:
        """A command line that takes the walk."""
        image, actions = folder / f"{self.name}.png", folder / f"{self.name}.txt"
        return shlex.join(["visionzoo", "generate", str(image), "--actions", str(actions), "-o", f"{self.name}.mp4"])


SAMPLES = (
    Sample("forest", 2, ("go left", "go left", "go right", "go right")),
    Sample("harbour", 4, ("go right", "go right", "go left", "go left")),
    Sample("beach", 8, ("go in", "wait", "go out")),
    Sample("room", 12, ("zoom in", "go right", "go left", "zoom out")),
)


def write_samples(folder: str | Path, overwrite: bool = False) -> list[Path]:
    """Write the images and their actions, and `commands.txt` with a command line for each; the folder is made if it does not exist.

    Raises:
        InputError: the folder or a file cannot be written, or a file exists.
        MissingDependencyError: OpenCV is not installed.
    """
    require("cv2", extra="toy", purpose="drawing the toy world")
    folder = make_folder(folder)
    paths = [folder / f"{sample.name}{suffix}" for sample in SAMPLES for suffix in (".png", ".txt")]
    for path in (*paths, folder / COMMANDS):
        check_output(path, overwrite=overwrite)
    for sample in SAMPLES:
        write_image(sample, folder / f"{sample.name}.png")
        write_text(folder / f"{sample.name}.txt", "".join(f"{action}\n" for action in sample.actions))
    write_text(folder / COMMANDS, "".join(f"{sample.command(folder)}\n" for sample in SAMPLES))
    return [*paths, folder / COMMANDS]


def write_image(sample: Sample, path: Path) -> None:
    """Draw the first frame, 96 x 96 pixels."""
    from PIL import Image

    with atomic_path(path) as part:
        Image.fromarray(true_walk(sample)[0].rgb).save(part, format="PNG")


def true_walk(sample: Sample, hold: int = HOLD) -> Clip:
    """The walk in its world, whose first frame is the image.

    Args:
        hold: frames of each action.
    """
    from visionzoo.data.toy_world import ToyWorld
    from visionzoo.models.slowfastvgen import NANO_SPEED

    world = ToyWorld.create(sample.seed, "test", places=3, characters=0)
    return world.film(
        1 + hold * len(sample.actions), size=(SIZE, SIZE), actions=sample.actions, hold=hold, speed=NANO_SPEED
    )
