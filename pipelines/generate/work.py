"""What an unfinished video keeps on disk: the latents of its frames, and the memory after the last whole chunk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Self

from visionzoo.errors import writing
from visionzoo.io.files import write_json
from visionzoo.io.tensor_file import TensorWriter

from .generation import Chunk, Generation
from .saved_episode import save_episode

__all__ = ["Reached", "Work"]

REACHED = "reached.json"


@dataclass(frozen=True)
class Reached:
    """How far a video has come.

    Attributes:
        given: number of frames of the source.
        chunks: number of finished chunks.
        losses: of fast learning after each of them.
    """

    given: int
    chunks: int = 0
    losses: list[list[float]] = field(default_factory=list)


class Work:
    """The files of an unfinished video in a folder. A chunk counts when its memory is on disk, too.

    Args:
        folder: exists.
        row: (C, h, w) of the latents of a frame.
        frames_per_chunk: F.

    Attributes:
        reached: None before the source was read.
        rows: latents of all frames.
    """

    def __init__(self, folder: Path, row: Sequence[int], frames_per_chunk: int):
        self.folder, self._new = folder, frames_per_chunk
        self.reached: Reached | None = None
        about = folder / REACHED
        if about.exists():
            self.reached = Reached(**json.loads(about.read_text(encoding="utf-8")))
        self.rows = TensorWriter(folder / "latents.rows", row, facts={"content": "generated"})
        self.rows.cut(self.frames)

    def __enter__(self) -> Self:
        self.rows.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.rows.__exit__(kind or KeyboardInterrupt, *rest)  # the file never gets its final name

    @property
    def frames(self) -> int:
        """Number of frames of the source and of finished chunks."""
        return 0 if self.reached is None else self.reached.given + self.reached.chunks * self._new

    @property
    def episode(self) -> Path:
        """The episode after the last finished chunk."""
        assert self.reached is not None
        return self.folder / f"episode{self.reached.chunks % 2}"

    def source_read(self, video: Generation) -> None:
        """All frames of the source are in `rows`."""
        self._reach(Reached(len(self.rows)), video)

    def chunk_made(self, chunk: Chunk, video: Generation) -> None:
        """Keep a chunk, and the memory that has learned it."""
        assert self.reached is not None
        before = self.reached
        self.rows.append(chunk.latents.transpose(0, 1))
        self._reach(Reached(before.given, before.chunks + 1, [*before.losses, list(chunk.losses)]), video)

    def _reach(self, reached: Reached, video: Generation) -> None:
        self.reached = reached
        save_episode(self.episode, video)
        with writing(self.folder):
            write_json(self.folder / REACHED, asdict(reached))

    def parts(self, start: int, batch_size: int) -> Iterator[tuple[int, int]]:
        """First frame and frame after the last of each part that is decoded by itself, from the one with frame `start` on.

        They do not depend on `start`, as results of the autoencoder depend on the batch in their last bits. Those of chunks that are
        not made yet are not among them.
        """
        assert self.reached is not None
        given = self.reached.given
        borders = [*range(0, given, batch_size), *range(given, self.frames, self._new), self.frames]
        for first, after in pairwise(borders):
            if after > start:
                yield first, after
