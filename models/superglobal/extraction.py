"""Computes descriptors of many photos: threads decode ahead of the network, batches have equal sizes, and memory is bounded.

Photos of one size give the same numbers in a batch as alone (up to rounding), so batching by exact size costs no accuracy. Photos
wait for the network as bytes, not floats, and on a CPU no more than a photo or two goes through at once: larger batches are no
faster there, as their maps do not stay in the cache (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visionzoo.batching import Batches, ahead
from visionzoo.errors import InputError
from visionzoo.io.image import image_size, load_image

from .identity import content_digest
from .model import SuperGlobal
from .preprocess import Preprocess, crop_box

Key = TypeVar("Key")
Box = Sequence[float]
Shape = tuple[int, int]
Source = str | Path | bytes | np.ndarray | Tensor | Image.Image

BATCH_PIXELS = {"cpu": 160_000}
"""Pixels that go through the network at once, by kind of device; 4 million on other devices."""


@dataclass(frozen=True)
class Described(Generic[Key]):
    """The result for a photo: its descriptor (D,) float32, or the error that says why there is none.

    Attributes:
        size: (width, height) of the upright photo, if its file was identified.
        digest: digest of the file's content, if it was identified; taken before the photo was decoded.
    """

    key: Key
    vector: np.ndarray | None
    size: tuple[int, int] | None = None
    error: str | None = None
    digest: bytes | None = None


def describe(
    model: SuperGlobal,
    photos: Iterable[tuple[Key, Source, Box | None]],
    preprocess: Preprocess,
    *,
    batch_pixels: int | None = None,
    max_batch: int = 32,
    workers: int = 2,
    identify: bool = False,
) -> Iterator[Described[Key]]:
    """Descriptors of `photos`, in the order in which they become ready.

    Args:
        model: the network in eval mode, on its device.
        photos: (key, whatever `load_image` takes, box or None); read lazily, a bounded number ahead.
        preprocess: the preprocessing of the network.
        batch_pixels: pixels (at scale 1) that go through the network at once; None is `BATCH_PIXELS` of the device.
        max_batch: largest number of photos that go through the network at once.
        workers: threads that decode and resize.
        identify: also return the size and the digest of each photo that is a file.
    """
    device = next(model.parameters()).device
    if batch_pixels is None:
        batch_pixels = BATCH_PIXELS.get(device.type, 4_000_000)
    waiting = _Waiting[Key](limit=max(4 * batch_pixels, 1_000_000))
    runner = _BatchRunner(model, preprocess, device, Batches(device, max_batch, batch_pixels))

    def prepare(photo: tuple[Key, Source, Box | None]) -> _Prepared:
        _, source, box = photo
        digest, size = _identified(source) if identify and isinstance(source, (str, Path)) else (None, None)
        # the exact crop needs the whole photo; otherwise the decoder may shrink on the way
        array = load_image(source, max_side=None if box is not None else preprocess.max_side)
        if box is not None:
            array = crop_box(array, box)
        name = str(source) if isinstance(source, (str, Path)) else "the image"
        return _Prepared(preprocess.resize(array, name), size, digest)

    for photo, outcome in ahead(prepare, photos, workers, depth=workers + 2):
        if isinstance(outcome, InputError):
            yield Described(photo[0], None, error=str(outcome))
            continue
        shape = (outcome.pixels.shape[0], outcome.pixels.shape[1])
        waiting.add(shape, photo[0], outcome)
        if waiting.count(shape) >= runner.batches.at_once(shape[0] * shape[1]):
            yield from runner.run(waiting.take(shape))
        elif waiting.full():  # many sizes: they must not accumulate
            yield from runner.run(waiting.take(waiting.most_frequent()))
    while shape := waiting.most_frequent():
        yield from runner.run(waiting.take(shape))


def _identified(path: str | Path) -> tuple[bytes | None, tuple[int, int] | None]:
    """Digest and (width, height) of a photo file; None if they cannot be determined: the decoder then reports why."""
    try:
        return content_digest(Path(path)), image_size(path)
    except (OSError, InputError):
        return None, None


@dataclass(frozen=True)
class _Prepared:
    """A photo in the network's input size, (H, W, 3) uint8, and the identity of its file."""

    pixels: np.ndarray
    size: tuple[int, int] | None
    digest: bytes | None


@dataclass
class _Waiting(Generic[Key]):
    """Photos (H, W, 3) uint8 that wait for others of the same size; beyond `limit` pixels, some are released."""

    limit: int
    _photos: dict[Shape, list[tuple[Key, _Prepared]]] = field(default_factory=dict)

    def add(self, shape: Shape, key: Key, photo: _Prepared) -> None:
        self._photos.setdefault(shape, []).append((key, photo))

    def count(self, shape: Shape) -> int:
        return len(self._photos[shape])

    def full(self) -> bool:
        return sum(h * w * len(photos) for (h, w), photos in self._photos.items()) > self.limit

    def most_frequent(self) -> Shape | None:
        return max(self._photos, key=self.count, default=None)

    def take(self, shape: Shape | None) -> list[tuple[Key, _Prepared]]:
        assert shape is not None
        return self._photos.pop(shape)


@dataclass
class _BatchRunner:
    """Runs batches of photos of one size."""

    model: SuperGlobal
    preprocess: Preprocess
    device: torch.device
    batches: Batches

    def run(self, photos: list[tuple[Key, _Prepared]]) -> Iterator[Described[Key]]:
        height, width = photos[0][1].pixels.shape[:2]
        try:
            parts = self.batches.run(self._forward, [photo.pixels for _, photo in photos], height * width)
        except torch.OutOfMemoryError:
            raise InputError(
                f"an image of {width} x {height} pixels does not fit into the memory of {self.device}; lower --max-side"
            ) from None
        for (key, photo), vector in zip(photos, np.concatenate(parts), strict=True):
            yield Described(key, vector, photo.size, digest=photo.digest)

    @torch.inference_mode()
    def _forward(self, photos: list[np.ndarray]) -> np.ndarray:
        batch = torch.from_numpy(np.stack(photos))
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        batch = self.preprocess.normalise_batch(batch.to(self.device, non_blocking=True))
        return self.model(batch).float().cpu().numpy()
