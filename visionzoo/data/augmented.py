"""Labelled images whose augmentation depends on nothing but the seed, the epoch and the image."""

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
    """Images with their classes. An item is asked for by (epoch, index, …), and augmented by a stream of its own.

    What an image looks like then depends on nothing but the seed and what it is asked for by: not on the number of
    workers, nor on whether the run was resumed. Several copies of an image in an epoch differ by further numbers.

    Args:
        load: index -> (H, W, 3) uint8 RGB.
        labels: class number per image.
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
    """A seed below 2**63 for a stream of random numbers: a hash of `numbers`."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "little") >> 1


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Inside, the generators of torch (on the CPU), numpy and Python start from a hash of `numbers`; afterwards they
    continue where they were."""
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
