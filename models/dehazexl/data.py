"""Hazy and clear images for DehazeXL's training: paired folders, or clear images with synthetic haze."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from visionzoo.data.augmented import seeded
from visionzoo.data.epochs import EpochLoader, share_of
from visionzoo.errors import InputError
from visionzoo.io.image import list_images, load_image
from visionzoo.io.pixels import floats_to_bytes, to_float

from .haze import draw_distance, draw_haze
from .scenes import aerial_scene, draw_sky
from .windowed import WindowedImage

Layout = Literal["paired", "clear", "scenes"]
Pixels = NDArray[np.uint8]
CLEAR_FOLDERS = ("clear", "gt", "GT", "target", "clean")
HAZY_FOLDERS = re.compile(r"cloud_L?\d+|hazy|haze|input|cloud", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """A clear image and its hazy versions."""

    name: str
    clear: Path
    hazy: tuple[Path, ...]


def find_pairs(root: str | Path, levels: Sequence[str] | None = None) -> list[Pair]:
    """The pairs of a data set, sorted by name.

    Layouts, recognised by the names of folders in `root`:
        8KDehaze: `clear/` and `cloud_L1/` … `cloud_L4/` (or `cloud_0/` …), the same file names in all.
        RESIDE and its like: `clear/` or `gt/` and `hazy/`; `hazy/0001_0.8_0.2.png` belongs to `clear/0001.png`.
        O-HAZE and its like: `GT/01_outdoor_GT.jpg` and `hazy/01_outdoor_hazy.jpg`.

    Args:
        levels: names of hazy folders to take, e.g. ["cloud_L1"]; all if None.

    Raises:
        InputError: the folder does not exist, has no clear or hazy images, or a hazy image has no clear one.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; expected {root}/clear/… and {root}/hazy/… (or cloud_L1/ … cloud_L4/)"
        )
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    clear = next((path for name in CLEAR_FOLDERS for path in folders if path.name == name), None)
    hazy = [path for path in folders if path != clear and HAZY_FOLDERS.fullmatch(path.name)]
    if levels is not None:
        missing = sorted(set(levels) - {path.name for path in hazy})
        if missing:
            have = ", ".join(path.name for path in hazy) or "no hazy folder"
            raise InputError(f"{root}: has no folder {', '.join(missing)}; it has {have}")
        hazy = [path for path in hazy if path.name in levels]
    if clear is None or not hazy:
        raise InputError(
            f"{root}: lacks {'a folder of clear images' if clear is None else 'folders of hazy images'}; expected "
            "clear/, and hazy/ or cloud_L1/ … cloud_L4/"
        )
    by_key = {path.stem: path for path in list_images(clear)}
    found: dict[str, list[Path]] = {}
    for folder in hazy:
        for path in list_images(folder):
            found.setdefault(_partner(path, by_key, clear), []).append(path)
    return [Pair(key, by_key[key], tuple(found[key])) for key in sorted(found)]


def _partner(path: Path, clear: dict[str, Path], folder: Path) -> str:
    """The stem of a hazy image's clear one: the same stem, the stem without its last word, or its first word."""
    words = path.stem.split("_")
    for key in (path.stem, f"{'_'.join(words[:-1])}_GT", "_".join(words[:-1]), words[0]):
        if key in clear:
            return key
    raise InputError(f"{path}: {folder} has no image of that name; expected {folder / path.name}")


