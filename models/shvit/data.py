"""Images with classes for SHViT's training: folders or tar files in ImageNet's layout, or the bundled sample photos."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningDataModule
from torch import Tensor

from visionzoo.data.augmented import Augmented
from visionzoo.data.epochs import EpochLoader, EpochSampler, share_of
from visionzoo.data.labelled import LabelledFiles, first_levels, number_classes, read_class_folders
from visionzoo.errors import InputError, require
from visionzoo.io.files import bundled
from visionzoo.io.image import load_image

from .preprocess import MEAN, STD, Preprocess
from .sampler import RepeatedAugmentationSampler

Layout = Literal["imagenet", "samples"]


class SHViTData(LightningDataModule):
    """Images with classes, augmented as in SHViT's training (section 4.1: DeiT's recipe).

    Layouts:
        "imagenet": <root>/train/<class>/<image> and <root>/val/<class>/<image> (or validation/), or the files
            <root>/train.tar and <root>/val.tar with one folder or one tar file per class inside. Without a validation part,
            nothing is validated.
        "samples": the 13 subjects of the bundled sample photos, with five views of each for training and another one for tests.

    Args:
        root: folder of the data set.
        image_size: side of the network's input, pixels.
        batch_size: images per device; even, as mixup pairs the images of a batch.
        num_workers: number of processes that read and augment.
        repeats: repeated augmentation (`RepeatedAugmentationSampler`): copies of an image in a batch; an epoch has as many
            images as without. 1 for none, and every image once an epoch.
        augmentation: timm's name of an automatic augmentation; "3-augment" for DeiT III's grey, solarise or blur; None.
        min_area: smallest share of an image that a random crop covers.
        color_jitter: strength of colour jitter; it has no effect with an automatic augmentation, as published.
        erasing: probability of a random rectangle of noise.
        crop: share of the shorter side that the centre crop of the test keeps.
        seed: random seed for order and augmentation.
    """

    def __init__(
        self,
        root: str | None = None,
        layout: Layout = "imagenet",
        image_size: int = 224,
        batch_size: int = 256,
        num_workers: int = 4,
        repeats: int = 3,
        augmentation: str | None = "rand-m9-mstd0.5-inc1",
        min_area: float = 0.08,
        color_jitter: float = 0.4,
        erasing: float = 0.25,
        crop: float = 0.875,
        seed: int = 0,
    ):
        super().__init__()
        require("timm", extra="train", purpose="SHViT's augmentation")
        if layout != "samples" and not root:
            raise InputError(
                "data.root must be the folder of the data set: <root>/train/<class>/… and <root>/val/<class>/…"
            )
        if batch_size < 2 or batch_size % 2:
            raise InputError(f"batch_size must be even, as mixup pairs images, got {batch_size}")
        self.root, self.layout, self.batch_size, self.num_workers = root, layout, batch_size, num_workers
        self.repeats, self.augmentation, self.min_area = repeats, augmentation, min_area
        self.color_jitter, self.erasing, self.seed = color_jitter, erasing, seed
        self.image_size = image_size
        self.preprocess = Preprocess(image_size, crop)
        self.classes: list[str] = []

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def setup(self, stage: str = "fit") -> None:
        if self.classes:
            return
        if self.layout == "samples":
            train, val = sample_photos("photos", "{}_*.jpg"), sample_photos("queries", "{}.jpg")
        else:
            train, val = self._imagenet(stage)
        known = train or val
        assert known is not None
        self.classes = class_names(known.classes)
        self.train_set = Augmented(train, train.labels, self._augment(), self.seed) if train else None
        self.val_set = Augmented(val, val.labels, _Plain(self.preprocess), self.seed) if val else None

    def check_files(self, stage: str = "fit") -> None:
        """Raise `InputError` if the folders of the data set are missing."""
        if self.layout != "samples":
            self._places(stage)

    def _places(self, stage: str) -> dict[str, Path | None]:
        """The folder or tar file of each part, "train", "val" and "validation"."""
        assert self.root is not None
        root = Path(self.root)
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; expected {root}/train/<class>/… or {root}/train.tar")
        found: dict[str, Path | None] = {}
        for name in ("train", "val", "validation"):
            folder, tar = root / name, root / f"{name}.tar"
            found[name] = folder if folder.is_dir() else tar if tar.is_file() else None
        if found["train"] is None and (stage == "fit" or not (found["val"] or found["validation"])):
            raise InputError(f"{root}: has neither train/ nor train.tar; expected {root}/train/<class>/<image>")
        return found

    def _imagenet(self, stage: str) -> tuple[LabelledFiles | LabelledTar | None, LabelledFiles | LabelledTar | None]:
        found = self._places(stage)
        held = found["val"] or found["validation"]
        train = read_classes(found["train"]) if found["train"] else None
        val = read_classes(held) if held else None
        if train and val and val.classes != train.classes:
            odd = sorted(set(val.classes) ^ set(train.classes))
            raise InputError(f"{held}: its classes differ from those of {found['train']}: {', '.join(odd[:5])}")
        return train, val

    def _augment(self) -> Any:
        from timm.data.transforms_factory import create_transform

        if self.augmentation == "3-augment":
            return self._three_augment()
        return create_transform(
            self.image_size,
            is_training=True,
            scale=(self.min_area, 1.0),
            color_jitter=self.color_jitter,
            auto_augment=self.augmentation,
            interpolation="bicubic",
            re_prob=self.erasing,
            re_mode="pixel",
            mean=MEAN,
            std=STD,
        )

    def _three_augment(self) -> Any:
        """DeiT III's choice (arXiv 2204.07118, section 3.2): one of grey, solarise and blur, then colour jitter."""
        from torchvision.transforms import v2

        jitter = self.color_jitter
        return v2.Compose(
            [
                v2.RandomResizedCrop(self.image_size, (self.min_area, 1.0), interpolation=v2.InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(),
                v2.RandomChoice([v2.Grayscale(3), v2.RandomSolarize(128, p=1.0), v2.GaussianBlur(5, (0.1, 2.0))]),
                v2.ColorJitter(jitter, jitter, jitter),
                np.asarray,
                self.preprocess.normalise,
            ]
        )

    def train_dataloader(self) -> EpochLoader:
        assert self.train_set is not None
        share = share_of(self)
        repeated = RepeatedSampler(self.train_set, *share, self.repeats) if self.repeats > 1 else None
        loader = EpochLoader(self, self.train_set, repeated, shuffle=True, drop_last=True)
        if not len(loader):
            raise InputError(
                f"{len(self.train_set)} images do not fill a batch of {self.batch_size} on each of {share[0]} devices; "
                "lower data.batch_size"
            )
        return loader

    def val_dataloader(self) -> EpochLoader | list:
        return [] if self.val_set is None else EpochLoader(self, self.val_set)


class RepeatedSampler(EpochSampler):
    """`RepeatedAugmentationSampler`'s images as (epoch, index, copy), so that each copy is augmented differently."""

    def __init__(self, data: Augmented, replicas: int, rank: int, repeats: int):
        super().__init__(data, replicas, rank)
        self.inner = RepeatedAugmentationSampler(data, replicas, rank, repeats)

    def __len__(self) -> int:
        return len(self.inner)

    def keys(self) -> Iterator[Any]:
        self.inner.set_epoch(self.epoch)
        step, rank = self.inner.replicas, self.inner.rank
        return (
            (self.epoch, index, (place * step + rank) % self.inner.repeats) for place, index in enumerate(self.inner)
        )


def read_classes(place: Path) -> LabelledFiles | LabelledTar:
    """The images of a folder or a tar file of classes.

    Raises:
        InputError: there are no images or fewer than two classes, or a tar file is damaged.
    """
    return LabelledTar(place) if place.suffix == ".tar" else read_class_folders(place)


class LabelledTar:
    """The images of a tar file of classes: index -> (H, W, 3) uint8 RGB. A class is a folder or a tar file inside.

    Raises:
        InputError: there are no images or fewer than two classes, or the file is damaged.
    """

    def __init__(self, place: Path):
        from tarfile import TarError

        from timm.data.readers.reader_image_in_tar import ReaderImageInTar

        self.place = place
        try:  # without the cache of tar's table, which timm would unpickle
            self.reader: Any = ReaderImageInTar(str(place), cache_tarinfo=False)
        except (RuntimeError, ValueError, TarError, OSError) as error:
            raise InputError(
                f"{place}: holds no images in folders of classes ({str(error).splitlines()[0]})"
            ) from error
        # timm uses the innermost folder as the class; here, as in folders, the first level is the class
        places = [
            PurePath("" if inner is None else inner.name.removesuffix(".tar"), image.path)
            for image, _, inner in self.reader.samples
        ]
        self.classes, self.labels = number_classes(first_levels(places))
        if len(self.classes) < 2:
            raise InputError(f"{place}: must have two or more folders of images, got {len(self.classes)}")

    def __call__(self, index: int) -> np.ndarray:
        file, _ = self.reader[index]
        with file:
            data = file.read()
        try:
            return load_image(data)
        except InputError as error:
            name = self.reader.filename(index, absolute=True)
            raise InputError(f"{self.place}: {name}: {str(error).removeprefix('the uploaded image: ')}") from error


def sample_photos(folder: str, pattern: str) -> LabelledFiles:
    """The bundled sample photos; a class is what the photos show."""
    classes = sorted(path.stem for path in bundled("queries").glob("*.jpg"))
    pairs = [
        (path, number)
        for number, name in enumerate(classes)
        for path in sorted(bundled(folder).glob(pattern.format(name)))
    ]
    return LabelledFiles([path for path, _ in pairs], [number for _, number in pairs], classes)


class _Plain:
    """The image preprocessed as in tests: resized, centre-cropped, normalised."""

    def __init__(self, preprocess: Preprocess):
        self.preprocess = preprocess

    def __call__(self, image: Any) -> Tensor:
        return self.preprocess(np.asarray(image))


def class_names(folders: Sequence[str]) -> list[str]:
    """Names to show: ImageNet's for its 1000 folders (n01440764, …), else the names of the folders."""
    if len(folders) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in folders):
        from torchvision.models import ResNet18_Weights

        return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    return list(folders)
