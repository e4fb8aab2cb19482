"""Images with classes (one folder per class, Google Landmarks v2, or synthetic) as a LightningDataModule.

They are normalised for the network of the running trainer.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torchvision.transforms import v2

from visionzoo.data.augmented import Augmented
from visionzoo.data.epochs import EpochLoader, share_of
from visionzoo.data.labelled import LabelledFiles, read_class_folders
from visionzoo.errors import InputError

from .preprocess import preprocess_of
from .synthetic import MILD, STRONG, draw_landmark, view

Layout = Literal["folders", "gldv2", "synthetic"]


class Lighting:
    """Shifts colours along the principal components of ImageNet's (Krizhevsky et al., NeurIPS 2012); PIL to PIL, RGB.

    Args:
        std: standard deviation of the amount per component; 0.1 in the usual recipe.
    """

    VALUES = torch.tensor([0.2175, 0.0188, 0.0045])
    VECTORS = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

    def __init__(self, std: float):
        self.std = std

    def __call__(self, image: Image.Image) -> Image.Image:
        shift = 255 * (self.VECTORS @ (self.VALUES * torch.randn(3) * self.std))
        return Image.fromarray((np.asarray(image) + shift.numpy()).round().clip(0, 255).astype(np.uint8))


class SuperGlobalData(LightningDataModule):
    """Images with classes, for training and validation.

    Layouts:
        "folders": <root>/<class>/<image>.
        "gldv2": the cleaned list <root>/train_clean.csv (columns landmark_id, images) and the images as
            <root>/train/a/b/c/<id>.jpg or <root>/a/b/c/<id>.jpg, where a, b, c begin the id.
        "synthetic": synthetic landmarks; needs no files.

    Args:
        root: folder of the data set.
        image_size: side of the square crops, pixels.
        batch_size: images per device.
        val_fraction: share of each class that is kept for validation, if this is at least two images.
        val_classes: number of classes with images for validation; None for all.
        min_area: smallest share of an image that a random crop covers.
        color_jitter: strength of random brightness, contrast and saturation.
        lighting: strength of the random colour shift along ImageNet's principal components.
        seed: random seed for the split, the order and the augmentation.
        classes, images_per_class: size of the synthetic set.
    """

    def __init__(
        self,
        root: str | None = None,
        layout: Layout = "folders",
        image_size: int = 224,
        batch_size: int = 64,
        num_workers: int = 4,
        val_fraction: float = 0.1,
        val_classes: int | None = None,
        min_area: float = 0.08,
        color_jitter: float = 0.0,
        lighting: float = 0.0,
        seed: int = 0,
        classes: int = 8,
        images_per_class: int = 16,
    ):
        super().__init__()
        if layout != "synthetic" and not root:
            raise InputError(f"the layout {layout!r} needs data.root, the folder of the data set")
        if image_size < 1 or batch_size < 1:
            raise InputError(f"image_size and batch_size must be positive, got {image_size} and {batch_size}")
        if not 0 <= val_fraction < 1:
            raise InputError(f"val_fraction must be at least 0 and below 1, got {val_fraction}")
        self.root, self.layout = root, layout
        self.image_size, self.batch_size, self.num_workers = image_size, batch_size, num_workers
        self.val_fraction, self.val_classes = val_fraction, val_classes
        self.min_area, self.color_jitter, self.lighting = min_area, color_jitter, lighting
        self.seed, self.classes, self.images_per_class = seed, classes, images_per_class
        self.num_classes = 0
        self.class_names: list[str] = []

    def setup(self, stage: str = "fit") -> None:
        if self.num_classes:
            return
        load, labels, self.class_names = self._read()
        self.num_classes = max(labels) + 1
        train, val = split_by_class(labels, self.val_fraction, self.val_classes, self.seed)
        preprocess = preprocess_of(self.trainer)
        to_input = [np.asarray, preprocess.normalise]
        augment, plain = v2.Compose([*self._augmentation(), *to_input]), v2.Compose([*self._centre_crop(), *to_input])
        self.train_set = Augmented(_Subset(load, train), [labels[i] for i in train], augment, self.seed)
        self.val_set = Augmented(_Subset(load, val), [labels[i] for i in val], plain, self.seed)

    def check_files(self, stage: str = "fit") -> None:
        """Raise `InputError` if the data set is missing."""
        del stage
        if self.layout == "folders" and self.root is not None and not Path(self.root).is_dir():
            read_class_folders(Path(self.root))  # which raises
        if self.layout == "gldv2" and self.root is not None and not (Path(self.root) / "train_clean.csv").is_file():
            read_gldv2(Path(self.root))

    def _read(self) -> tuple[Callable[[int], np.ndarray], list[int], list[str]]:
        """The function that loads an image, the class number of each image, and the names of the classes."""
        if self.layout == "synthetic":
            labels = [number for number in range(self.classes) for _ in range(self.images_per_class)]
            names = [f"landmark {number}" for number in range(self.classes)]
            return SyntheticImages(self.images_per_class, self.image_size, self.seed), labels, names
        assert self.root is not None
        files = (read_class_folders if self.layout == "folders" else read_gldv2)(Path(self.root))
        return files, list(files.labels), list(files.classes)

    def _augmentation(self) -> list[Any]:
        steps: list[Any] = [
            v2.RandomResizedCrop(self.image_size, scale=(self.min_area, 1.0), ratio=(3 / 4, 4 / 3)),
            v2.RandomHorizontalFlip(),
        ]
        if self.color_jitter:
            steps.append(v2.ColorJitter(self.color_jitter, self.color_jitter, self.color_jitter))
        if self.lighting:
            steps.append(Lighting(self.lighting))
        return steps

    def _centre_crop(self) -> list[Any]:
        return [v2.Resize(round(self.image_size * 8 / 7)), v2.CenterCrop(self.image_size)]

    def train_dataloader(self) -> EpochLoader:
        fills = len(self.train_set) // share_of(self)[0] >= self.batch_size
        return EpochLoader(self, self.train_set, shuffle=True, drop_last=fills)

    def val_dataloader(self) -> EpochLoader | list:
        return EpochLoader(self, self.val_set) if len(self.val_set) else []


class SyntheticImages:
    """Views of synthetic landmarks: index -> (side, side, 3) uint8."""

    def __init__(self, per_class: int, side: int, seed: int):
        self.per_class, self.side, self.seed = per_class, side, seed

    def __call__(self, index: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, index])
        landmark = draw_landmark(index // self.per_class + 1000 * self.seed, self.side)
        strength = random.uniform(MILD, STRONG)
        return np.array(view(landmark, random, strength, (self.side, self.side)))


class _Subset:
    def __init__(self, load: Callable[[int], np.ndarray], indices: Sequence[int]):
        self.load, self.indices = load, indices

    def __call__(self, index: int) -> np.ndarray:
        return self.load(self.indices[index])


def read_gldv2(root: Path) -> LabelledFiles:
    """The images of the cleaned Google Landmarks v2; classes in the order of their landmark_id.

    Raises:
        InputError: train_clean.csv is missing or has a malformed line.
    """
    listing = root / "train_clean.csv"
    base = root / "train" if (root / "train").is_dir() else root
    landmarks: dict[int, list[str]] = {}
    try:
        with listing.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                try:
                    landmark, ids = int(row["landmark_id"]), row["images"].split()
                except (KeyError, ValueError, AttributeError, TypeError) as error:
                    raise InputError(f"{listing}, line {number}: expected landmark_id,images ({error})") from error
                if not all(name.isalnum() and len(name) >= 3 for name in ids):
                    raise InputError(f"{listing}, line {number}: an image id is not made of letters and digits")
                landmarks.setdefault(landmark, []).extend(ids)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{listing}: cannot be read ({error}); it comes with Google Landmarks v2 (train set)"
        ) from error
    if len(landmarks) < 2:
        raise InputError(f"{listing}: must have two or more landmarks, got {len(landmarks)}")
    pairs = [
        (base / name[0] / name[1] / name[2] / f"{name}.jpg", number)
        for number, landmark in enumerate(sorted(landmarks))
        for name in landmarks[landmark]
    ]
    return LabelledFiles(
        [path for path, _ in pairs], [number for _, number in pairs], [str(landmark) for landmark in sorted(landmarks)]
    )


def split_by_class(
    labels: Sequence[int], fraction: float, classes: int | None, seed: int
) -> tuple[list[int], list[int]]:
    """Indices for training and for validation: `fraction` of each class, if that is two or more and leaves one."""
    members: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    random = np.random.default_rng(seed)
    chosen = sorted(members)
    if classes is not None and classes < len(chosen):
        chosen = sorted(random.choice(chosen, classes, replace=False).tolist())
    held: set[int] = set()
    for label in chosen:
        count = round(len(members[label]) * fraction)
        if 2 <= count < len(members[label]):
            held.update(random.permutation(members[label])[:count].tolist())
    return [i for i in range(len(labels)) if i not in held], sorted(held)