def split_pairs(pairs: Sequence[Pair], share: float = 0.85, seed: int = 22) -> tuple[list[Pair], list[Pair]]:
    """Random training and test pairs with the published share and seed; names are sorted first, so it is the same everywhere."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    count = int(share * len(pairs))
    return [pairs[i] for i in sorted(order[:count])], [pairs[i] for i in sorted(order[count:])]


def read_split(file: str | Path, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs that a text file names, one per line, with or without extension."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}); expected names of images, one per line"
        ) from error
    by_name = {pair.name: pair for pair in pairs}
    names = [Path(line.strip()).stem for line in lines if line.strip()]
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        raise InputError(f"{file}: {f'{unknown[0]} is not in the data set' if unknown else 'names no images'}")
    return [by_name[name] for name in names]


class Example(Protocol):
    """A source of training crops."""

    def __len__(self) -> int: ...

    def crop(self, index: int, side: int, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        """A random hazy crop and the same crop of the clear image, each (side, side, 3) uint8."""
        ...


class PairedCrops:
    """Crops of pairs, read by windows; one of an image's hazy versions is chosen at random."""

    def __init__(self, pairs: Sequence[Pair], cache: Path | None = None):
        self.pairs, self.cache = pairs, cache

    def __len__(self) -> int:
        return len(self.pairs)

    def crop(self, index: int, side: int, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        pair = self.pairs[index]
        with (
            WindowedImage(pair.hazy[rng.integers(len(pair.hazy))], self.cache) as hazy,
            WindowedImage(pair.clear, self.cache) as clear,
        ):
            if hazy.size != clear.size:
                raise InputError(f"{hazy.path}: is {hazy.words}, but {clear.path} is {clear.words}")
            top, left = _place(hazy.size, side, rng, pair.clear)
            return hazy.read(top, left, side, side), clear.read(top, left, side, side)


class HazedCrops:
    """Crops of clear images, each with new random haze.

    Args:
        count: number of images.
        load: index -> (H, W, 3) uint8.
        slanted: share of crops in which haze grows with distance, as in an oblique view.
        skies: share of crops with a synthetic sky in their upper part.
        compress: share of crops that are compressed as JPEG after the haze is added.
    """

    def __init__(
        self,
        count: int,
        load: Callable[[int], Pixels],
        slanted: float = 0.4,
        skies: float = 0.3,
        compress: float = 0.3,
    ):
        self.count, self.load, self.slanted, self.skies, self.compress = count, load, slanted, skies, compress

    def __len__(self) -> int:
        return self.count

    def crop(self, index: int, side: int, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        image = self.load(index)
        top, left = _place(image.shape[:2], side, rng, index)
        clear = image[top : top + side, left : left + side]
        if rng.random() < self.skies:
            sky, there = draw_sky(side, side, rng)
            clear = np.where(there[..., None], sky, clear)
        distance = draw_distance(rng, side, side) if rng.random() < self.slanted else None
        hazy = draw_haze(rng, side=side)(clear, distance=distance)
        hazy = hazy + rng.normal(0, rng.uniform(0, 0.008), hazy.shape).astype(np.float32)
        pixels = floats_to_bytes(hazy)
        return (_compressed(pixels, rng) if rng.random() < self.compress else pixels), clear


def _place(size: Sequence[int], side: int, rng: np.random.Generator, name: object) -> tuple[int, int]:
    if min(size) < side:
        raise InputError(f"{name}: {size[1]} x {size[0]} pixels are less than a crop of {side}; lower data.crop")
    return int(rng.integers(size[0] - side + 1)), int(rng.integers(size[1] - side + 1))


def _compressed(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(75, 98)))
    return np.asarray(Image.open(file))


class Crops(Dataset):
    """Training crops by (epoch, index): a crop depends only on these and the seed.

    An item is a hazy and a clear crop (3, side, side) in [0, 1], rotated by multiples of 90 degrees as published, optionally mirrored.
    """

    def __init__(self, source: Example, side: int, seed: int, *, turn: bool = True, mirror: bool = False):
        self.source, self.side, self.seed, self.turn, self.mirror = source, side, seed, turn, mirror

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        with seeded(self.seed, *key):
            rng = np.random.default_rng(int(torch.randint(2**62, ())))
        pair = np.stack(self.source.crop(key[1], self.side, rng))
        if self.turn:
            pair = np.rot90(pair, int(rng.integers(4)), (1, 2))
        if self.mirror and rng.random() < 0.5:
            pair = pair[:, :, ::-1]
        hazy, clear = to_float(pair).contiguous()
        return hazy, clear


class DehazeData(LightningDataModule):
    """Pairs of hazy and clear images for DehazeXL's training.

    Layouts:
        "paired": a folder of clear images and folders of hazy ones, see `find_pairs` (8KDehaze, RESIDE, O-HAZE, or your own).
        "clear": a folder of clear images, <root>/train and <root>/val or all in one; every crop gets new haze.
        "scenes": synthetic aerial scenes with synthetic haze; needs no files.

    Args:
        root: folder of the data set.
        crop: side of a training crop in pixels; the published recipe has 2048, where attention sees 4096 tokens.
        batch_size: crops per device.
        num_workers: number of reading processes.
        levels: hazy folders to take, e.g. ["cloud_L1", "cloud_L2"]; all if None.
        split: share of the pairs to train on, drawn with the published seed 22. It has no effect with `train_names`.
        train_names, test_names: text files of names, one per line, to use instead of the random split.
        scenes: number of synthetic scenes per epoch; with layout "clear", they are added to the images.
        scene_side: their side in pixels.
        mirror: mirror half of the crops (the published recipe does not).
        val_crops: number of fixed crops to validate on.
        repeats: how often an epoch goes through the images.
        cache: folder where images that cannot be read by windows (PNG, JPEG) are unpacked once; None decodes each one every time.
        seed: random seed for order, crops and haze.
    """

    def __init__(
        self,
        root: str | None = None,
        layout: Layout = "paired",
        crop: int = 2048,
        batch_size: int = 1,
        num_workers: int = 4,
        levels: list[str] | None = None,
        split: float = 0.85,
        train_names: str | None = None,
        test_names: str | None = None,
        scenes: int = 0,
        scene_side: int = 640,
        mirror: bool = False,
        val_crops: int = 32,
        repeats: int = 1,
        cache: str | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if layout not in ("paired", "clear", "scenes"):
            raise InputError(f"data.layout must be 'paired', 'clear' or 'scenes', got {layout!r}")
        if layout != "scenes" and not root:
            raise InputError("data.root must be the folder of the data set")
        if layout == "scenes" and scenes < 1:
            raise InputError("data.scenes, the number of scenes to draw in an epoch, must be at least 1")
        if crop < 1 or batch_size < 1 or not 0 < split <= 1:
            raise InputError(
                f"crop and batch_size must be at least 1, and split in (0, 1], got {crop}, {batch_size}, {split}"
            )
        self.root, self.layout, self.side, self.batch_size, self.num_workers = (
            root,
            layout,
            crop,
            batch_size,
            num_workers,
        )
        self.levels, self.split, self.train_names, self.test_names = levels, split, train_names, test_names
        self.scenes, self.scene_side, self.mirror = scenes, scene_side, mirror
        self.val_crops, self.repeats, self.seed = val_crops, repeats, seed
        self.cache = Path(cache) if cache else None
        self.train_set: Crops | None = None
        self.val_set: Crops | None = None
        self.test_pairs: list[Pair] = []

    def setup(self, stage: str = "fit") -> None:
        if self.train_set is not None or self.test_pairs:
            return
        if self.layout == "paired":
            train, val = self._paired()
        else:
            if stage == "test":
                raise InputError("testing needs pairs of files; use data.layout=paired")
            train, val = self._hazed()
        self.train_set = Crops(train, self.side, self.seed, mirror=self.mirror)
        self.val_set = Crops(val, self.side, self.seed + 1, turn=False)

    def _paired(self) -> tuple[PairedCrops, PairedCrops]:
        assert self.root is not None
        pairs = find_pairs(self.root, self.levels)
        train, test = split_pairs(pairs, self.split)
        if self.train_names:
            train = read_split(self.train_names, pairs)
            names = {pair.name for pair in train}
            test = [pair for pair in pairs if pair.name not in names]
        if self.test_names:
            test = read_split(self.test_names, pairs)
        self.test_pairs = test or pairs
        return PairedCrops(train, self.cache), PairedCrops(self.test_pairs, self.cache)

    def _hazed(self) -> tuple[HazedCrops, HazedCrops]:
        files: list[Path] = []
        held: list[Path] = []
        if self.root:
            root = Path(self.root)
            if not root.is_dir():
                raise InputError(f"{root}: no such folder; expected a folder of clear images")
            files = list_images(root / "train" if (root / "train").is_dir() else root)
            held = list_images(root / "val") if (root / "val").is_dir() else []
        train = _Mixed(files, self.scenes, self.scene_side, self.seed)
        val = _Mixed(held or files, 0 if held else self.scenes, self.scene_side, self.seed + 10**6)
        return HazedCrops(len(train), train), HazedCrops(len(val), val)

    def train_dataloader(self) -> EpochLoader:
        assert self.train_set is not None
        loader = EpochLoader(self, _Repeated(self.train_set, self.repeats), shuffle=True, drop_last=True)
        if not len(loader):
            raise InputError(
                f"{len(self.train_set)} images do not fill a batch of {self.batch_size} on each of {share_of(self)[0]} devices"
            )
        return loader

    def val_dataloader(self) -> EpochLoader | list:
        if self.val_set is None or not len(self.val_set) or not self.val_crops:
            return []
        return EpochLoader(self, _Fixed(self.val_set, self.val_crops))

    def test_dataloader(self) -> DataLoader:
        """Loads names of files, one hazy image at a time: a test reads whole images by windows."""
        names = [(str(path), str(pair.clear)) for pair in self.test_pairs for path in pair.hazy]
        return DataLoader(names, batch_size=1, collate_fn=_first)  # pyright: ignore[reportArgumentType]


class _Mixed:
    """Image files, then synthetic scenes: index -> (H, W, 3) uint8."""

    def __init__(self, files: Sequence[Path], scenes: int, side: int, seed: int):
        self.files, self.scenes, self.side, self.seed = files, scenes, side, seed

    def __len__(self) -> int:
        return len(self.files) + self.scenes

    def __call__(self, index: int) -> Pixels:
        if index < len(self.files):
            return load_image(self.files[index])
        return aerial_scene(self.side, self.seed + index - len(self.files))


class _Repeated(Dataset):
    """`data` several times an epoch; (epoch, index) -> the crop of index modulo its length."""

    def __init__(self, data: Crops, times: int):
        self.data, self.times = data, times

    def __len__(self) -> int:
        return len(self.data) * self.times

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        copy, index = divmod(index, len(self.data))
        return self.data[epoch * self.times + copy, index]


class _Fixed(Dataset):
    """`count` crops that are the same in every epoch, evenly spread over the images."""

    def __init__(self, data: Crops, count: int):
        self.data, self.count = data, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        total = len(self.data)
        copy, index = divmod(key[1], total) if self.count >= total else (0, key[1] * total // self.count)
        return self.data[copy, index]


def _first(items: list[Any]) -> Any:
    return items[0]
