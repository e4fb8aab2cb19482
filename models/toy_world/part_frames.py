"""Frames of the toy world with the parts of their characters, for training and testing `PartNet`."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from visionzoo.data.augmented import stream_of
from visionzoo.errors import InputError

from .frames import ToyWorldData, random_scene
from .parts import true_parts


class PartFrames(Dataset):
    """Whole frames with the classes of their pixels, some of each world.

    The key of an item is (epoch, index) in training, else its index; the item is (images (N, 3, S, S) float32 in [-1, 1],
    classes (N, S, S) int64), with N frames of one world.

    Args:
        split: of the worlds; frames of "train" are augmented, and new in every epoch.
        length: number of worlds.
        size: side of the frames in pixels.
        takes: frames of each world.
        seed: of the training worlds and their augmentation.
    """

    def __init__(self, split: str, length: int, size: int, takes: int = 1, seed: int = 0):
        self.split, self.length, self.size, self.takes, self.seed = split, length, size, takes, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, ...] | int) -> tuple[Tensor, Tensor]:
        stream = key if isinstance(key, int) else stream_of(self.seed, *key)
        scene = random_scene(self.split, stream, self.size)
        rng = np.random.default_rng(stream)
        images, classes = [], []
        for take in range(self.takes):
            frame = scene.draw(take * len(scene.clip) // self.takes)
            labels = true_parts(scene.clip, frame)
            image = frame.rgb
            if self.split == "train":
                step = -1 if rng.random() < 0.5 else 1
                image, labels = degraded(image[:, ::step], rng), labels[:, ::step]
            images.append(image)
            classes.append(labels)
        rgb = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return rgb, torch.from_numpy(np.stack(classes)).long()


def degraded(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image (H, W, 3) uint8 with some of what autoencoders do to images: blur, noise, and other colours."""
    height, width = image.shape[:2]
    result = np.ascontiguousarray(image)
    if rng.random() < 0.5:
        scale = rng.uniform(0.45, 0.95)
        small = cv2.resize(result, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        result = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    values = result.astype(np.float32)
    if rng.random() < 0.5:
        values = 255 * (values / 255) ** rng.uniform(0.75, 1.3)
        values = values * rng.uniform(0.85, 1.15, 3).astype(np.float32) + rng.uniform(-15, 15, 3).astype(np.float32)
    if rng.random() < 0.5:
        # coarse noise moves the colours of patches, fine noise those of pixels
        coarse = rng.normal(0, rng.uniform(0, 12), (height // 8, width // 8, 3)).astype(np.float32)
        values += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        values += rng.normal(0, rng.uniform(0, 7), values.shape).astype(np.float32)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


class PartFramesData(ToyWorldData):
    """Frames of the toy world with the parts of their characters.

    Args:
        worlds: worlds per epoch.
        takes: frames of each world.
        size: side of the frames in pixels, a multiple of 8.
        batch_size: worlds per step and device, so that a step has batch_size * takes frames.
        val_frames, test_frames: frames of the other splits, each of a world of its own.
        num_workers: processes that draw.
        seed: of the training worlds.

    Raises:
        InputError: a number out of range.
    """

    def __init__(
        self,
        worlds: int = 1000,
        takes: int = 4,
        size: int = 128,
        batch_size: int = 4,
        val_frames: int = 64,
        test_frames: int = 400,
        num_workers: int = 0,
        seed: int = 0,
    ):
        if worlds < 1 or takes < 1 or test_frames < 1:
            raise InputError(
                f"data.worlds, data.takes and data.test_frames must be at least 1, got {worlds}, {takes} and {test_frames}"
            )
        super().__init__(
            frames=worlds, size=size, crop=size, batch_size=batch_size, val_frames=val_frames,
            num_workers=num_workers, seed=seed,
        )  # fmt: skip
        self.training = PartFrames("train", worlds, size, takes, seed)
        self.validation = PartFrames("validation", val_frames, size)
        self.tests = PartFrames("test", test_frames, size)

    def test_dataloader(self) -> Any:
        return DataLoader(self.tests, batch_size=8, num_workers=0)


__all__ = ["PartFrames", "PartFramesData", "degraded"]
