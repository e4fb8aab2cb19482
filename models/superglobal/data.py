"""Data for training and for evaluation, as LightningDataModules.

`SuperGlobalData`: pictures with classes (one folder a class, Google Landmarks v2, or made up). `RevisitedData`:
revisited Oxford and Paris, and the list of distractors. Both normalise as the network of the running trainer wants it.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler
from torchvision.transforms import v2

from visionzoo.data.augmented import Augmented, EpochSampler
from visionzoo.data.labelled import LabelledFiles, read_class_folders
from visionzoo.errors import InputError, writing
from visionzoo.io.image import image_size, load_image

from .model import SuperGlobalConfig
from .preprocess import Preprocess, crop_box
from .revisited import Benchmark, Descriptors, DescriptorShards, read_benchmark, read_descriptors, read_image_list
from .synthetic import MILD, STRONG, draw_landmark, make_benchmark, make_distractors, view

Layout = Literal["folders", "gldv2", "synthetic"]


# Pictures with classes


class Lighting:
    """Colours shifted along the principal components of ImageNet's (Krizhevsky et al., NeurIPS 2012); PIL to PIL, RGB.

    Args:
        std: of the amount per component; 0.1 in the usual recipe.
    """

    VALUES = torch.tensor([0.2175, 0.0188, 0.0045])
    VECTORS = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

    def __init__(self, std: float):
        self.std = std

    def __call__(self, image: Image.Image) -> Image.Image:
        shift = 255 * (self.VECTORS @ (self.VALUES * torch.randn(3) * self.std))
        return Image.fromarray((np.asarray(image) + shift.numpy()).round().clip(0, 255).astype(np.uint8))


class SuperGlobalData(LightningDataModule):
    """Pictures with classes, for training and validation.

    Layouts:
        "folders": <root>/<class>/<picture>.
        "gldv2": the cleaned list <root>/train_clean.csv (columns landmark_id, images) and the pictures as
            <root>/train/a/b/c/<id>.jpg or <root>/a/b/c/<id>.jpg, where a, b, c begin the id.
        "synthetic": made-up landmarks, no files.

    Args:
        root: folder of the data set.
        image_size: side of the square crops, pixels.
        batch_size: per device.
        val_fraction: share of each class that is kept for validation, where a class has enough for two.
        val_classes: only so many classes give pictures to validation; None for all.
        min_area: smallest share of a picture that a random crop covers.
        color_jitter: strength of random brightness, contrast and saturation.
        lighting: strength of the random colour shift along ImageNet's principal components.
        seed: of the split, the order and the augmentation.
        classes, images_per_class: of the made-up set.
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
            raise InputError(f"image_size and batch_size are positive, got {image_size} and {batch_size}")
        if not 0 <= val_fraction < 1:
            raise InputError(f"val_fraction is a share from 0 to below 1, got {val_fraction}")
        self.root, self.layout = root, layout
        self.image_size, self.batch_size, self.num_workers = image_size, batch_size, num_workers
        self.val_fraction, self.val_classes = val_fraction, val_classes
        self.min_area, self.color_jitter, self.lighting = min_area, color_jitter, lighting
        self.seed, self.classes, self.images_per_class = seed, classes, images_per_class
        self.num_classes = 0

    def setup(self, stage: str = "fit") -> None:
        if self.num_classes:
            return
        load, labels = self._read()
        self.num_classes = max(labels) + 1
        train, val = split_by_class(labels, self.val_fraction, self.val_classes, self.seed)
        preprocess = preprocess_of(self.trainer)
        to_input = [np.asarray, preprocess.normalise]
        augment, plain = v2.Compose([*self._augmentation(), *to_input]), v2.Compose([*self._centre_crop(), *to_input])
        self.train_set = Augmented(_Subset(load, train), [labels[i] for i in train], augment, self.seed)
        self.val_set = Augmented(_Subset(load, val), [labels[i] for i in val], plain, self.seed)

    def _read(self) -> tuple[Callable[[int], np.ndarray], list[int]]:
        if self.layout == "synthetic":
            return SyntheticPictures(self.images_per_class, self.image_size, self.seed), [
                number for number in range(self.classes) for _ in range(self.images_per_class)
            ]
        assert self.root is not None
        files = (read_class_folders if self.layout == "folders" else read_gldv2)(Path(self.root))
        return files, list(files.labels)

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

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader | list:
        return self._loader(self.val_set, shuffle=False) if len(self.val_set) else []

    def _loader(self, data: Augmented, shuffle: bool) -> DataLoader:
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        return DataLoader(
            data,
            self.batch_size,
            sampler=EpochSampler(data, world, rank, shuffle=shuffle, seed=self.seed),
            num_workers=self.num_workers,
            drop_last=shuffle and len(data) // world >= self.batch_size,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )


class SyntheticPictures:
    """Views of made-up landmarks: index -> (side, side, 3) uint8."""

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
    """The pictures of the cleaned Google Landmarks v2; classes in the order of their landmark_id.

    Raises:
        InputError: no train_clean.csv, or a line that is not of its form.
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
        raise InputError(f"{listing}: has {len(landmarks)} landmarks, expected two or more")
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
    """Indices for training and for validation: `fraction` of each class, where that is two or more and leaves one."""
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


def preprocess_of(trainer: Any, max_side: int | None = None) -> Preprocess:
    """What the network of a running trainer wants; the published normalisation without one."""
    module = getattr(trainer, "lightning_module", None)
    if module is not None and hasattr(module, "preprocess"):
        return module.preprocess(max_side)
    return Preprocess.from_config(SuperGlobalConfig(), max_side=max_side)


# Revisited Oxford and Paris

Group = tuple[Tensor, Tensor]
"""Numbers (b,) int64 and pictures (b, 3, H, W) of one size."""


class PictureBatches(Dataset):
    """Batches of pictures, each picture normalised at its own size; item i is batch i as groups of one size each.

    Args:
        paths: the files.
        boxes: per file, the part (x0, y0, x1, y1) that is cut out first; None for whole pictures.
        batches: numbers of the pictures that go together.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        boxes: Sequence[Sequence[float]] | None,
        preprocess: Preprocess,
        batches: Sequence[Sequence[int]],
    ):
        self.paths, self.boxes, self.preprocess, self.batches = paths, boxes, preprocess, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[Group]:
        return group_by_size([(number, self.read(number)) for number in self.batches[index]])

    def read(self, number: int) -> Tensor:
        """(3, H, W) float32."""
        path = self.paths[number]
        image = load_image(path)
        if self.boxes is not None:
            try:
                image = crop_box(image, self.boxes[number])
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
        return self.preprocess(image, str(path))


