"""Data for training with a ControlNet: latents and captions, and the edges of each frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from visionzoo.data.toy_world import Frame
from visionzoo.diffusion import is_dropped
from visionzoo.errors import InputError
from visionzoo.io.files import atomic_path

from ..toy_world import CaptionedLatentsData, Scene
from .controls import Canny

__all__ = ["Controlled", "ControlledFramesData", "PackedMasks", "canny_edges"]

PLACES = 8
"""Pixels per latent, along each side."""


def canny_edges(rgb: np.ndarray) -> np.ndarray:
    """The edges that the control "canny" finds in an RGB image (H, W, 3) uint8: (H, W) bool."""
    return Canny()(rgb)[..., 0] > 0


class PackedMasks:
    """Masks (H, W) bool of many frames, a bit for each pixel: `masks[3]` is (1, H, W) float32.

    Args:
        rows: (N, bytes) uint8, the packed pixels of each mask.
        size: (H, W).
    """

    def __init__(self, rows: np.ndarray, size: tuple[int, int]):
        self.rows, self.size = rows, size

    @staticmethod
    def pack(mask: np.ndarray) -> np.ndarray:
        """A row for a mask (H, W) bool."""
        return np.packbits(mask)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        height, width = self.size
        bits = np.unpackbits(self.rows[index], count=height * width)
        return torch.from_numpy(bits.reshape(1, height, width).astype(np.float32))

    def save(self, path: Path) -> None:
        """Write the rows as a NumPy file."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, self.rows)

    @classmethod
    def load(cls, path: Path, size: tuple[int, int]) -> PackedMasks:
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing or damaged, or holds masks of another size.
        """
        try:
            rows = np.load(path)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read ({error}); delete its folder, so that it is made again"
            ) from error
        if rows.ndim != 2 or rows.shape[1] != -(-size[0] * size[1] // 8):
            raise InputError(f"{path}: holds masks of another size; delete its folder, so that it is made again")
        return cls(rows, size)


class Controlled(Dataset):
    """Adds the control image to the items of a data set, and takes it away from some of them in training.

    An item also has "control", (3, H, W) float32 with edges of 1; "keep", 0.0 where the ControlNet is not to be used and otherwise
    1.0; and "focus", (1, h, w) float32, 1 where the latents show a character, if that is known.

    Args:
        items: the data set; its keys are (epoch, index) in training and otherwise the index.
        edges: of each item.
        focus: of each item, or None.
        drop: share of training items without control, in which the UNet learns to work alone.
        seed: of the choice.
    """

    def __init__(self, items: Any, edges: PackedMasks, focus: PackedMasks | None = None, *, drop: float, seed: int = 0):
        if len(edges) != len(items):
            raise InputError(f"there are {len(edges)} edge images for {len(items)} items; delete the cache")
        self.items, self.edges, self.focus, self.drop, self.seed = items, edges, focus, drop, seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, ...] | int) -> dict[str, Any]:
        index = key if isinstance(key, int) else key[1]
        dropped = not isinstance(key, int) and is_dropped(self.drop, self.seed, 1, *key)
        item = {**self.items[key], "control": self.edges[index].expand(3, -1, -1), "keep": float(not dropped)}
        if self.focus is not None:
            item["focus"] = self.focus[index]
        return item


class ControlledFramesData(CaptionedLatentsData):
    """Frames of the toy world with captions and their Canny edges; arguments as of `CaptionedLatentsData`, and

    Args:
        control_drop: share of training items without control.
    """

    def __init__(self, *, control_drop: float = 0.1, **kwargs: Any):
        super().__init__(**kwargs)
        if not 0 <= control_drop < 1:
            raise InputError(f"data.control_drop must be from 0 to below 1, got {control_drop:g}")
        self.control_drop = control_drop
        self._rows: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])

    def _name(self, split: str, count: int) -> str:
        return f"{super()._name(split, count)}-edges"

    def _see(self, scene: Scene, frame: Frame) -> None:
        people = (frame.instances > 0) & (frame.instances <= len(scene.clip.characters))
        height, width = people.shape
        coarse = people.reshape(height // PLACES, PLACES, width // PLACES, PLACES).mean((1, 3)) > 0.1
        for rows, mask in zip(self._rows, (canny_edges(frame.rgb), coarse), strict=True):
            rows.append(PackedMasks.pack(mask))

    def _frames(self, split: str, count: int, captions: list[list[str]]) -> Iterator[np.ndarray]:
        self._rows = ([], [])
        yield from super()._frames(split, count, captions)
        for path, rows in zip(self._files(split, count), self._rows, strict=True):
            PackedMasks(np.stack(rows), (0, 0)).save(path)

    def _files(self, split: str, count: int) -> tuple[Path, Path]:
        """The files of edges and of characters."""
        name = self._name(split, count)
        return self.cache / f"{name}.npy", self.cache / f"{name}.people.npy"

    def _split(self, split: str, count: int, vae: Any) -> Controlled:
        items = super()._split(split, count, vae)
        edges, people = self._files(split, count)
        side = self.size // PLACES
        return Controlled(
            items,
            PackedMasks.load(edges, (self.size, self.size)),
            PackedMasks.load(people, (side, side)),
            drop=self.control_drop,
            seed=self.seed,
        )
