"""Storage between the two passes over an image: tokens, the encoder's maps, and the state of an interrupted run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from visionzoo.errors import InputError

Placement = Literal["device", "host", "disk"]
Skips = Literal["auto", "recompute", "device", "host", "disk"]


@dataclass(frozen=True)
class StreamOptions:
    """Settings that trade memory for time; the result is the same.

    Attributes:
        patches_at_once: number of patches of 256 x 256 pixels that are processed together; None: 4 on a CPU, else 8.
        skips: where the encoder's maps are kept between the passes: "device", "host" or "disk" (11.25 values per pixel), or
            nowhere: "recompute" encodes twice, with 28 % more work. "auto" uses the device or the host if they fit into
            a quarter of its free memory, else "recompute".
        tokens: where the bottleneck's tokens are kept (two or three times 0.75 values per pixel).
        heads_at_once: number of heads whose keys and values are held together; None: as many as fit.
        tokens_at_once: number of tokens per slice of queries, and per slice of everything else in the bottleneck.
        keys_at_once: number of keys per piece if keys and values are not on the device.
        stream: also stream an image that fits in memory (see `whole.fits_in_memory`). So do explicit `skips`, `tokens` and
            `heads_at_once`.
        blend: also run on a grid of patches that is shifted by about half a patch, and blend the two results so that borders of
            patches are not visible. It doubles the work and is not in the published method. None lets a pipeline decide, and
            means False without one.
        folder: folder for the files of "disk"; None: a temporary folder.
    """

    patches_at_once: int | None = None
    skips: Skips = "auto"
    tokens: Literal["auto", "device", "host", "disk"] = "auto"
    heads_at_once: int | None = None
    tokens_at_once: int = 8192
    keys_at_once: int = 65536
    blend: bool | None = False
    folder: Path | None = None
    stream: bool = False

    def __post_init__(self) -> None:
        numbers = (self.patches_at_once, self.heads_at_once, self.tokens_at_once, self.keys_at_once)
        if any(number is not None and number < 1 for number in numbers):
            raise InputError("patches_at_once, heads_at_once, tokens_at_once and keys_at_once must be at least 1")
        if self.skips not in ("auto", "recompute", "device", "host", "disk"):
            raise InputError(f"skips must be auto, recompute, device, host or disk, got {self.skips!r}")
        if self.tokens not in ("auto", "device", "host", "disk"):
            raise InputError(f"tokens must be auto, device, host or disk, got {self.tokens!r}")

    @property
    def must_stream(self) -> bool:
        return self.stream or self.skips != "auto" or self.tokens != "auto" or self.heads_at_once is not None


@dataclass
class Restart:
    """State that an interrupted run left for the next one: files in `folder`, which belong to one input and one network.

    The caller makes sure that they match, and deletes the folder when the result is complete.
    """

    folder: Path
    done: dict[str, np.ndarray] = field(default_factory=dict)

    def bitmap(self, name: str, count: int) -> np.ndarray:
        """A bitmap on disk, (count,) uint8: 1 for every finished patch, all 0 at first."""
        path = self.folder / f"{name}.done"
        fresh = not path.exists() or path.stat().st_size != count
        self.done[name] = np.memmap(path, np.uint8, "w+" if fresh else "r+", shape=(count,))
        return self.done[name]


class TileStore:
    """A (rows, ...) tensor on the device, in main memory or in a file; slices of rows are read to and written from the device."""

    def __init__(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, placement: Placement, file: Path | None
    ):
        self.device = device
        if placement == "disk":
            assert file is not None
            size = int(np.prod(shape))
            if not file.exists() or file.stat().st_size != size * dtype.itemsize:
                with file.open("wb") as handle:
                    handle.truncate(size * dtype.itemsize)
            self.data = torch.from_file(str(file), shared=True, size=size, dtype=dtype).view(*shape)
        else:
            self.data = torch.zeros(*shape, dtype=dtype, device=device if placement == "device" else "cpu")

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        return self.data[rows].to(self.device)

    def __setitem__(self, rows: slice | Tensor, value: Tensor) -> None:
        self.data[rows] = value.to(self.data.device, self.data.dtype)


class SkipCache:
    """Keeps the encoder's four maps of each chunk of patches between the passes."""

    def __init__(self, placement: Placement, device: torch.device, folder: Path):
        self.placement, self.device, self.folder = placement, device, folder
        self._kept: dict[int, list[Tensor]] = {}

    def put(self, first: int, maps: Sequence[Tensor]) -> None:
        if self.placement == "disk":
            torch.save([part.cpu() for part in maps], self.folder / f"maps_{first}.pt")
        else:
            self._kept[first] = [part if self.placement == "device" else part.cpu() for part in maps]

    def take(self, first: int) -> list[Tensor] | None:
        """Remove and return the maps of the chunk that begins with patch `first`; None if there are none."""
        file = self.folder / f"maps_{first}.pt"
        if self.placement == "disk" and file.exists():
            maps = torch.load(file, weights_only=True)
            file.unlink()
        else:
            maps = self._kept.pop(first, None)
        return None if maps is None else [part.to(self.device) for part in maps]
