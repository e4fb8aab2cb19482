"""Three frames of smooth motion, of which a network learns the middle one: from moving photos, the toy world and real clips."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from visionzoo.data.augmented import stream_of
from visionzoo.data.epochs import EpochLoader
from visionzoo.data.toy_world import ToyWorld
from visionzoo.errors import InputError
from visionzoo.io.files import bundled
from visionzoo.io.image import list_images, load_image
from visionzoo.io.video import read_frames

from .cuts import CUT, frame_change
from .moving_photos import FASTEST, moving_photos

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

KEPT_PHOTOS = 512
"""Number of decoded photos that are kept in memory."""

LONGEST = 640
"""Clips are shrunk until their longer side is at most this many pixels."""


class Source(Protocol):
    """Where triplets come from."""

    def draw(self, side: int, stream: int) -> tuple[Array, Array | None]:
        """Triplet `stream`: frames (3, S, S, 3) float32 in [0, 1], and the flow (S, S, 4) of `MovingPhotos` if it is known."""
        ...


class PhotoTriplets:
    """Pieces of photos that move over other photos; see `moving_photos`.

    Args:
        folder: of photos, at least 64 pixels large.
        fastest: largest speed, in pixels per frame.
    """

    def __init__(self, folder: str, fastest: float = FASTEST):
        self.files, self.fastest = list_images(folder), fastest
        self._load = lru_cache(KEPT_PHOTOS)(self._read)

    def _read(self, index: int) -> Pixels:
        photo = load_image(self.files[index])
        if min(photo.shape[:2]) < 64:
            raise InputError(
                f"{self.files[index]}: {photo.shape[1]} x {photo.shape[0]} pixels are too few for training; remove it"
            )
        return photo

    def draw(self, side: int, stream: int) -> tuple[Array, Array]:
        drawn = moving_photos(self._load, len(self.files), side, np.random.default_rng(stream), self.fastest)
        return drawn.frames, drawn.flow


class ToyTriplets:
    """Frames t, t + n and t + 2n of the toy world, n from 1 to 3; every triplet comes from a world of its own.

    Args:
        split: of the worlds.
    """

    def __init__(self, split: str):
        self.split = split

    def draw(self, side: int, stream: int) -> tuple[Array, None]:
        rng = np.random.default_rng(stream)
        size = int(side * rng.uniform(1, 1.5))
        world = ToyWorld.create(stream, self.split, places=2, characters=int(rng.integers(1, 3)))
        clip = world.film(32, size=(size, size))
        step = int(rng.integers(1, 4))
        first = int(rng.integers(len(clip) - 2 * step))
        frames = np.stack(
            [next(clip.frames(at, at + 1, motion=False)).rgb for at in range(first, first + 2 * step + 1, step)]
        )
        return _random_part(frames, side, rng), None


class ClipTriplets:
    """Frames t, t + n and t + 2n of video files, n from 1 to `most`, without cuts; parts that move are taken more often.

    Args:
        files: of the clips, which are held in memory.
        most: largest step between two frames.
    """

    def __init__(self, files: Sequence[str], most: int = 2):
        self.most = most
        self.clips = [np.stack([frame.pixels for frame in read_frames(file, longest=LONGEST)]) for file in files]
        for file, clip in zip(files, self.clips, strict=True):
            if len(clip) < 2 * most + 1:
                raise InputError(f"{file}: has {len(clip)} frames, training needs at least {2 * most + 1}")

    def draw(self, side: int, stream: int) -> tuple[Array, None]:
        rng = np.random.default_rng(stream)
        best: tuple[float, Array] | None = None
        for _ in range(8):
            clip = self.clips[int(rng.integers(len(self.clips)))]
            step = int(rng.integers(1, self.most + 1))
            first = int(rng.integers(len(clip) - 2 * step))
            frames = clip[first : first + 2 * step + 1]
            if max(frame_change(a, b) for a, b in pairwise(frames)) > CUT:
                continue
            part = _random_part(frames[::step], side, rng)
            moved = float(np.abs(part[2] - part[0]).mean())
            if best is None or moved > best[0]:
                best = moved, part
            if rng.random() < 0.5:
                break
        if best is None:
            raise InputError("the clips for training consist of cuts; give clips with continuous motion")
        return best[1], None


def _random_part(frames: Pixels, side: int, rng: np.random.Generator) -> Array:
    """A square part of frames (3, H, W, 3), mirrored, turned or played backwards at random, as floats."""
    height, width = frames.shape[1:3]
    if min(height, width) < side:
        raise InputError(f"frames of {width} x {height} pixels are smaller than data.side={side}; lower data.side")
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    part = frames[:: rng.choice([-1, 1]), top : top + side, left : left + side]
    part = np.rot90(part, int(rng.integers(4)), (1, 2))[:, :, :: rng.choice([-1, 1])]
    return np.ascontiguousarray(part, np.float32) / np.float32(255)


class Triplets(Dataset):
    """Triplets of several sources, in the proportion of their weights.

    The key of an item is (epoch, index) in training, else its index; the item is (frames (3, 3, S, S) float32 in [0, 1],
    flow (4, S, S) float32, whether the flow is known).
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float], length: int, side: int, seed: int):
        self.sources, self.length, self.side, self.seed = list(sources), length, side, seed
        self.bounds = np.cumsum(weights) / np.sum(weights)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, ...] | int) -> tuple[Tensor, Tensor, Tensor]:
        numbers = key if isinstance(key, tuple) else (0, key)
        stream = stream_of(self.seed, *numbers)
        source = self.sources[int(np.searchsorted(self.bounds, stream % 10**6 / 10**6, side="right"))]
        frames, flow = source.draw(self.side, stream)
        known = flow is not None
        flow = np.zeros((self.side, self.side, 4), np.float32) if flow is None else flow
        return (
            torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(flow).permute(2, 0, 1).contiguous(),
            torch.tensor(known),
        )


