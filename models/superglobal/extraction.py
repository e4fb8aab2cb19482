"""Descriptors of many pictures, fast: decoded by threads ahead of the network, batched by equal size, in bounded memory.

Pictures of one size give the same numbers in a batch as alone, so batching by exact size costs no accuracy.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visionzoo.errors import InputError
from visionzoo.io.ahead import ahead
from visionzoo.io.image import load_image

from .model import SuperGlobal
from .preprocess import Preprocess, crop_box

Key = TypeVar("Key")
Box = Sequence[float]
Source = str | Path | bytes | np.ndarray | Tensor | Image.Image


@dataclass(frozen=True)
class Described(Generic[Key]):
    """One picture's outcome: its descriptor (D,) float32, or the error that says why there is none."""

    key: Key
    vector: np.ndarray | None
    size: tuple[int, int] | None = None
    error: str | None = None


def describe(
    model: SuperGlobal,
    pictures: Iterable[tuple[Key, Source, Box | None]],
    preprocess: Preprocess,
    *,
    batch_pixels: int = 4_000_000,
    max_batch: int = 32,
    workers: int = 2,
) -> Iterator[Described[Key]]:
    """Descriptors of `pictures`, in the order in which they become ready.

    Args:
        model: in eval mode, on its device.
        pictures: (key, whatever `load_image` takes, box or None); read lazily, a bounded number ahead.
        preprocess: what turns a picture into the network's input.
        batch_pixels: pixels (at scale 1) that go through the network at once.
        max_batch: most pictures that go through at once.
        workers: threads that decode and resize.
    """
    device = next(model.parameters()).device
    buckets: dict[tuple[int, int], list[tuple[Key, Tensor, tuple[int, int]]]] = defaultdict(list)
    runner = _BatchRunner(model, device, batch_pixels, max_batch)

    def prepare(picture: tuple[Key, Source, Box | None]) -> tuple[Tensor, tuple[int, int]]:
        _, source, box = picture
        # the exact crop needs the whole picture; else the decoder may shrink on the way
        array = load_image(source, max_side=None if box is not None else preprocess.max_side)
        if box is not None:
            array = crop_box(array, box)
        name = str(source) if isinstance(source, (str, Path)) else "the picture"
        return preprocess(array, name), (array.shape[1], array.shape[0])

    for picture, outcome in ahead(prepare, pictures, workers, depth=2 * workers + 2):
        if isinstance(outcome, InputError):
            yield Described(picture[0], None, error=str(outcome))
            continue
        tensor, size = outcome
        shape = (tensor.shape[1], tensor.shape[2])
        buckets[shape].append((picture[0], tensor, size))
        if len(buckets[shape]) >= runner.batch_of(shape):
            yield from runner.run(buckets.pop(shape))
        elif sum(map(len, buckets.values())) > 4 * max_batch:  # many sizes: do not let them pile up
            yield from runner.run(buckets.pop(max(buckets, key=lambda s: len(buckets[s]))))
    for bucket in buckets.values():
        yield from runner.run(bucket)


@dataclass
class _BatchRunner:
    """Runs batches of one size; when the device runs out of memory it goes on with half of them, and warns once."""

    model: SuperGlobal
    device: torch.device
    batch_pixels: int
    max_batch: int
    _warned: bool = False

    def batch_of(self, shape: tuple[int, int]) -> int:
        return max(1, min(self.max_batch, self.batch_pixels // (shape[0] * shape[1])))

    def run(self, bucket: list[tuple[Key, Tensor, tuple[int, int]]]) -> Iterator[Described[Key]]:
        position = 0
        while position < len(bucket):
            shape = bucket[0][1].shape
            part = bucket[position : position + self.batch_of((shape[1], shape[2]))]
            try:
                vectors = self._forward(torch.stack([tensor for _, tensor, _ in part]))
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise InputError(
                        f"a picture of {shape[2]} x {shape[1]} pixels does not fit into the memory of {self.device}; lower --max-side"
                    ) from None
                self._shrink(len(part), shape[1] * shape[2])
                continue
            position += len(part)
            for (key, _, size), vector in zip(part, vectors, strict=True):
                yield Described(key, vector, size)

    def _shrink(self, tried: int, pixels: int) -> None:
        self.max_batch, self.batch_pixels = tried // 2, pixels * (tried // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if not self._warned:
            self._warned = True
            warnings.warn(f"{self.device} is out of memory; going on with batches of {self.max_batch}", stacklevel=2)

    @torch.inference_mode()
    def _forward(self, batch: Tensor) -> np.ndarray:
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        return self.model(batch).float().cpu().numpy()
