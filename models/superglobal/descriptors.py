"""Descriptors on disk: in one array, or in shards that are filled in any order, so that runs can resume."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visionzoo.errors import InputError
from visionzoo.io.files import atomic_path, write_json


@dataclass(frozen=True)
class Descriptors:
    """Descriptors in one or several arrays, which may be memory-mapped files; float32 or float16, read as float32."""

    parts: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, *sources: Tensor | np.ndarray | Descriptors) -> Descriptors:
        parts: list[np.ndarray] = []
        for source in sources:
            if isinstance(source, Descriptors):
                parts += source.parts
            else:
                parts.append(source.detach().cpu().numpy() if isinstance(source, Tensor) else source)
        return cls(tuple(parts))

    @cached_property
    def starts(self) -> np.ndarray:
        return np.cumsum([0, *(len(part) for part in self.parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def chunks(self, size: int = 8192) -> Iterator[Tensor]:
        """(n, D) float32 tensors in the order of the indices, n at most `size`."""
        for part in self.parts:
            for start in range(0, len(part), size):
                yield torch.from_numpy(np.array(part[start : start + size], dtype=np.float32))

    def rows(self, ids: Tensor) -> Tensor:
        """The descriptors of `ids` (...,): (..., D) float32."""
        flat = ids.reshape(-1).cpu().numpy()
        out = np.empty((len(flat), self.parts[0].shape[1]), dtype=np.float32)
        which = np.searchsorted(self.starts, flat, side="right") - 1
        for part in np.unique(which):
            here = which == part
            out[here] = self.parts[part][flat[here] - self.starts[part]]
        return torch.from_numpy(out).reshape(*ids.shape, -1)


def read_descriptors(path: str | Path) -> Descriptors:
    """Descriptors from a .npy file (N, D), or from a folder that `DescriptorShards` filled; memory-mapped.

    Raises:
        InputError: the descriptors are missing, damaged or incomplete; the message says how to continue.
    """
    path = Path(path)
    if path.is_dir():
        return DescriptorShards.open(path).read()
    if not path.is_file():
        raise InputError(f"{path}: no descriptors there; make them with: visionzoo predict --config …")
    return Descriptors((_map(path),))


def _map(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path}: is not a .npy file of descriptors, or is damaged ({error}); make it again"
        ) from error
    if array.ndim != 2 or array.dtype not in (np.float32, np.float16):
        raise InputError(
            f"{path}: must be float32 or float16 of shape (N, D), got {array.dtype} of shape {array.shape}"
        )
    return array


class DescriptorShards:
    """A folder of descriptors that is filled shard by shard, in any order, so that runs can resume.

    Shard i holds the images i * size to (i + 1) * size of a list, in its order, as descriptors-0000i.npy; index.json
    records how many images there are and what described them.
    """

    def __init__(self, folder: Path, images: int, size: int, about: Mapping[str, Any]):
        self.folder, self.images, self.size, self.about = folder, images, size, dict(about)

    @classmethod
    def open(cls, folder: Path) -> DescriptorShards:
        """Open an existing folder. Raises `InputError` if it holds no descriptors."""
        index = folder / "index.json"
        try:
            content = json.loads(index.read_text(encoding="utf-8"))
            return cls(folder, int(content["images"]), int(content["shard_size"]), dict(content["about"]))
        except OSError as error:
            raise InputError(
                f"{index}: cannot be read ({error.strerror}); make it with: visionzoo predict --config …"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{index}: is damaged ({error}); delete the folder and make it again") from error

    @classmethod
    def create(cls, folder: Path, images: int, size: int, about: Mapping[str, Any]) -> DescriptorShards:
        """Create a new folder, or open an existing one to continue.

        Raises:
            InputError: the folder holds other descriptors: of other images, another model or other weights.
        """
        if size < 1:
            raise InputError(f"a shard must hold at least one image, got {size}")
        shards = cls(folder, images, size, about)
        if (folder / "index.json").exists():
            old = cls.open(folder)
            old.check({"images": images, "shard_size": size, **about})
            return old
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "index.json", {"images": images, "shard_size": size, "about": dict(about)})
        return shards

    def check(self, expected: Mapping[str, Any]) -> None:
        """Raise `InputError` if the descriptors were made with other values of `expected`'s keys."""
        own = {"images": self.images, "shard_size": self.size, **self.about}
        differing = [key for key in sorted(expected) if own.get(key) != expected[key]]
        if differing:
            raise InputError(
                f"{self.folder}: holds descriptors made with other {', '.join(differing)}; "
                "choose another folder, or delete it and make it again"
            )

    def __len__(self) -> int:
        return -(-self.images // self.size)

    def path(self, shard: int) -> Path:
        return self.folder / f"descriptors-{shard:05d}.npy"

    def span(self, shard: int) -> range:
        """The indices of the images in `shard`."""
        return range(shard * self.size, min((shard + 1) * self.size, self.images))

    def missing(self) -> list[int]:
        return [shard for shard in range(len(self)) if not self.path(shard).is_file()]

    def write(self, shard: int, descriptors: np.ndarray) -> None:
        """Write a complete shard, atomically."""
        with atomic_path(self.path(shard)) as temporary, temporary.open("wb") as file:
            np.save(file, descriptors)

    def read(self) -> Descriptors:
        missing = self.missing()
        if missing:
            raise InputError(
                f"{self.folder}: {len(missing)} of {len(self)} shards are missing, {self.path(missing[0]).name} first; "
                "run visionzoo predict again: it resumes where it stopped"
            )
        parts = tuple(_map(self.path(shard)) for shard in range(len(self)))
        for shard, part in enumerate(parts):
            if len(part) != len(self.span(shard)):
                raise InputError(
                    f"{self.path(shard)}: has {len(part)} descriptors instead of {len(self.span(shard))}; delete it"
                )
        return Descriptors(parts)