class TripletData(LightningDataModule):
    """Triplets of frames for training `IFNet`, new ones in every epoch.

    Args:
        photos: folder of photos, or of `train/` and `val/` with photos; None for the bundled ones.
        clips: video files with real motion.
        photo_weight, toy_weight, clip_weight: proportion of the sources; clips count only if there are any.
        fastest: largest speed of photos, in pixels per frame.
        triplets: number of triplets per epoch.
        side: of the frames in pixels, a multiple of 32 and at least 64.
        batch_size: triplets per step and device.
        val_triplets, test_triplets: number of fixed triplets for validation and for `visionzoo test`, half of them of photos in
            `val/` (if there are any, else of the others) and half of the toy world's other splits.
        num_workers: processes that draw.
        seed: of everything that is random.

    Raises:
        InputError: a number out of range, or a file that cannot be used.
    """

    def __init__(
        self,
        photos: str | None = None,
        clips: list[str] | None = None,
        photo_weight: float = 0.6,
        toy_weight: float = 0.2,
        clip_weight: float = 0.2,
        fastest: float = FASTEST,
        triplets: int = 4000,
        side: int = 128,
        batch_size: int = 8,
        val_triplets: int = 64,
        test_triplets: int = 200,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        if side % 32 or side < 64:
            raise InputError(f"data.side must be a multiple of 32 and at least 64, got {side}")
        if min(triplets, batch_size, val_triplets, test_triplets) < 1:
            raise InputError(
                "data.triplets, data.batch_size, data.val_triplets and data.test_triplets must be at least 1, "
                f"got {triplets}, {batch_size}, {val_triplets} and {test_triplets}"
            )
        if photo_weight <= 0 or min(toy_weight, clip_weight) < 0:
            raise InputError(
                "data.photo_weight must be above 0, and data.toy_weight and data.clip_weight at least 0, "
                f"got {photo_weight:g}, {toy_weight:g} and {clip_weight:g}"
            )
        if not fastest > 0.2:
            raise InputError(f"data.fastest must be above 0.2 pixels per frame, got {fastest:g}")
        self.photos, self.clips, self.fastest = photos, list(clips or []), fastest
        self.weights = (photo_weight, toy_weight, clip_weight)
        self.triplets, self.side, self.val_triplets, self.test_triplets = triplets, side, val_triplets, test_triplets
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.training: Triplets | None = None
        self.validation: Triplets | None = None
        self.tests: Triplets | None = None

    def setup(self, stage: str | None = None) -> None:
        if self.training is not None:
            return
        root = bundled("photos") if self.photos is None else self.photos
        train, held = (_subfolder(str(root), part) for part in ("train", "val"))
        sources: list[Source] = [PhotoTriplets(train, self.fastest), ToyTriplets("train")]
        if self.clips:
            sources.append(ClipTriplets(self.clips))
        weights = self.weights[: len(sources)]
        self.training = Triplets(sources, weights, self.triplets, self.side, self.seed)
        held_out: list[Source] = [PhotoTriplets(held, self.fastest), ToyTriplets("validation")]
        self.validation = Triplets(held_out, (1, 1), self.val_triplets, self.side, self.seed + 1)
        unseen: list[Source] = [held_out[0], ToyTriplets("test")]
        self.tests = Triplets(unseen, (1, 1), self.test_triplets, self.side, self.seed + 2)

    def train_dataloader(self) -> Any:
        assert self.training is not None
        return EpochLoader(self, self.training, shuffle=False)

    def val_dataloader(self) -> Any:
        assert self.validation is not None
        return DataLoader(self.validation, self.batch_size, num_workers=0)

    def test_dataloader(self) -> Any:
        assert self.tests is not None
        return DataLoader(self.tests, self.batch_size, num_workers=0)


def _subfolder(root: str, part: str) -> str:
    folder = Path(root, part)
    return str(folder) if folder.is_dir() else root


__all__ = ["ClipTriplets", "PhotoTriplets", "Source", "ToyTriplets", "TripletData", "Triplets"]
