"""What an unfinished video keeps on disk: the frames of finished segments, and the state after the last of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionzoo.errors import writing
from visionzoo.io.files import atomic_path, make_folder, write_json

__all__ = ["REACHED", "Reached", "Work"]

Pixels = NDArray[np.uint8]

REACHED = "reached.json"


@dataclass(frozen=True)
class Reached:
    """How far a video has come.

    Attributes:
        counts: number of frames of each finished segment.
        memory: what the memory held after each of them.
    """

    counts: list[int] = field(default_factory=list)
    memory: list[dict[str, int]] = field(default_factory=list)


class Work:
    """The files of an unfinished video in a folder. A segment counts when its frames and its state are on disk.

    Args:
        folder: exists.

    Attributes:
        reached: the finished segments.
    """

    def __init__(self, folder: Path):
        self.folder, about = folder, folder / REACHED
        self.reached = Reached(**json.loads(about.read_text(encoding="utf-8"))) if about.exists() else Reached()

    @property
    def done(self) -> int:
        """Number of finished segments."""
        return len(self.reached.counts)

    @property
    def state(self) -> Path:
        """The folder of the state after the last finished segment."""
        return self.folder / f"state{self.done % 2}"

    def finish(self, frames: Pixels, save: Callable[[Path], Any], memory: dict[str, int]) -> None:
        """Keep a segment.

        Args:
            frames: (n, H, W, 3) that it writes.
            save: writes the state to a folder.
            memory: what the memory holds now.
        """
        with writing(self.folder):
            make_folder(self.folder / "frames")
            with atomic_path(self._file(self.done)) as part, part.open("wb") as file:
                np.save(file, frames)
        reached = Reached([*self.reached.counts, len(frames)], [*self.reached.memory, memory])
        place = self.folder / f"state{len(reached.counts) % 2}"
        shutil.rmtree(place, ignore_errors=True)
        save(place)
        with writing(self.folder):
            write_json(self.folder / REACHED, asdict(reached))
        self.reached = reached

    def frames(self, start: int) -> Iterator[Pixels]:
        """The frames (H, W, 3) of finished segments, from number `start` on; those of one segment are mapped at a time."""
        for number, count in enumerate(self.reached.counts):
            if start < count:
                yield from map(np.array, self.segment(number)[start:])
            start = max(0, start - count)

    def _file(self, segment: int) -> Path:
        return self.folder / "frames" / f"{segment:06d}.npy"

    def segment(self, segment: int) -> Pixels:
        """The frames (n, H, W, 3) of a finished segment, counted from 0; mapped, not read."""
        return np.load(self._file(segment), mmap_mode="r")
