"""Clips of the toy world to try editing with: `lovecon_nano` was trained on other worlds of the same kind."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from visionzoo.errors import require
from visionzoo.io.files import check_output, make_folder, write_text

__all__ = ["SAMPLES", "Sample", "write_samples"]

FRAMES, FPS = 200, 12
COMMANDS = "commands.txt"


@dataclass(frozen=True)
class Sample:
    """A clip, in which the shirt of the character is visible nearly all the time, and an edit of it.

    Attributes:
        name: of the file, without extension.
        seed: of the world, in the test split.
        source_prompt: the caption that is true for the most frames.
        old, new: words of it that the edit replaces, and what by.
    """

    name: str
    seed: int
    source_prompt: str
    old: str
    new: str

    @property
    def prompt(self) -> str:
        """The edited caption."""
        return self.source_prompt.replace(self.old, self.new)

    def command(self, folder: Path) -> str:
        """A command line that edits the clip."""
        words = ["visionzoo", "edit", str(folder / f"{self.name}.mp4"), "--source-prompt", self.source_prompt]
        words += ["--prompt", self.prompt, "-o", f"{self.name}_{self.new.replace(' ', '_')}.mp4"]
        return shlex.join(words)


SAMPLES = (
    Sample(
        "girl",
        0,
        "a girl with white hair, a green shirt, purple trousers, black shoes, an orange hat and a brown bag stands in a park with "
        "a pink bush",
        "green shirt",
        "blue shirt",
    ),
    Sample(
        "boy",
        11,
        "a boy with pink hair, a white shirt, purple trousers and white shoes stands on a beach with a brown rock, a red boat and a "
        "green ball",
        "white shirt",
        "red shirt",
    ),
)


def write_samples(folder: str | Path, overwrite: bool = False) -> list[Path]:
    """Write the clips, and `commands.txt` with a command line that edits each; the folder is made if it does not exist.

    Raises:
        InputError: the folder or a file cannot be written, or a file exists.
        MissingDependencyError: OpenCV is not installed.
    """
    require("cv2", extra="edit", purpose="drawing the toy world")
    folder = make_folder(folder)
    paths = [folder / f"{sample.name}.mp4" for sample in SAMPLES]
    for path in (*paths, folder / COMMANDS):
        check_output(path, overwrite=overwrite)
    for sample, path in zip(SAMPLES, paths, strict=True):
        write_clip(sample, path)
    write_text(folder / COMMANDS, "".join(f"{sample.command(folder)}\n" for sample in SAMPLES))
    return [*paths, folder / COMMANDS]


def write_clip(sample: Sample, path: Path, frames: int = FRAMES) -> None:
    """Draw a clip of 128 x 128 pixels."""
    from visionzoo.data.toy_world import ToyWorld
    from visionzoo.io.video import VideoWriter

    clip = ToyWorld.create(sample.seed, "test").film(frames)
    with VideoWriter(path, fps=FPS, crf=12, overwrite=True) as writer:
        for frame in clip.frames(motion=False):
            writer.write(frame.rgb)
