"""Frames of the toy world for training: every one from a world of its own, drawn when it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from visionzoo.data.augmented import stream_of
from visionzoo.data.epochs import EpochLoader
from visionzoo.data.toy_world import Clip, Frame, ToyWorld
from visionzoo.errors import InputError

from .parts import CLASSES, true_parts

SPAN = 48
"""Length of the clips of which a frame is taken."""


VISIBLE = 0.0025
"""Least share of the frame that each part of a character has in a portrait: 41 pixels at 128 x 128."""


@dataclass(frozen=True)
class Scene:
    """A clip and one of its frames."""

    clip: Clip
    frame: int

    def draw(self, later: int = 0) -> Frame:
        """Draw the frame without its motion, or one that is `later`; after the last frame comes the first."""
        index = (self.frame + later) % len(self.clip)
        return next(self.clip.frames(index, index + 1, motion=False))


def random_scene(split: str, stream: int, size: int, couples: int = 2) -> Scene:
    """A frame of a random world with one or two characters.

    Args:
        split: of the world.
        stream: which; the same number gives the same scene.
        size: side of the frame in pixels.
        couples: one world in this many has two characters, the others one.
    """
    world = ToyWorld.create(stream, split, places=2, characters=2 if stream % couples == couples - 1 else 1)
    return Scene(world.film(SPAN, size=(size, size)), stream // 2 % SPAN)


def portrait(split: str, stream: int, size: int, tries: int = 64) -> tuple[Scene, Frame]:
    """A frame with one character, of which every part is visible, and which no border cuts.

    Args:
        split: of the world.
        stream: which; the same number gives the same frame.
        size: side of the frame in pixels.
        tries: number of random scenes to look at; most of the time, two or three suffice. The last one is taken in any case.
    """
    for number in range(tries - 1):
        scene = random_scene(split, 2 * stream_of(stream, number), size)  # even numbers have one character
        frame = scene.draw()
        if _is_whole(scene, frame):
            return scene, frame
    scene = random_scene(split, 2 * stream_of(stream, tries - 1), size)
    return scene, scene.draw()


def _is_whole(scene: Scene, frame: Frame) -> bool:
    """Whether every part of the character is visible, and no border cuts it."""
    areas = np.bincount(true_parts(scene.clip, frame).ravel(), minlength=len(CLASSES))
    seen = min(areas[CLASSES.index(part)] for part in scene.clip.characters[0].colors)
    person = frame.instances == 1
    cut = person[[0, -1]].any() or person[:, [0, -1]].any()
    return bool(seen >= VISIBLE * frame.rgb.shape[0] * frame.rgb.shape[1] and not cut)


class Crops(Dataset):
    """Square crops of frames, most of them around a character.

    The key of an item is (epoch, index); the item is (rgb (N, 3, S, S) float32 in [-1, 1], weights (N, 1, S, S), streams (N,)),
    with N crops of one frame; a stream is a number for the noise of a crop.
    """

    def __init__(self, length: int, size: int, crop: int, crops: int, emphasis: float, seed: int):
        self.length, self.size, self.crop, self.crops, self.emphasis, self.seed = (
            length,
            size,
            crop,
            crops,
            emphasis,
            seed,
        )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        stream = stream_of(self.seed, *key)
        scene = random_scene("train", stream, self.size)
        frame = scene.draw()
        people = (frame.instances > 0) & (frame.instances <= len(scene.clip.characters))
        rng = np.random.default_rng(stream)
        rows, columns = np.nonzero(people)
        images, weights = [], []
        for _ in range(self.crops):
            top, left = rng.integers(0, self.size - self.crop + 1, 2)
            if len(rows) and rng.random() < 0.75:
                at = rng.integers(len(rows))
                jitter = rng.integers(-self.crop // 4, self.crop // 4 + 1, 2)
                top, left = np.clip(
                    np.array([rows[at], columns[at]]) - self.crop // 2 + jitter, 0, self.size - self.crop
                )
            step = -1 if rng.random() < 0.5 else 1
            window = np.s_[top : top + self.crop, left : left + self.crop]
            images.append(frame.rgb[window][:, ::step])
            weights.append(people[window][:, ::step])
        rgb = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        streams = torch.tensor([stream_of(stream, number) for number in range(self.crops)])
        return rgb, 1 + self.emphasis * torch.from_numpy(np.stack(weights)).float()[:, None], streams


class Whole(Dataset):
    """Whole frames of another split, always the same: the item is (3, H, W) float32 in [-1, 1]."""

    def __init__(self, split: str, length: int, size: int):
        self.split, self.length, self.size = split, length, size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        scene = random_scene(self.split, index, self.size)
        frame = scene.draw()
        return torch.from_numpy(frame.rgb).permute(2, 0, 1).float() / 127.5 - 1


class ToyWorldData(LightningDataModule):
    """Crops of the toy world's frames for an autoencoder; a new world for every frame.

    Args:
        frames: frames per epoch.
        size: side of the frames, in pixels.
        crop: side of the crops, a multiple of 8.
        crops: crops of each frame.
        batch_size: frames per step and device, so that a step has batch_size * crops crops.
        val_frames: frames of the validation split.
        test_frames: frames of the test split, for `visionzoo test`.
        emphasis: how much more errors count on characters.
        num_workers: processes that draw.
        seed: of worlds and crops.

    Raises:
        InputError: a crop that does not fit, or a count below 1.
    """

    def __init__(
        self,
        frames: int = 2000,
        size: int = 128,
        crop: int = 64,
        crops: int = 2,
        batch_size: int = 4,
        val_frames: int = 32,
        test_frames: int = 400,
        emphasis: float = 1.0,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        if crop % 8 or not 8 <= crop <= size:
            raise InputError(f"data.crop must be a multiple of 8 from 8 to data.size={size}, got {crop}")
        for name, count in (
            ("frames", frames),
            ("crops", crops),
            ("batch_size", batch_size),
            ("val_frames", val_frames),
        ):
            if count < 1:
                raise InputError(f"data.{name} must be at least 1, got {count}")
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.size, self.test_frames = size, test_frames
        self.training = Crops(frames, size, crop, crops, emphasis, seed)
        self.validation = Whole("validation", val_frames, size)

    def train_dataloader(self) -> Any:
        return EpochLoader(self, self.training, shuffle=False)

    def val_dataloader(self) -> Any:
        return DataLoader(self.validation, batch_size=8, num_workers=0)

    def test_dataloader(self) -> Any:
        """One frame, so that Lightning tests at all: `AutoencoderTraining` draws those that it compares."""
        return DataLoader(Whole("test", 1, self.size))


__all__ = ["Crops", "Scene", "ToyWorldData", "Whole", "portrait", "random_scene"]
