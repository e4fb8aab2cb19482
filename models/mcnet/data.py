"""Pairs of frames of a talking head for MCNet's training and tests: VoxCeleb's layout, your own clips, published pair lists."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from visionzoo.data.augmented import seeded
from visionzoo.data.epochs import EpochLoader
from visionzoo.errors import InputError
from visionzoo.io.extensions import ANIMATIONS, VIDEOS, extension
from visionzoo.io.files import atomic_path, bundled
from visionzoo.io.image import list_images, load_image
from visionzoo.io.pixels import to_float
from visionzoo.io.video import read_frames

Pixels = NDArray[np.uint8]
_CLIPS_IN_MEMORY = 16


@dataclass(frozen=True)
class Clip:
    """A face tube: a folder of frames (which may have a name like x.mp4, as in VoxCeleb) or a video."""

    path: Path

    @property
    def identity(self) -> str:
        """The person's identity: the part of the name before the first #, as in VoxCeleb, or else the whole name."""
        return self.path.name.split("#")[0] if "#" in self.path.name else self.path.stem


def find_clips(folder: str | Path) -> list[Clip]:
    """The clips in a folder, by name: its subfolders and its videos.

    Raises:
        InputError: the folder does not exist or has no clips.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected videos or folders of frames in it")
    found = [
        Clip(path)
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and (path.is_dir() or extension(path) in VIDEOS | ANIMATIONS)
    ]
    if not found:
        raise InputError(f"{folder}: holds neither videos (.mp4, .mov, .mkv, .gif, …) nor folders of frames")
    return found


class ClipReader:
    """Single frames of clips at one size.

    Frames of a folder are decoded one by one. A video is decoded completely when one of its frames is first read, and stays in
    memory (the last 16 videos), or in `cache` as an array that is read frame by frame.

    Args:
        size: height and width to which frames of any shape are resized, as published.
        cache: folder for decoded videos.
    """

    def __init__(self, size: int | tuple[int, int], cache: Path | None = None):
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self.cache = cache
        self._frames = lru_cache(maxsize=4096)(list_images)
        self._decoded = lru_cache(maxsize=_CLIPS_IN_MEMORY)(self._decode)

    def __getstate__(self) -> dict[str, Any]:
        return {"size": (self.height, self.width), "cache": self.cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def count(self, clip: Clip) -> int:
        """Number of frames in the clip. Raises `InputError` if there are none."""
        if not clip.path.is_dir():
            return len(self._decoded(clip.path))
        return len(self._frames(clip.path))

    def read(self, clip: Clip, numbers: Sequence[int]) -> Pixels:
        """(len(numbers), height, width, 3)."""
        if not clip.path.is_dir():
            return np.asarray(self._decoded(clip.path)[list(numbers)])
        paths = self._frames(clip.path)
        return np.stack([self.fit(load_image(paths[number])) for number in numbers])

    def fit(self, pixels: Pixels) -> Pixels:
        """(H, W, 3) -> (height, width, 3)."""
        if pixels.shape[:2] == (self.height, self.width):
            return pixels
        return np.asarray(Image.fromarray(pixels).resize((self.width, self.height), Image.Resampling.BILINEAR))

    def _decode(self, path: Path) -> Pixels:
        if self.cache is None:
            return np.stack([self.fit(frame.pixels) for frame in read_frames(path)])
        state = path.stat()
        mark = f"{path.absolute()} {state.st_size} {state.st_mtime_ns} {self.height} {self.width}"
        file = self.cache / f"{path.stem}_{hashlib.sha256(mark.encode()).hexdigest()[:12]}.npy"
        if not file.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            with atomic_path(file) as temporary, open(temporary, "wb") as handle:
                np.save(handle, np.stack([self.fit(frame.pixels) for frame in read_frames(path)]))
        return np.load(file, mmap_mode="r")


class FramePairs(Dataset):
    """Two frames of one clip by (epoch, index): source and driving, each (3, H, W) in [0, 1].

    The published procedure: one item per identity, from a random clip, with two random frames (with replacement) in order of time.
    Half of the pairs are swapped, half of the others mirrored; brightness, contrast and saturation change by up to a tenth, and
    the hue by up to a tenth of the circle, equally in both frames.

    Args:
        by_identity: one item per identity; else one per clip.
        augment: False leaves frames unchanged.
    """

    def __init__(
        self, clips: Sequence[Clip], reader: ClipReader, seed: int, *, by_identity: bool = True, augment: bool = True
    ):
        groups: dict[str, list[Clip]] = {}
        for clip in clips:
            groups.setdefault(clip.identity if by_identity else clip.path.name, []).append(clip)
        self.groups = [groups[name] for name in sorted(groups)]
        self.reader, self.seed, self.augment = reader, seed, augment
        self.jitter = v2.ColorJitter(brightness=0.1, contrast=0.1, saturation=0.1, hue=0.1)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        clips = self.groups[index % len(self.groups)]
        with seeded(self.seed, epoch, index):
            rng = np.random.default_rng(int(torch.randint(2**62, ())))
            clip = clips[rng.integers(len(clips))]
            numbers = np.sort(rng.integers(self.reader.count(clip), size=2))
            frames = self.reader.read(clip, numbers.tolist())
            if self.augment and rng.random() < 0.5:
                frames = frames[::-1]
            elif self.augment and rng.random() < 0.5:
                frames = frames[:, :, ::-1]
            pair = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))
            if self.augment:
                pair = self.jitter(pair)
        source, driving = pair.float() / 255
        return source, driving


class TestPairs(Dataset):
    """Fixed pairs: source and driving frame (3, H, W) in [0, 1], a name, and whether they show two people.

    The name is the driving clip's; if the pair shows two people, it is "A driven by B".

    Args:
        pairs: source and driving frame of each pair, as (clip or image, number of the frame).
        cross: whether all pairs show two people; None compares `Clip.identity`.
    """

    __test__ = False  # not a test for pytest

    def __init__(self, pairs: Sequence[tuple[Clip, int, Clip, int]], reader: ClipReader, *, cross: bool | None = None):
        self.pairs, self.reader, self.cross = pairs, reader, cross

    def __len__(self) -> int:
        return len(self.pairs)

    def is_cross(self, index: int) -> bool:
        """Whether the pair shows two people."""
        source, _, driving, _ = self.pairs[index]
        return source.identity != driving.identity if self.cross is None else self.cross

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str, bool]:
        source, first, driving, second = self.pairs[index]
        frames = [self.reader.read(source, [first])[0], self.reader.read(driving, [second])[0]]
        one, other = to_float(np.stack(frames)).contiguous()
        cross, name = self.is_cross(index), driving.path.name
        return one, other, f"{source.path.name} driven by {name}" if cross else name, cross


def reconstruction_pairs(clips: Sequence[Clip], reader: ClipReader, most: int | None = None) -> list[Any]:
    """Pairs of the first frame and every frame of each clip (the protocol of FOMM); at most `most` evenly spaced frames per clip."""
    found = []
    for clip in clips:
        count = reader.count(clip)
        numbers = range(count) if most is None or count <= most else np.linspace(0, count - 1, most).round().astype(int)
        found += [(clip, 0, clip, int(number)) for number in numbers]
    return found


def read_pair_list(file: str | Path, root: str | Path) -> list[Any]:
    """The frame pairs in a published CSV file (columns `source` and `driving`, or the first two).

    The published paths are those on the authors' disks: a frame is searched under `root` by as many of the last parts of its
    path as lead to a file.

    Raises:
        InputError: the file cannot be read or names no pairs, or a frame is missing.
    """
    file, root = Path(file), Path(root)
    try:
        with file.open(newline="", encoding="utf-8") as handle:
            rows = [row for row in csv.reader(handle) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not a pair list that can be read ({error})") from error
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    named = "source" in header and "driving" in header
    columns = (header.index("source"), header.index("driving")) if named else (0, 1)
    pairs = []
    for number, row in enumerate(rows[1 if named else 0 :], 2 if named else 1):
        if len(row) <= max(columns):
            raise InputError(f"{file}: line {number} has {len(row)} columns; expected source,driving")
        frames = [_frame(row[column].strip(), root, f"{file}: line {number}") for column in columns]
        pairs.append((*frames[0], *frames[1]))
    if not pairs:
        raise InputError(f"{file}: names no pairs; expected lines of source,driving")
    return pairs


def _frame(name: str, root: Path, where: str) -> tuple[Clip, int]:
    parts = [part for part in name.replace("\\", "/").split("/") if part]
    for start in range(len(parts)):
        if ".." in parts[start:]:
            continue
        path = root.joinpath(*parts[start:])
        if path.is_file() and path.parent != root:
            return _numbered(path)
    raise InputError(f"{where}: no frame {'/'.join(parts[-2:])} under {root}")


@lru_cache(maxsize=1024)
def _names(folder: Path) -> dict[str, int]:
    return {path.name: number for number, path in enumerate(list_images(folder))}


def _numbered(path: Path) -> tuple[Clip, int]:
    try:
        return Clip(path.parent), _names(path.parent)[path.name]
    except KeyError as error:
        raise InputError(f"{path}: not an image") from error


class TalkingHeads(LightningDataModule):
    """Frame pairs of talking heads for MCNet's training and tests.

    `root` holds `train/` and `test/` (VoxCeleb1 as prepared for FOMM), or the clips themselves, which are then used for both. A clip
    is a folder of frames or a video; names like `id10001#video#000001#000150.mp4` contain the identity.

    Args:
        root: folder of the data set; "samples" for the two clips that come with visionzoo.
        size: side that frames are resized to; a multiple of 128, published 256.
        batch_size: pairs per device; published 8 (on 8 devices).
        num_workers: number of reading processes.
        by_identity: draw identities (published), not clips.
        augment: swap, mirror and change colours, as published.
        repeats: how often an epoch goes through the identities; published 75.
        val_pairs: number of fixed pairs to validate on.
        pairs: a published pair list (CSV) for tests; without it the test is reconstruction, each clip from its first frame.
        cross: whether every pair of the list shows two people, so that there are no true frames; None compares the part before
            the first # in the names of clips (`Clip.identity`), so that a list may hold both kinds.
        test_frames: largest number of frames of each clip in a reconstruction test; None uses all.
        cache: folder for decoded videos; None keeps the last few in memory.
        seed: random seed for order, pairs and augmentation.
    """

    def __init__(
        self,
        root: str,
        size: int = 256,
        batch_size: int = 8,
        num_workers: int = 4,
        by_identity: bool = True,
        augment: bool = True,
        repeats: int = 75,
        val_pairs: int = 64,
        pairs: str | None = None,
        cross: bool | None = None,
        test_frames: int | None = None,
        cache: str | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if not root:
            raise InputError("data.root must be the folder of the data set")
        if size < 128 or size % 128 or min(batch_size, repeats) < 1:
            raise InputError(
                f"data.size must be a multiple of 128, batch_size and repeats must be at least 1, got {size}, {batch_size}, {repeats}"
            )
        if cross and not pairs:
            raise InputError(
                "data.cross=true needs data.pairs=FILE.csv: a clip that is made from its first frame shows one person"
            )
        self.root, self.size, self.batch_size, self.num_workers = root, size, batch_size, num_workers
        self.by_identity, self.augment, self.repeats, self.val_pairs = by_identity, augment, repeats, val_pairs
        self.pairs, self.cross, self.test_frames, self.seed = pairs, cross, test_frames, seed
        self.reader = ClipReader(size, None if cache is None else Path(cache))
        self.train_set: Dataset | None = None
        self.val_set: Dataset | None = None
        self.test_set: Dataset | None = None

    def check_files(self, stage: str = "fit") -> None:
        """Raise `InputError` if the folder of the clips is missing or holds none."""
        _, parts = self._places()
        find_clips(parts["train" if stage == "fit" else "test"])

    def _places(self) -> tuple[Path, dict[str, Path]]:
        """The folder of the data set, and those of its parts."""
        root = bundled("talking") if self.root == "samples" else Path(self.root)
        return root, {name: root / name if (root / name).is_dir() else root for name in ("train", "test")}

    def setup(self, stage: str = "fit") -> None:
        root, parts = self._places()
        if stage == "test":
            if self.pairs:
                found = read_pair_list(self.pairs, root)
            else:
                found = reconstruction_pairs(find_clips(parts["test"]), self.reader, self.test_frames)
            self.test_set = TestPairs(found, self.reader, cross=self.cross)
            return
        choice: dict[str, Any] = {"by_identity": self.by_identity}
        train = FramePairs(find_clips(parts["train"]), self.reader, self.seed, augment=self.augment, **choice)
        self.train_set = _Repeated(train, len(train) * self.repeats)
        held = FramePairs(find_clips(parts["test"]), self.reader, self.seed + 1, augment=False, **choice)
        self.val_set = _Repeated(held, self.val_pairs, fixed=True)

    def train_dataloader(self) -> EpochLoader:
        assert self.train_set is not None
        loader = EpochLoader(self, self.train_set, shuffle=True, drop_last=True)
        if not len(loader):
            raise InputError(
                f"{len(loader.sampler)} pairs an epoch do not fill a batch of {self.batch_size}; raise data.repeats"  # pyright: ignore[reportArgumentType]
            )
        return loader

    def val_dataloader(self) -> EpochLoader | list:
        return [] if self.val_set is None or not self.val_pairs else EpochLoader(self, self.val_set)

    def test_dataloader(self) -> DataLoader:
        assert self.test_set is not None
        return DataLoader(self.test_set, self.batch_size, num_workers=self.num_workers)


class _Repeated(Dataset):
    """`data` as if it had `length` items; each draws its own pair, in every epoch a new one or, if `fixed`, the same."""

    def __init__(self, data: FramePairs, length: int, *, fixed: bool = False):
        self.data, self.length, self.fixed = data, length, fixed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return self.data[0 if self.fixed else key[0], key[1]]


__all__ = ["Clip", "ClipReader", "FramePairs", "TalkingHeads", "TestPairs", "find_clips", "read_pair_list"]
