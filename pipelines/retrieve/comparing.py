"""Whether two photos show the same image: their edges are compared at a common low resolution.

A descriptor says what a photo shows, not where: another view of the same scene can score higher than a copy at half the size. Edges
at 64 x 64 pixels tell them apart: they are in the same places in copies of every size, quality, brightness and colour, and elsewhere
in other views and in crops.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visionzoo.batching import ahead
from visionzoo.errors import InputError
from visionzoo.io.image import load_image
from visionzoo.jobs import Progress, silent

from ...models.superglobal.identity import is_missing

MIN_CORRELATION = 0.65
"""Lowest correlation of the edges of copies.

On 39 sample photos, copies at a quarter of the size, JPEGs of quality 10, and copies in other colours or with a line of text have 0.72
or more; other views of a subject at most 0.41, crops of 95 % at most 0.54, pages of different text in one layout at most 0.57.
"""

SIDE = 64
"""Width and height at which photos are compared, whatever their shape."""

_READ, _PAIRS, _FLAT, _LEVELS = 256, 512, 0.5, 4.0
"""Longest side at which a photo is decoded; pairs at a time; mean gradient below which a photo is blank, and the largest difference in
brightness of two blank photos that are the same, of 255."""


class Comparison:
    """Compares photos of an index, each of which is read once, when it is first needed, and then takes 4 KB.

    Args:
        progress: called after each photo that was read.

    Attributes:
        missing: photos that could not be compared, as their files no longer exist.
        failed: photos that cannot be read, and why.
    """

    def __init__(self, progress: Progress = silent):
        self.missing: dict[int, Path] = {}
        self.failed: dict[int, tuple[Path, str]] = {}
        self._progress = progress
        self._read = self._wanted = 0
        self._views: dict[int, NDArray[np.uint8]] = {}

    def read(self, photos: Iterable[tuple[int, Path]]) -> None:
        """Read the photos, given by id and path, that are not known yet."""
        fresh = [(id_, path) for id_, path in photos if not self._known(id_)]
        self._wanted += len(fresh)
        for (id_, path), view in ahead(lambda photo: low_resolution(photo[1]), fresh, workers=2, depth=8):
            if not isinstance(view, InputError):
                self._views[id_] = view
            elif is_missing(path):
                self.missing[id_] = path
            else:
                self.failed[id_] = path, str(view)
            self._read += 1
            self._progress("comparing photos", self._read, self._wanted)

    def same(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the photos with the ids `a` and `b`, each (N,), show the same image; never if one of them cannot be read."""
        result = np.zeros(len(a), bool)
        there = [
            n
            for n, ids in enumerate(zip(a.tolist(), b.tolist(), strict=True))
            if all(id_ in self._views for id_ in ids)
        ]
        for start in range(0, len(there), _PAIRS):
            part = there[start : start + _PAIRS]
            one, other = (np.stack([self._views[id_] for id_ in ids[part].tolist()]) for ids in (a, b))
            result[part] = correlation(one, other) >= MIN_CORRELATION
        return result

    def _known(self, id_: int) -> bool:
        return id_ in self._views or id_ in self.missing or id_ in self.failed


def low_resolution(source: str | Path | np.ndarray) -> NDArray[np.uint8]:
    """The brightness of an image at `SIDE` x `SIDE` pixels, whatever its shape: (SIDE, SIDE). Raises `InputError`."""
    pixels = Image.fromarray(load_image(source, max_side=_READ)).convert("L")
    return np.asarray(pixels.resize((SIDE, SIDE), Image.Resampling.BOX))


def correlation(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Correlation (N,) in [-1, 1] of the brightness gradients of images (N, S, S) with those of others; 1 for two equal blank ones."""
    one, other = _gradients(a), _gradients(b)
    energy, energy_b = np.einsum("nd,nd->n", one, one), np.einsum("nd,nd->n", other, other)
    found = np.einsum("nd,nd->n", one, other) / np.sqrt(np.maximum(energy * energy_b, 1e-6))
    limit = one.shape[1] * _FLAT**2
    blank = (energy < limit) & (energy_b < limit)
    level = np.abs(a.mean((1, 2)) - b.mean((1, 2)))
    return np.where(blank, level <= _LEVELS, found).astype(np.float32)


def _gradients(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Differences of neighbours, across and down: (N, S, S) -> (N, 2 S (S - 1))."""
    values = images.astype(np.float32)
    across, down = np.diff(values, axis=2), np.diff(values, axis=1)
    return np.concatenate([across.reshape(len(values), -1), down.reshape(len(values), -1)], axis=1)


__all__ = ["MIN_CORRELATION", "Comparison", "correlation", "low_resolution"]