def group_by_size(pictures: Sequence[tuple[int, Tensor]]) -> list[Group]:
    """Pictures of any sizes as groups of one size each, so that every picture is described as if it were alone."""
    groups: dict[tuple[int, ...], list[tuple[int, Tensor]]] = defaultdict(list)
    for number, image in pictures:
        groups[tuple(image.shape)].append((number, image))
    return [
        (torch.tensor([number for number, _ in group]), torch.stack([image for _, image in group]))
        for group in groups.values()
    ]


def equal_size_batches(sizes: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Numbers of pictures in batches whose files have one size, the most frequent size first."""
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, size in enumerate(sizes):
        members[size].append(number)
    ordered = [members[size] for size, _ in Counter(sizes).most_common()]
    return [group[i : i + batch_size] for group in ordered for i in range(0, len(group), batch_size)]


class Turns(DistributedSampler):
    """The batches of the shards that are this process's turn; `owners` names the turn of each batch."""

    def __init__(self, data: PictureBatches, owners: Sequence[int], world: int, rank: int):
        super().__init__(data, world, rank, shuffle=False)
        self.own = [number for number, owner in enumerate(owners) if owner == rank]

    def __len__(self) -> int:
        return len(self.own)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.own)


class RevisitedData(LightningDataModule):
    """Revisited Oxford or Paris for `test`, and distractors for `predict`.

    Args:
        root: folder with <name>/jpg and <name>/gnd_<name>.pkl (see `revisited`).
        name: "roxford5k", "rparis6k", or a set in the same layout.
        distractors: descriptors that `test` adds to the database: a .npy file, or a folder that `predict` filled.
        distractor_images, distractor_list: folder of the distractor pictures, and the file that names them.
        batch_size: pictures of one size at a time.
        shard_size: distractors in a file.
        half: distractors are kept in float16: half the space, descriptors rounded to 3 digits.
        max_side: shrink pictures to this many pixels; None is the published setting.
        synthetic: write a small made-up set, with 40 distractors, where there is none yet.
    """

    def __init__(
        self,
        root: str,
        name: str = "roxford5k",
        distractors: str | None = None,
        distractor_images: str | None = None,
        distractor_list: str | None = None,
        batch_size: int = 4,
        num_workers: int = 4,
        shard_size: int = 8192,
        half: bool = False,
        max_side: int | None = None,
        synthetic: bool = False,
    ):
        super().__init__()
        if batch_size < 1:
            raise InputError(f"batch_size is positive, got {batch_size}")
        self.root, self.dataset, self.distractors = root, name, distractors
        self.distractor_images, self.distractor_list = distractor_images, distractor_list
        self.batch_size, self.num_workers, self.shard_size, self.half = batch_size, num_workers, shard_size, half
        self.max_side, self.synthetic = max_side, synthetic
        self.benchmark: Benchmark | None = None
        self.shards: DescriptorShards | None = None

    def prepare_data(self) -> None:
        if self.synthetic and not (Path(self.root) / self.dataset).exists():
            with writing(self.root):
                make_benchmark(self.root, self.dataset)
                make_distractors(Path(self.root) / "revisitop1m", 40)

    def setup(self, stage: str) -> None:
        if stage == "predict":
            self._setup_distractors()
        elif self.benchmark is None:
            benchmark = read_benchmark(self.root, self.dataset)
            benchmark.check_files()
            self._check_distractors()  # before the hours that the images take
            self.benchmark = benchmark

    def distractor_descriptors(self) -> Descriptors | None:
        """The descriptors that `test` adds, memory-mapped; None without distractors."""
        return read_descriptors(self.distractors) if self.distractors else None

    def _check_distractors(self) -> None:
        if self.distractors and Path(self.distractors).is_dir():
            DescriptorShards.open(Path(self.distractors)).check(self._origin())
        self.distractor_descriptors()

    def _origin(self) -> dict[str, Any]:
        """What descriptors depend on besides the pictures."""
        module: Any = getattr(self.trainer, "lightning_module", None)
        return {"max_side": self.max_side, **(module.identity() if hasattr(module, "identity") else {})}

    def test_dataloader(self) -> list[DataLoader]:
        """Database pictures and query pictures."""
        assert self.benchmark is not None
        preprocess = preprocess_of(self.trainer, self.max_side)
        database = [self.benchmark.path(name) for name in self.benchmark.images]
        queries = [self.benchmark.path(name) for name in self.benchmark.queries]
        by_size = equal_size_batches([image_size(path) for path in database], self.batch_size)
        one_by_one = [[number] for number in range(len(queries))]
        return [
            self._loader(PictureBatches(database, None, preprocess, by_size)),
            self._loader(PictureBatches(queries, self.benchmark.boxes, preprocess, one_by_one)),
        ]

    def _setup_distractors(self) -> None:
        if not (self.distractors and self.distractor_images and self.distractor_list):
            raise InputError(
                "predict describes distractors: give data.distractor_images, data.distractor_list and data.distractors"
            )
        folder = Path(self.distractor_images)
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected the distractor pictures there")
        names = read_image_list(self.distractor_list)
        self.distractor_paths = [folder / name for name in names]
        about = {
            "list": hashlib.sha256("\n".join(names).encode()).hexdigest()[:16],
            "dtype": "float16" if self.half else "float32",
            **self._origin(),
        }
        self.shards = DescriptorShards.create(Path(self.distractors), len(names), self.shard_size, about)

    def predict_dataloader(self) -> DataLoader:
        """The pictures of the shards that are missing, in order; several processes take turns shard by shard."""
        assert self.shards is not None
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches: list[Sequence[int]] = []
        owners: list[int] = []
        for turn, shard in enumerate(self.shards.missing()):
            span = self.shards.span(shard)
            for start in range(0, len(span), self.batch_size):
                batches.append(span[start : start + self.batch_size])
                owners.append(turn % world)
        preprocess = preprocess_of(self.trainer, self.max_side)
        data = PictureBatches(self.distractor_paths, None, preprocess, batches)
        return self._loader(data, Turns(data, owners, world, rank))

    def _loader(self, data: PictureBatches, sampler: Sampler | None = None) -> DataLoader:
        return DataLoader(
            data,
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
        )


def _as_it_is(batch: list[Group]) -> list[Group]:
    return batch
