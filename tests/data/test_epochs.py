"""Loaders that continue inside an epoch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import Dataset

from visionzoo.data.epochs import EpochLoader, EpochSampler, share_of
from visionzoo.models.shvit.data import RepeatedSampler


class Keys(Dataset):
    """A data set whose items equal their keys."""

    def __len__(self) -> int:
        return 13

    def __getitem__(self, key: tuple[int, ...]) -> tuple[int, ...]:
        return key


def module(seen: int = 0, *, training: bool = True, workers: int = 0, world: int = 1, rank: int = 0) -> Any:
    """A data module whose trainer has seen some batches of the epoch."""
    progress = SimpleNamespace(current=SimpleNamespace(ready=seen))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    trainer = SimpleNamespace(fit_loop=loop, training=training, world_size=world, global_rank=rank)
    return SimpleNamespace(trainer=trainer, batch_size=2, num_workers=workers, seed=3)


def items(loader: EpochLoader, epoch: int = 0) -> list[tuple[int, ...]]:
    """The keys of the items in their order. As in Lightning, the epoch is set after iteration has started."""
    batches = iter(loader)
    sampler: Any = loader.sampler
    sampler.set_epoch(epoch)
    return [key for batch in batches for key in zip(*(column.tolist() for column in batch), strict=True)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_epoch_has_the_rest_of_its_batches(workers: int) -> None:
    whole = items(EpochLoader(module(), Keys(), shuffle=True, drop_last=True), epoch=5)
    assert len(whole) == len(set(whole)) == 12
    assert {epoch for epoch, _ in whole} == {5}
    loader = EpochLoader(module(4, workers=workers), Keys(), shuffle=True, drop_last=True)
    assert len(loader) == 6  # of the whole epoch: this is what Lightning counts
    assert items(loader, epoch=5) == whole[8:]
    loader.module.trainer.fit_loop.epoch_loop.batch_progress.current.ready = 0
    assert items(loader, epoch=6) == items(EpochLoader(module(), Keys(), shuffle=True, drop_last=True), epoch=6)


def test_validation_inside_an_epoch_sees_everything() -> None:
    assert items(EpochLoader(module(4, training=False), Keys())) == [(0, index) for index in range(13)]


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_continues_its_own_share(rank: int) -> None:
    of_two: dict[str, Any] = {"world": 2, "rank": rank}
    whole = items(EpochLoader(module(**of_two), Keys(), shuffle=True))
    assert items(EpochLoader(module(1, **of_two), Keys(), shuffle=True)) == whole[2:]


def test_repeated_augmentation_continues_with_the_next_copy() -> None:
    def loader(seen: int) -> EpochLoader:
        source = module(seen)
        data: Any = Keys()
        return EpochLoader(source, data, RepeatedSampler(data, *share_of(source), 3))

    whole = items(loader(0), epoch=2)
    assert len({key[1:] for key in whole}) == len(whole) == 13
    assert items(loader(3), epoch=2) == whole[6:]


def test_without_a_trainer_an_epoch_is_whole() -> None:
    alone = SimpleNamespace(trainer=None, batch_size=4, num_workers=0, seed=0)
    loader = EpochLoader(alone, Keys())
    assert isinstance(loader.sampler, EpochSampler)
    assert len(items(loader)) == 13
