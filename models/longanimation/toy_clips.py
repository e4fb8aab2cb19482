"""Short clips of the toy world, in colour and as drawings, for a video autoencoder; drawn when they are needed."""

from __future__ import annotations

import math
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

from .lineart import sketch_of_lines

__all__ = ["KINDS", "SPEEDS", "ToyClipsData", "clip_pixels", "toy_clip"]

SPEEDS = (0.1, 0.5)
"""Slowest and fastest camera; at 128 x 128, the picture moves by 0.8 and by 3.8 pixels per frame."""

KINDS = ("colour", "drawing", "sketch")
"""What a clip shows: its colours; dark lines on white paper; or lines of 1 on paper of -1, as LongAnimation encodes its sketches."""


def toy_clip(split: str, stream: int, frames: int, size: int) -> Clip:
    """A clip of a random world with one or two characters, whose camera is slow; the same number gives the same clip."""
    world = ToyWorld.create(stream, split, places=2, characters=1 + stream % 2)
    low, high = SPEEDS
    speed = low * (high / low) ** ((stream >> 1) % 1000 / 999)
    return world.film(frames, size=(size, size), speed=math.floor(1000 * speed) / 1000)


def clip_pixels(frames: list[Frame], kind: str) -> Tensor:
    """Frames as (3, F, H, W) float32 in [-1, 1], as one of `KINDS`."""
    if kind == "colour":
        pixels = torch.from_numpy(np.stack([frame.rgb for frame in frames])).permute(3, 0, 1, 2)
        return pixels.float() / 127.5 - 1
    ink = torch.from_numpy(np.stack([frame.ink for frame in frames]))[:, None].float() / 255
    shown = 2 * ink.expand(-1, 3, -1, -1) - 1 if kind == "drawing" else sketch_of_lines(ink)
    return shown.permute(1, 0, 2, 3)


class ClipCrops(Dataset):
    """Crops of clips, most of them around a character.

    The key of an item is (epoch, index); the item is (pixels (3, F, S, S) float32 in [-1, 1], weights (1, F, S, S), stream), where the
    stream is a number for noise.
    """

    def __init__(self, length: int, frames: int, size: int, crop: int, drawn: float, emphasis: float, seed: int):
        self.length, self.frames, self.size, self.crop = length, frames, size, crop
        self.drawn, self.emphasis, self.seed = drawn, emphasis, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, ...]) -> tuple[Tensor, Tensor, int]:
        stream = stream_of(self.seed, *key)
        clip = toy_clip("train", stream, self.frames, self.size)
        rng = np.random.default_rng(stream)
        chance = rng.random()
        kind = KINDS[1] if chance < self.drawn / 2 else KINDS[2] if chance < self.drawn else KINDS[0]
        frames = list(clip.frames(motion=False))
        people = np.stack([(each.instances > 0) & (each.instances <= len(clip.characters)) for each in frames])
        rows, columns = np.nonzero(people[len(people) // 2])
        top, left = rng.integers(0, self.size - self.crop + 1, 2)
        if len(rows) and rng.random() < 0.75:
            at = rng.integers(len(rows))
            jitter = rng.integers(-self.crop // 4, self.crop // 4 + 1, 2)
            top, left = np.clip(np.array([rows[at], columns[at]]) - self.crop // 2 + jitter, 0, self.size - self.crop)
        window = np.s_[..., top : top + self.crop, left : left + self.crop]
        pixels = clip_pixels(frames, kind)[window]
        weights = 1 + self.emphasis * torch.from_numpy(people[window]).float()[None]
        if rng.random() < 0.5:
            pixels, weights = pixels.flip(-1), weights.flip(-1)
        return pixels.contiguous(), weights.contiguous(), stream


class WholeClips(Dataset):
    """Whole clips of another split, always the same: the item is (pixels (3, F, H, W) float32 in [-1, 1], number of its kind)."""

    def __init__(self, split: str, length: int, frames: int, size: int):
        self.split, self.length, self.frames, self.size = split, length, frames, size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        clip = toy_clip(self.split, index, self.frames, self.size)
        kind = (0, 2, 0, 1)[index % 4]
        return clip_pixels(list(clip.frames(motion=False)), KINDS[kind]), kind


class ToyClipsData(LightningDataModule):
    """Crops of the toy world's clips for a video autoencoder; a new world for every clip.

    Args:
        clips: clips per epoch.
        frames: of a clip, 8 n + 1; the lengths that CogVideoX's autoencoder gives back.
        size: side of the frames, in pixels.
        crop: side of the crops, a multiple of 8.
        drawn: share of the clips that are line drawings; half of them have dark lines on white paper, half are sketches.
        batch_size: clips per step and device. One alone is slower on a CPU than two, since torch then takes its slow convolutions.
        val_clips: clips of the validation split; half of them are drawings.
        val_frames: frames of those, 8 n + 1.
        test_clips: clips of the test split, for `visionzoo test`.
        emphasis: how much more errors count on characters.
        num_workers: processes that draw.
        seed: of worlds and crops.

    Raises:
        InputError: another number of frames, a crop that does not fit, or a count below 1.
    """

    def __init__(
        self,
        clips: int = 500,
        frames: int = 9,
        size: int = 128,
        crop: int = 64,
        drawn: float = 0.2,
        batch_size: int = 2,
        val_clips: int = 12,
        val_frames: int = 17,
        test_clips: int = 40,
        emphasis: float = 1.0,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        if crop % 8 or not 8 <= crop <= size:
            raise InputError(f"data.crop must be a multiple of 8 from 8 to data.size={size}, got {crop}")
        for name, count in (("frames", frames), ("val_frames", val_frames)):
            if count % 8 != 1:
                raise InputError(f"data.{name} must be 8 n + 1, such as 9 or 17, got {count}")
        if not 0 <= drawn <= 1:
            raise InputError(f"data.drawn must be from 0 to 1, got {drawn}")
        for name, count in (
            ("clips", clips),
            ("batch_size", batch_size),
            ("val_clips", val_clips),
            ("test_clips", test_clips),
        ):
            if count < 1:
                raise InputError(f"data.{name} must be at least 1, got {count}")
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.size, self.test_clips, self.test_frames = size, test_clips, val_frames
        self.training = ClipCrops(clips, frames, size, crop, drawn, emphasis, seed)
        self.validation = WholeClips("validation", val_clips, val_frames, size)

    def train_dataloader(self) -> Any:
        return EpochLoader(self, self.training, shuffle=False)

    def val_dataloader(self) -> Any:
        return DataLoader(self.validation, batch_size=1, num_workers=0)

    def test_dataloader(self) -> Any:
        """One clip, so that Lightning tests at all: `VideoAutoencoderTraining` draws those that it compares."""
        return DataLoader(WholeClips("test", 1, self.test_frames, self.size))
