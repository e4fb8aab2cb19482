"""Revisited Oxford and Paris, and the list of distractors, as a LightningDataModule."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from visionzoo.errors import InputError, writing
from visionzoo.io.image import image_size, load_image

from .descriptors import Descriptors, DescriptorShards, read_descriptors
from .preprocess import Preprocess, crop_box, preprocess_of
from .revisited import Benchmark, read_benchmark, read_image_list
from .synthetic import make_benchmark, make_distractors

Group = tuple[Tensor, Tensor]
"""Numbers (b,) int64 and images (b, 3, H, W) of one size."""


class ImageBatches(Dataset):
    """Batches of images, each image normalised at its own size; item i is batch i as groups of one size each.

    Args:
        paths: the files.
        boxes: per file, the part (x0, y0, x1, y1) that is cut out first; None for whole images.
        batches: numbers of the images that go together.
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


def group_by_size(images: Sequence[tuple[int, Tensor]]) -> list[Group]:
    """Images of any sizes as groups of one size each, so that every image is described as if it were alone."""
    groups: dict[tuple[int, ...], list[tuple[int, Tensor]]] = defaultdict(list)
    for number, image in images:
        groups[tuple(image.shape)].append((number, image))
    return [
        (torch.tensor([number for number, _ in group]), torch.stack([image for _, image in group]))
        for group in groups.values()
    ]


def equal_size_batches(sizes: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Numbers of images in batches whose files have one size, the most frequent size first."""
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, size in enumerate(sizes):
        members[size].append(number)
    ordered = [members[size] for size, _ in Counter(sizes).most_common()]
    return [group[i : i + batch_size] for group in ordered for i in range(0, len(group), batch_size)]


class Turns(DistributedSampler):
    """The batches of the shards that are this process's turn; `owners` names the turn of each batch."""

    def __init__(self, data: ImageBatches, owners: Sequence[int], world: int, rank: int):
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
        distractor_images, distractor_list: folder of the distractor images, and the file that names them.
        batch_size: number of images of one size that go through the network together.
        shard_size: number of distractors per file.
        half: keep distractors in float16: half the space, with descriptors rounded to 3 digits.
        max_side: shrink images to this many pixels; None is the published setting.
        synthetic: write a small synthetic set with 40 distractors, if there is none yet.
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
            raise InputError(f"batch_size must be positive, got {batch_size}")
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
        """Settings that descriptors depend on."""
        module: Any = getattr(self.trainer, "lightning_module", None)
        return {"max_side": self.max_side, **(module.identity() if hasattr(module, "identity") else {})}

    def test_dataloader(self) -> list[DataLoader]:
        """Database images and query images."""
        assert self.benchmark is not None
        preprocess = preprocess_of(self.trainer, self.max_side)
        database = [self.benchmark.path(name) for name in self.benchmark.images]
        queries = [self.benchmark.path(name) for name in self.benchmark.queries]
        by_size = equal_size_batches([image_size(path) for path in database], self.batch_size)
        one_by_one = [[number] for number in range(len(queries))]
        return [
            self._loader(ImageBatches(database, None, preprocess, by_size)),
            self._loader(ImageBatches(queries, self.benchmark.boxes, preprocess, one_by_one)),
        ]

    def _setup_distractors(self) -> None:
        if not (self.distractors and self.distractor_images and self.distractor_list):
            raise InputError("predict needs data.distractor_images, data.distractor_list and data.distractors")
        folder = Path(self.distractor_images)
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected the distractor images there")
        names = read_image_list(self.distractor_list)
        self.distractor_paths = [folder / name for name in names]
        about = {
            "list": hashlib.sha256("\n".join(names).encode()).hexdigest()[:16],
            "dtype": "float16" if self.half else "float32",
            **self._origin(),
        }
        self.shards = DescriptorShards.create(Path(self.distractors), len(names), self.shard_size, about)

    def predict_dataloader(self) -> DataLoader:
        """The images of the shards that are missing, in order; several processes take turns shard by shard."""
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
        data = ImageBatches(self.distractor_paths, None, preprocess, batches)
        return self._loader(data, Turns(data, owners, world, rank))

    def _loader(self, data: ImageBatches, sampler: Sampler | None = None) -> DataLoader:
        return DataLoader(
            data,
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=_unchanged_batch,
            pin_memory=torch.cuda.is_available(),
        )


def _unchanged_batch(batch: list[Group]) -> list[Group]:
    return batch
