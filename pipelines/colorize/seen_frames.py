"""The frames of a long video as the memory encoder sees them, on disk: a full memory is made from a sample of all of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from visionzoo.errors import InputError, writing

from ...models.longanimation import central_square

__all__ = ["SeenFrames"]

NAME = "seen_frames.u8"


class SeenFrames:
    """Squares (3, S, S) uint8 of all frames in a temporary file: 0.3 MB for each at the published size of 336 pixels.

    Args:
        size: S.
    """

    def __init__(self, size: int):
        self._row = (3, size, size)
        self._folder = tempfile.TemporaryDirectory(prefix="visionzoo")
        self._path = Path(self._folder.name) / NAME
        self._path.touch()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def _bytes(self) -> int:
        return int(np.prod(self._row))

    def append(self, frames: Tensor) -> None:
        """Keep frames (N, 3, H, W) uint8.

        Raises:
            VisionZooError: the disk is full.
        """
        squares = central_square(frames, self._row[1])
        with writing(self._path), self._path.open("ab") as file:
            file.write(squares.contiguous().numpy().tobytes())
        self._count += len(frames)

    def cut(self, count: int) -> None:
        """Keep the first `count` frames only."""
        with self._path.open("r+b") as file:
            file.truncate(count * self._bytes)
        self._count = count

    def read(self, numbers: Sequence[int]) -> Tensor:
        """Frames (n, 3, S, S) uint8."""
        found = np.empty((len(numbers), *self._row), np.uint8)
        with self._path.open("rb") as file:
            for place, number in enumerate(numbers):
                file.seek(number * self._bytes)
                found[place] = np.frombuffer(file.read(self._bytes), np.uint8).reshape(self._row)
        return torch.from_numpy(found)

    def save(self, folder: Path) -> None:
        """Bring the file in a folder up to date: frames that it lacks are appended, and those after the last one are cut off."""
        target = folder / NAME
        size = target.stat().st_size if target.exists() else 0
        with writing(target), self._path.open("rb") as source, target.open("r+b" if size else "wb") as file:
            at = min(size, self._count * self._bytes) // self._bytes * self._bytes
            source.seek(at)
            file.seek(at)
            shutil.copyfileobj(source, file)
            file.truncate(self._count * self._bytes)

    def load(self, folder: Path, count: int) -> None:
        """Take over the first `count` frames of a folder.

        Raises:
            InputError: it holds fewer.
        """
        source = folder / NAME
        if not source.is_file() or source.stat().st_size < count * self._bytes:
            raise InputError(f"{source}: is missing or damaged; expected {count} frames; begin the video again")
        with writing(self._path):
            shutil.copyfile(source, self._path)
        self.cut(count)
