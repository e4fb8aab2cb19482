"""Chunks of episodes as latents with actions, for slow learning: encoded once, then read from disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from visionzoo.data.augmented import stream_of
from visionzoo.data.epochs import EpochLoader, EpochSampler, share_of
from visionzoo.diffusion import encode_to_file, is_dropped, open_latents
from visionzoo.errors import InputError
from visionzoo.io.files import make_folder, write_json
from visionzoo.io.tensor_file import TensorFile
from visionzoo.jobs.progress import Counter

from ..toy_world import open_vae
from .episodes import Action, Episode, find_episodes, toy_episode

__all__ = ["ChunkData", "Chunks", "EpisodeChunks", "EpisodeData", "chunks_of"]


@dataclass(frozen=True)
class Chunk:
    """New frames of an episode: the row of the first one in the file of latents, the number of frames before it, the action."""

    row: int
    before: int
    action: str


def chunks_of(actions: Sequence[Action], first_row: int, length: int, frames: int) -> list[Chunk]:
    """Cut each action into chunks of `frames` frames; what remains at its end is left out.

    Args:
        first_row: that of the episode.
        length: of the episode, in frames.
    """
    return [
        Chunk(first_row + start, start, action.text)
        for action in actions
        for start in range(
            action.start_frame, (length if action.end_frame is None else action.end_frame) - frames + 1, frames
        )
    ]


class Chunks(Dataset):
    """Past and new frames as latents, with the action.

    The key of a training item is (epoch, index, past); in validation it is the index. An item is {"latents": (C, P + F, h, w)
    float32, "past": P, "action": text, "stream": number for its noise}; in training, some actions are replaced by no text.

    Args:
        latents: of all episodes, one after another.
        chunks: those with at least `longest` frames before them are used.
        frames: F, of each chunk.
        longest: largest P, and the one in validation.
        drop: share of training items without action, for classifier-free guidance.
        seed: of the choice.

    Raises:
        InputError: no chunk has so many frames before it.
    """

    def __init__(
        self, latents: TensorFile, chunks: Sequence[Chunk], frames: int, longest: int, drop: float = 0.1, seed: int = 0
    ):
        self.latents, self.frames, self.longest, self.drop, self.seed = latents, frames, longest, drop, seed
        self.chunks = [chunk for chunk in chunks if chunk.before >= longest]
        if not self.chunks:
            raise InputError(
                f"no action has {frames} frames with {longest} frames before them; use longer episodes, or smaller "
                "data.frames or data.past"
            )

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, key: tuple[int, ...] | int) -> dict[str, Any]:
        if isinstance(key, int):
            index, past, stream, dropped = key, self.longest, stream_of(self.seed, key), False
        else:
            epoch, index, past = key
            stream = stream_of(self.seed, *key)
            dropped = is_dropped(self.drop, self.seed, epoch, index)
        chunk = self.chunks[index]
        latents = self.latents[chunk.row - past : chunk.row + self.frames].transpose(0, 1)
        return {"latents": latents, "past": past, "action": "" if dropped else chunk.action, "stream": stream}


class EpisodeChunks(Dataset):
    """Whole episodes, chunk by chunk: {"latents": (I, C, F, h, w) float32, "actions": I texts, "stream": number for its noise}.

    The key of a training item is (epoch, index); in validation it is the index.

    Args:
        latents: of all episodes, one after another.
        chunks: in order; an episode ends where the next one has fewer frames before it. Those with one chunk are left out.
        frames: F, of each chunk.
        seed: of the noise.

    Raises:
        InputError: no episode has two chunks.
    """

    def __init__(self, latents: TensorFile, chunks: Sequence[Chunk], frames: int, seed: int = 0):
        self.latents, self.frames, self.seed = latents, frames, seed
        episodes: list[list[Chunk]] = []
        for chunk in chunks:
            if not episodes or chunk.before <= episodes[-1][-1].before:
                episodes.append([])
            episodes[-1].append(chunk)
        self.episodes = [episode for episode in episodes if len(episode) > 1]
        if not self.episodes:
            raise InputError(
                f"no episode has two chunks of {frames} frames; use longer episodes or a smaller data.frames"
            )

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, key: tuple[int, ...] | int) -> dict[str, Any]:
        index = key if isinstance(key, int) else key[1]
        episode = self.episodes[index]
        latents = [self.latents[chunk.row : chunk.row + self.frames].transpose(0, 1) for chunk in episode]
        stream = stream_of(self.seed, *((key,) if isinstance(key, int) else key))
        return {"latents": torch.stack(latents), "actions": [chunk.action for chunk in episode], "stream": stream}


class PastSampler(EpochSampler):
    """Items in batches of one number of past frames each, as (epoch, index, past)."""

    def __init__(self, data: Dataset, *args: Any, past: Mapping[int, float], batch_size: int, **settings: Any):
        super().__init__(data, *args, **settings)
        self.batch_size = batch_size
        self.lengths = list(past)
        self.shares = np.array(list(past.values())) / sum(past.values())

    def keys(self) -> Iterator[Any]:
        for place, (epoch, index) in enumerate(super().keys()):
            stream = stream_of(self.seed, epoch, place // self.batch_size, self.rank)
            chosen = np.random.default_rng(stream).choice(len(self.lengths), p=self.shares)
            yield epoch, index, self.lengths[chosen]


class ChunkData(LightningDataModule):
    """Chunks of videos with actions, as latents: of the toy world, or of a folder of own episodes.

    Args:
        episodes: folder of episodes, see `find_episodes`; None draws toy worlds.
        val_episodes: the same for validation; needed with `episodes`.
        vae: folder of an autoencoder that diffusers loads; None for the toy world's.
        worlds, val_worlds: number of toy worlds.
        actions: number of actions in each of them.
        size: side of the frames in pixels, a multiple of 8; own videos are scaled and cropped to it.
        speed: of the camera in toy worlds, see `ToyWorld.film`.
        frames: new frames in each chunk.
        past: number of past frames -> share of batches with it. 1 is a first image, 0 generation from text alone. The paper mixes
            lengths up to 32 frames in all, without saying how.
        drop: share of training items without action.
        cache: folder for the latents, which are made once.
        batch_size: chunks per step and device.
        num_workers: processes that read.
        seed: of worlds, order and choices.

    Raises:
        InputError: a number out of range, or a folder that does not fit.
    """

    def __init__(
        self,
        episodes: str | None = None,
        val_episodes: str | None = None,
        vae: str | None = None,
        worlds: int = 1000,
        val_worlds: int = 16,
        actions: int = 6,
        size: int = 96,
        speed: float = 1.0,
        frames: int = 8,
        past: dict[int, float] | None = None,
        drop: float = 0.1,
        cache: str = "outputs/slowfastvgen/latents",
        batch_size: int = 4,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        past = past or {16: 0.7, 1: 0.3}
        counts = {
            "worlds": worlds,
            "val_worlds": val_worlds,
            "actions": actions,
            "frames": frames,
            "batch_size": batch_size,
        }
        for name, count in counts.items():
            if count < 1:
                raise InputError(f"data.{name} must be at least 1, got {count}")
        if any(length < 0 for length in past) or any(not share > 0 for share in past.values()):
            raise InputError(f"data.past needs numbers of frames from 0 with shares above 0, got {past}")
        if not 0 <= drop < 1:
            raise InputError(f"data.drop must be from 0 to below 1, got {drop:g}")
        if (episodes is None) != (val_episodes is None):
            raise InputError(
                "data.episodes and data.val_episodes belong together; give both, or none for the toy world"
            )
        self.folders = {"train": episodes, "validation": val_episodes}
        self.worlds = {"train": worlds, "validation": val_worlds}
        self.vae, self.actions, self.size, self.speed, self.frames = vae, actions, size, speed, frames
        self.past, self.drop, self.cache = {int(key): float(share) for key, share in past.items()}, drop, Path(cache)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.sets: dict[str, Any] = {}

    def prepare_data(self) -> None:
        """Draw or read, and encode, what is not in the cache yet."""
        self._open()

    def setup(self, stage: str) -> None:
        self.sets = self._open()

    def _open(self) -> dict[str, Any]:
        vae = open_vae(self.vae)
        return {split: self._split(split, vae) for split in self.folders}

    def _split(self, split: str, vae: Any) -> Any:
        name, count, episodes = self._episodes(split)
        make_folder(self.cache)
        file, index = self.cache / f"{name}.latents", self.cache / f"{name}.json"
        if not (file.exists() and index.exists()):
            chunks: list[Chunk] = []
            frames = self._frames(f"encoding the {split} episodes", count, episodes, chunks)
            encode_to_file(vae, frames, file, dtype="float16", source=name, batch_size=16)
            for _ in frames:  # an opened file does not read the frames, but the chunks are needed
                pass
            write_json(index, [[chunk.row, chunk.before, chunk.action] for chunk in chunks])
        latents = open_latents(file, vae, source=name)
        return self._items(latents, [Chunk(*row) for row in json.loads(index.read_text(encoding="utf-8"))])

    def _items(self, latents: TensorFile, chunks: list[Chunk]) -> Any:
        return Chunks(latents, chunks, self.frames, max(self.past), self.drop, self.seed)

    def _episodes(self, split: str) -> tuple[str, int, Iterable[Episode]]:
        """A name that tells episodes apart, their number, and the episodes."""
        folder, count = self.folders[split], self.worlds[split]
        if folder is not None:
            found = find_episodes(folder, self.size)
            facts = [
                [self.size, self.frames, each.name, each.file.stat().st_size, *map(str, each.actions)]
                for each in found
                if each.file is not None
            ]
            return f"{split}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}", len(found), found
        name = f"{split}-{count}-{self.actions}x{self.frames}-{self.size}-{self.seed}"
        name += "" if self.speed == 1 else f"-{self.speed:g}"
        settings = {
            "chunks": self.actions,
            "hold": self.frames,
            "size": self.size,
            "speed": self.speed,
            "seed": self.seed,
        }
        return name, count, (toy_episode(split, number, **settings) for number in range(count))

    def _frames(
        self, what: str, count: int, episodes: Iterable[Episode], chunks: list[Chunk]
    ) -> Iterator[NDArray[np.uint8]]:
        """All frames, one after another; `chunks` gets the chunks of the episodes."""
        row = 0
        with Counter(count, what, "episode") as counter:
            for episode in episodes:
                start = row
                for frame in episode.frames():
                    yield frame
                    row += 1
                end = episode.actions[-1].end_frame
                if end is not None and row - start < end:
                    raise InputError(
                        f"{episode.name}: the video has {row - start} frames, but its actions end with frame {end - 1}"
                    )
                chunks += chunks_of(episode.actions, start, row - start, self.frames)
                counter.update()

    def train_dataloader(self) -> Any:
        data = self.sets["train"]
        sampler = PastSampler(
            data, *share_of(self), shuffle=True, seed=self.seed, past=self.past, batch_size=self.batch_size
        )
        return EpochLoader(self, data, sampler, drop_last=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.sets["validation"], batch_size=self.batch_size, num_workers=0)


class EpisodeData(ChunkData):
    """Whole episodes for the slow-fast loop, `batch_size` in each step of slow learning; the arguments are those of `ChunkData`.

    Chunks have `frames` frames, and so has the past of each; `past` and `drop` are not used.
    """

    def _items(self, latents: TensorFile, chunks: list[Chunk]) -> EpisodeChunks:
        return EpisodeChunks(latents, chunks, self.frames, self.seed)

    def train_dataloader(self) -> Any:
        return EpochLoader(self, self.sets["train"], shuffle=True, drop_last=True, collate_fn=list)

    def val_dataloader(self) -> Any:
        return DataLoader(self.sets["validation"], batch_size=1, num_workers=0, collate_fn=list)
