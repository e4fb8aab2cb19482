"""Pairs of consecutive frames of the toy world with the action between them, for training and testing `InverseDynamics`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from visionzoo.data.augmented import stream_of
from visionzoo.data.epochs import EpochLoader
from visionzoo.data.toy_world import ACTIONS, ToyWorld
from visionzoo.errors import InputError

from ..toy_world import degraded

HOLD, COUNT = 4, 16
"""Frames per action, and actions of the clips of which pairs are taken."""

SPEEDS = (0.5, 1.0)
"""Speeds of the camera in these clips."""


class ActionPairs(Dataset):
    """Pairs of frames, one for every action, of each world.

    The key of an item is (epoch, index) in training, else its index; the item is (pairs (N, 2, 3, S, S) float32 in [-1, 1],
    actions (N,) int64 indices of `ACTIONS`), with N = 7 pairs of one world. Where its clip lacks an action, another one is taken.

    Args:
        split: of the worlds; frames of "train" are augmented, and new in every epoch.
        length: number of worlds.
        size: side of the frames in pixels.
        seed: of the training worlds and their augmentation.
        speeds: of the camera, see `ToyWorld.film`; each world has one of them.
    """

    def __init__(self, split: str, length: int, size: int, seed: int = 0, speeds: Sequence[float] = SPEEDS):
        self.split, self.length, self.size, self.seed, self.speeds = split, length, size, seed, tuple(speeds)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, ...] | int) -> tuple[Tensor, Tensor]:
        stream = key if isinstance(key, int) else stream_of(self.seed, *key)
        rng = np.random.default_rng(stream)
        world = ToyWorld.create(stream, self.split, places=3, characters=stream % 3)
        speed = float(rng.choice(self.speeds))
        clip = world.film(1 + COUNT * HOLD, size=(self.size, self.size), hold=HOLD, speed=speed)
        taken = np.array([ACTIONS.index(action) for action in clip.actions[1:]])
        pairs, actions = [], []
        for wanted in range(len(ACTIONS)):
            places = np.flatnonzero(taken == wanted)
            first = int(rng.choice(places if len(places) else len(taken)))
            frames = [frame.rgb for frame in clip.frames(first, first + 2, motion=False)]
            if self.split == "train":
                # side by side, so that both are blurred and coloured alike but have noise of their own
                wide = degraded(np.concatenate(frames, axis=1), rng)
                frames = [wide[:, : self.size], wide[:, self.size :]]
            pairs.append(np.stack(frames))
            actions.append(taken[first])
        rgb = torch.from_numpy(np.stack(pairs)).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
        return rgb, torch.from_numpy(np.stack(actions)).long()


class ActionPairsData(LightningDataModule):
    """Pairs of consecutive frames of the toy world with the action between them.

    Args:
        worlds: worlds per epoch, of each of which 7 pairs are taken.
        size: side of the frames in pixels.
        batch_size: worlds per step and device, so that a step has 7 * batch_size pairs.
        val_worlds, test_worlds: worlds of the other splits.
        speeds: of the camera; each world has one of them.
        num_workers: processes that draw.
        seed: of the training worlds.

    Raises:
        InputError: a number out of range.
    """

    def __init__(
        self,
        worlds: int = 1000,
        size: int = 96,
        batch_size: int = 8,
        val_worlds: int = 32,
        test_worlds: int = 200,
        speeds: Sequence[float] = SPEEDS,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        counts = {"worlds": worlds, "batch_size": batch_size, "val_worlds": val_worlds, "test_worlds": test_worlds}
        for name, count in counts.items():
            if count < 1:
                raise InputError(f"data.{name} must be at least 1, got {count}")
        if not speeds:
            raise InputError("data.speeds is empty; give at least one speed of the camera, e.g. [1.0]")
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.training = ActionPairs("train", worlds, size, seed, speeds)
        self.validation = ActionPairs("validation", val_worlds, size, speeds=speeds)
        self.tests = ActionPairs("test", test_worlds, size, speeds=speeds)

    def train_dataloader(self) -> Any:
        return EpochLoader(self, self.training, drop_last=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.validation, batch_size=self.batch_size, num_workers=0)

    def test_dataloader(self) -> Any:
        return DataLoader(self.tests, batch_size=self.batch_size, num_workers=0)


__all__ = ["ActionPairs", "ActionPairsData"]
