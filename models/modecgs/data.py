"""Frames of a scene for training and evaluation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset

from visionzoo.data.epochs import EpochLoader
from visionzoo.errors import InputError
from visionzoo.io.pixels import to_float

from .captures.capture import Capture, View
from .captures.colmap import Protocol
from .captures.reading import read_capture
from .captures.synthetic import SyntheticConfig, synthetic_capture
from .optimize import Frame


class Frames(Dataset):
    """Views as `Frame`s. Images stay on the host as bytes, up to a limit; beyond it they are read again when they are needed.

    An item is a number; `frame` returns the frame of that number.

    Args:
        limit: largest number of bytes of images that are kept.
    """

    def __init__(self, views: Sequence[View], limit: int = 2_000_000_000):
        self.views, self.limit = tuple(views), limit
        self._kept: OrderedDict[int, tuple[np.ndarray, np.ndarray | None]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, key: tuple[int, ...]) -> int:
        return key[1]

    def frame(self, number: int) -> Frame:
        """The frame of a view, on the CPU."""
        pixels, mask = self._pixels(number)
        view = self.views[number]
        return Frame(
            to_float(pixels).contiguous(),
            torch.from_numpy(view.camera.world_to_camera.astype(np.float32)),
            torch.from_numpy(view.camera.intrinsics.astype(np.float32)),
            view.time,
            None if mask is None else torch.from_numpy(mask)[None].float(),
        )

    def _pixels(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        if number in self._kept:
            return self._kept[number]
        view = self.views[number]
        found = view.pixels(), view.weight()
        size = sum(array.nbytes for array in found if array is not None)
        if self._bytes + size <= self.limit:
            self._kept[number] = found
            self._bytes += size
        return found


class SceneData(LightningDataModule):
    """A scene for MoDec-GS.

    Args:
        root: folder of a scene in one of the layouts of `read_capture`. None: a synthetic scene that is rendered into `cache`.
        scenes: names of folders in `root`, one per scene, for tests of several scenes; None: `root` is a scene.
        batch_size: frames per iteration, without repetition within an epoch.
        max_side: shrink images to this many pixels on the longer side; None keeps their size.
        downscale, masks, protocol: see `read_capture`.
        synthetic: fields of `SyntheticConfig` for the synthetic scene.
        cache: folder for the synthetic scene.
        seed: random seed for the order of frames.
    """

    def __init__(
        self,
        root: str | None = None,
        scenes: list[str] | None = None,
        batch_size: int = 4,
        max_side: int | None = None,
        downscale: int | None = None,
        masks: str | None = None,
        protocol: Protocol = "held-out",
        synthetic: dict[str, Any] | None = None,
        cache: str | None = None,
        seed: int = 6666,
    ):
        super().__init__()
        if batch_size < 1:
            raise InputError(f"data.batch_size must be at least 1, got {batch_size}")
        if root is None and cache is None:
            raise InputError("no scene to train on: give data.root=FOLDER, or data.cache=FOLDER for a synthetic scene")
        if scenes is not None and (root is None or not scenes):
            raise InputError("data.scenes must name at least one folder in data.root")
        self.root, self.batch_size, self.num_workers, self.seed = root, batch_size, 0, seed
        self.scenes = scenes
        self.max_side, self.downscale, self.masks = max_side, downscale, masks
        self.protocol: Protocol = protocol
        self.synthetic, self.cache = SyntheticConfig(**(synthetic or {})), cache
        self._capture: Capture | None = None

    @property
    def capture(self) -> Capture:
        """The scene, read when it is first asked for. Raises `InputError` as `read_capture` does."""
        if self._capture is None:
            if self.scenes is not None:
                raise InputError("data.scenes is for tests; give data.root=FOLDER, the folder of one scene")
            self._capture = self._read(self.root or synthetic_capture(Path(str(self.cache)), self.synthetic))
            self.train_frames, self.test_frames = Frames(self._capture.train), Frames(self._capture.test)
        return self._capture

    @property
    def scene_names(self) -> list[str]:
        """The scenes of a test."""
        return list(self.scenes) if self.scenes is not None else [self.capture.folder.name]

    def scene(self, number: int) -> tuple[str, Capture]:
        """Name and data of a scene of a test. Raises `InputError` if it has no test views, or as `read_capture` does."""
        name = self.scene_names[number]
        capture = self.capture if self.scenes is None else self._read(Path(str(self.root)) / name)
        if not capture.test:
            raise InputError(f"{capture.folder}: has no test views")
        return name, capture

    def _read(self, folder: str | Path) -> Capture:
        found = read_capture(folder, downscale=self.downscale, masks=self.masks, protocol=self.protocol)
        return found if self.max_side is None else found.resized(self.max_side)

    def setup(self, stage: str) -> None:
        if stage == "fit" and len(self.capture.train) < self.batch_size:
            raise InputError(
                f"{self.capture.folder}: has {len(self.capture.train)} training views; set data.batch_size to at most that many"
            )

    def train_dataloader(self) -> EpochLoader:
        return EpochLoader(self, self.train_frames, shuffle=True, drop_last=True)

    def val_dataloader(self) -> Any:
        return EpochLoader(self, self.test_frames) if len(self.test_frames) else []

    def test_dataloader(self) -> EpochLoader:
        """Numbers of scenes."""
        return EpochLoader(self, _Numbers(len(self.scene_names)))


class _Numbers(Dataset):
    """The numbers from 0 to `count` - 1."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, ...]) -> int:
        return key[1]


__all__ = ["Frames", "SceneData"]
