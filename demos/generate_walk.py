"""A visitor's walk on the page of generated videos: the same actions with and without memory, from one image."""

from __future__ import annotations

import itertools
import shutil
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.io.video import VideoWriter
from visionzoo.jobs import Progress, silent
from visionzoo.watermark import add_watermark

from ..pipelines.generate.generation import Generation
from ..pipelines.generate.options import GenerateOptions
from ..pipelines.generate.pipeline import SlowFastVGenPipeline
from .uploads import Medium

Pixels = NDArray[np.uint8]

WITH, WITHOUT = "with memory", "without memory"
MAX_CHUNKS = 60
"""Largest number of chunks of a walk."""
MAX_UNPACKED, MAX_FILES = 400_000_000, 50
"""Limits of an uploaded memory: bytes when it is unpacked, and files."""
SHOWN = 288
"""Least length of the shorter side of a shown video, in pixels."""


@dataclass
class Walk:
    """A walk that is going on.

    Attributes:
        videos: what makes the chunks, with and without memory, or one of them.
        frames: all frames so far.
        actions: that were taken.
        episodes: names under which memories were saved, in order.
    """

    pipe: SlowFastVGenPipeline
    videos: dict[str, Generation]
    frames: dict[str, list[Pixels]]
    actions: list[str] = field(default_factory=list)
    episodes: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, pipe: SlowFastVGenPipeline, image: Pixels, options: GenerateOptions, both: bool) -> Walk:
        """Begin with an image; `both` also takes the walk without memory."""
        videos, frames = {}, {}
        for name in (WITH, WITHOUT) if both else (WITH,):
            how = options if name == WITH else GenerateOptions(**{**vars(options), "fast_learning": False})
            given: list[Pixels] = []
            videos[name] = pipe.begin(
                image, how, on_given=lambda latents, to=given: to.extend(pipe.decode(latents)), progress=silent
            )
            frames[name] = given
        return cls(pipe, videos, frames)

    def take(self, action: str, report: Progress = silent) -> None:
        """Make the next chunk of each video.

        Raises:
            InputError: the walk is too long, or an action that the model does not know.
        """
        if len(self.actions) >= MAX_CHUNKS:
            raise InputError(f"a walk on this page has up to {MAX_CHUNKS} chunks; begin a new one")
        for name, video in self.videos.items():
            done = itertools.count(1)

            def tick(name: str = name, done: itertools.count[int] = done, steps: int = video.settings.steps) -> None:
                report(f"{action}, {name}", next(done), steps)

            video.tick = tick
            chunk = video.take(action)
            assert chunk is not None  # no callback ends it
            self.frames[name] += chunk.frames
        self.actions.append(action)

    # Memories

    @property
    def _memory(self) -> Generation:
        return self.videos[WITH]

    def save(self, name: str, folder: Path) -> Path:
        """Keep the memory under a name; returns it as an archive, whose folder `visionzoo generate --memory` continues.

        Raises:
            InputError: no name.
        """
        name = " ".join(name.split())[:40]
        if not name:
            raise InputError("give the memory a name first")
        self._memory.snapshot(name)
        if name not in self.episodes:
            self.episodes.append(name)
        self._memory.save(folder / "episode")
        return Path(shutil.make_archive(str(folder / "episode"), "zip", folder / "episode"))

    def upload(self, archive: Path, folder: Path) -> str:
        """Keep the memory of an archive that `save` wrote, under the name of its file; returns the name.

        Raises:
            InputError: there is no memory in the file, or it is one of other networks.
        """
        place = folder / "uploaded"
        shutil.rmtree(place, ignore_errors=True)
        unpack(archive, place)
        wanted = " ".join(archive.stem.split())[:36] or "memory"
        name = next(n for i in itertools.count(1) if (n := wanted if i == 1 else f"{wanted} {i}") not in self.episodes)
        self._memory.add_memory(place, name)
        self.episodes.append(name)
        return name

    def load(self, name: str | None) -> None:
        """Go on with a memory that was saved; the place stays."""
        self._memory.restore(self._known(name))

    def mix(self, first: str | None, second: str | None, share: float) -> None:
        """Go on with a mixture of two memories.

        Args:
            share: of the second one, from 0 to 1.
        """
        first, second = self._known(first), self._known(second)
        if first == second:
            raise InputError("choose two different memories to mix")
        self._memory.mix({first: 1 - share, second: share})

    def _known(self, name: str | None) -> str:
        if name not in self.episodes:
            raise InputError("save a memory first, and choose it")
        return name

    # Videos

    def write(self, folder: Path, last: int | None = None) -> dict[str, Path]:
        """Write the videos so far, or their last frames, in a size that can be seen; the frames are marked as synthetic."""
        made = {}
        for name, frames in self.frames.items():
            height, width = frames[0].shape[:2]
            scale = max(1, round(SHOWN / min(height, width)))
            path = folder / f"{name.replace(' ', '_')}{'' if last is None else '_now'}.mp4"
            with VideoWriter(path, fps=round(self.pipe.config["fps"]), overwrite=True) as writer:
                for frame in frames[-last:] if last else frames:
                    large = Image.fromarray(frame).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
                    writer.write(add_watermark(np.array(large)))
            made[name] = path
        return made


def check_archive(path: Path) -> None:
    """Whether a file can be an archive of a memory. Raises `InputError` if not."""
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"{path}: is not a ZIP file; upload a memory as this page or `visionzoo generate` saved it, zipped"
        )
    with zipfile.ZipFile(path) as archive:
        files = archive.infolist()
    if "episode.json" not in {file.filename for file in files}:
        raise InputError(f"{path}: holds no memory (episode.json is missing at its top)")
    if len(files) > MAX_FILES or sum(file.file_size for file in files) > MAX_UNPACKED:
        raise InputError(f"{path}: unpacks to more than {MAX_UNPACKED / 1e6:.0f} MB or {MAX_FILES} files")


def unpack(path: Path, folder: Path) -> None:
    """Unpack an archive of a memory. Raises `InputError` if it is none, or damaged."""
    check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
        raise InputError(f"{path}: the archive is damaged ({error})") from error


MEMORY = Medium("memory", frozenset({".zip"}), "a ZIP file as this page saves it", 100, check_archive)

__all__ = ["MAX_CHUNKS", "MEMORY", "WITH", "WITHOUT", "Walk"]
