"""Labelled images whose augmentation depends only on the seed, the epoch and the image."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset


class Augmented(Dataset):
    """Images with their classes. The key of an item is (epoch, index, …); each item is augmented with its own random stream.

    So an augmented image depends only on the seed and its key: not on the number of workers, nor on whether the run was
    resumed. Further numbers in the key distinguish several copies of an image in an epoch.

    Args:
        load: index -> (H, W, 3) uint8 RGB.
        labels: class index of each image.
        transform: PIL image -> (3, H, W) float32; may draw from torch's, numpy's and Python's generators.
    """

    def __init__(
        self,
        load: Callable[[int], np.ndarray],
        labels: Sequence[int],
        transform: Callable[[Any], Tensor],
        seed: int,
    ):
        self.load, self.labels, self.transform, self.seed = load, labels, transform, seed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, ...]) -> tuple[Tensor, int, int]:
        index = key[1]
        image = Image.fromarray(self.load(index))
        with seeded(self.seed, *key):
            return self.transform(image), self.labels[index], index


def stream_of(*numbers: int) -> int:
    """A seed below 2**63 for a random stream: a hash of `numbers`."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "little") >> 1


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the generators of torch (on the CPU), numpy and Python with a hash of `numbers` inside the block; their previous
    states are restored afterwards."""
    stream = stream_of(*numbers)
    python, array = random.getstate(), np.random.get_state()  # noqa: NPY002 - timm's augmentations draw from these
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream)
        random.seed(stream)
        np.random.seed(stream % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)  # noqa: NPY002
