"""Latents of the toy world's frames with captions: drawn and encoded once, then read from disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from visionzoo.data.augmented import stream_of
from visionzoo.data.epochs import EpochLoader
from visionzoo.data.toy_world import Frame
from visionzoo.data.toy_world.captions import brief_caption
from visionzoo.diffusion import encode_to_file, is_dropped
from visionzoo.errors import InputError
from visionzoo.io.files import make_folder, write_json
from visionzoo.jobs.progress import Counter

from .folder import open_vae
from .frames import Scene, portrait, random_scene


class CaptionedLatents(Dataset):
    """Latents with captions. The key of a training item is (epoch, index), that of another item its index.

    An item is {"latents": (C, h, w) float32, "caption": text, "stream": number for its noise}. In training, some captions
    are brief ones, and some are empty, for classifier-free guidance.
    """

    def __init__(self, latents: Any, captions: list[list[str]], brief: float, drop: float, seed: int):
        self.latents, self.captions, self.seed = latents, captions, seed
        self.brief, self.drop = brief, drop

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, key: tuple[int, ...] | int) -> dict[str, Tensor | str | int]:
        if isinstance(key, int):
            index, stream, caption = key, stream_of(self.seed, key), self.captions[key][0]
        else:
            index, stream = key[1], stream_of(self.seed, *key)
            rng = np.random.default_rng(stream)
            text = self.captions[index][int(rng.random() < self.brief)]
            caption = "" if is_dropped(self.drop, self.seed, *key) else text
        return {"latents": self.latents[index].float(), "caption": caption, "stream": stream}


class CaptionedLatentsData(LightningDataModule):
    """Frames of the toy world with captions, as latents.

    Args:
        vae: folder of an autoencoder that diffusers loads; None for the bundled one.
        frames: number of training frames, each of a world of its own.
        val_frames: number of frames of the validation split.
        size: side of the frames in pixels, a multiple of 8.
        portraits: take only frames in which one character is wholly visible; captions name its parts whether they are visible or not.
        brief: share of training captions that leave much out.
        drop: share of training captions that are replaced by an empty one.
        cache: folder for the latents, which are made once.
        batch_size: frames per step and device.
        num_workers: processes that read.
        seed: of worlds, order and captions.

    Raises:
        InputError: a number out of range, a folder without an autoencoder, or a cache of another autoencoder.
    """

    def __init__(
        self,
        vae: str | None = None,
        frames: int = 12000,
        val_frames: int = 256,
        size: int = 128,
        portraits: bool = False,
        brief: float = 0.5,
        drop: float = 0.1,
        cache: str = "outputs/toy_world/latents",
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        for name, count in (("frames", frames), ("val_frames", val_frames), ("batch_size", batch_size)):
            if count < 1:
                raise InputError(f"data.{name} must be at least 1, got {count}")
        for name, share in (("brief", brief), ("drop", drop)):
            if not 0 <= share < 1:
                raise InputError(f"data.{name} must be from 0 to below 1, got {share:g}")
        self.vae, self.size, self.cache = vae, size, Path(cache)
        self.portraits, self.brief = portraits, brief
        self.counts = {"train": frames, "validation": val_frames}
        self.drop, self.batch_size, self.num_workers, self.seed = drop, batch_size, num_workers, seed
        self.sets: dict[str, Any] = {}

    def prepare_data(self) -> None:
        """Draw and encode what is not in the cache yet; a test needs no latents."""
        if not (self.trainer and self.trainer.testing):
            self._open()

    def setup(self, stage: str) -> None:
        self.sets = {} if stage == "test" else self._open()

    def _open(self) -> dict[str, Any]:
        vae = open_vae(self.vae)
        return {split: self._split(split, count, vae) for split, count in self.counts.items()}

    def _name(self, split: str, count: int) -> str:
        """The name of a split's files, without extension."""
        return f"{split}-{count}-{self.size}-{self.seed}" + ("-portraits" if self.portraits else "")

    def _split(self, split: str, count: int, vae: Any) -> Any:
        name = self._name(split, count)
        make_folder(self.cache)
        file, texts = self.cache / f"{name}.latents", self.cache / f"{name}.json"
        captions: list[list[str]] = []
        source = f"toy world {name}"
        if not (file.exists() and texts.exists()):
            frames = self._frames(split, count, captions)
            latents = encode_to_file(vae, frames, file, dtype="float16", source=source)
            for _ in frames:  # an opened file does not read the frames, but what else is cached needs them
                pass
            write_json(texts, captions)
        else:
            latents = encode_to_file(vae, [np.zeros((self.size, self.size, 3), np.uint8)], file, source=source)
            captions = json.loads(texts.read_text(encoding="utf-8"))
        return CaptionedLatents(latents, captions, self.brief, self.drop, self.seed)

    def _frames(self, split: str, count: int, captions: list[list[str]]) -> Iterator[np.ndarray]:
        with Counter(count, f"encoding the {split} split", "frame") as counter:
            for index in range(count):
                stream = stream_of(self.seed, index) if split == "train" else index
                if self.portraits:
                    scene, frame = portrait(split, stream, self.size)
                else:
                    scene = random_scene(split, stream, self.size, couples=4)
                    frame = scene.draw()
                brief = brief_caption(scene.clip, scene.frame, frame.regions, frame.doing, stream_of(self.seed, index))
                captions.append([frame.caption, brief])
                self._see(scene, frame)
                yield frame.rgb
                counter.update()

    def _see(self, scene: Scene, frame: Frame) -> None:
        """Called with every frame before it is encoded; a subclass keeps more of it than latents and captions."""

    def train_dataloader(self) -> Any:
        return EpochLoader(self, self.sets["train"], shuffle=True, drop_last=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.sets["validation"], batch_size=self.batch_size, num_workers=0)

    def test_dataloader(self) -> Any:
        """One item, so that Lightning tests at all: `TextToImageTraining` generates images of its own captions."""
        return DataLoader(cast(Any, [0]))


__all__ = ["CaptionedLatents", "CaptionedLatentsData"]
