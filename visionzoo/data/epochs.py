"""The batches of an epoch, of which a resumed training gets only those that it has not had yet."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class EpochSampler(DistributedSampler):
    """This process's share of the items as (epoch, index); shuffled again in every epoch if asked.

    Attributes:
        skip: number of items to leave out at the start of the epoch; `EpochLoader` sets it.
    """

    skip = 0

    def keys(self) -> Iterator[Any]:
        """What the items of the epoch are asked for by, in order."""
        return ((self.epoch, index) for index in super().__iter__())

    def __iter__(self) -> Iterator[Any]:
        return islice(self.keys(), self.skip, None)


def share_of(module: Any) -> tuple[int, int]:
    """Number of processes that train with a data module, and which one this is."""
    trainer = module.trainer
    return (trainer.world_size, trainer.global_rank) if trainer else (1, 0)


def _leave_interrupts(_: int) -> None:
    """Let a worker process finish its batch on Ctrl-C: the process that trains decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class EpochLoader(DataLoader):
    """Batches for training or validation that resume inside an epoch: what a data module returns from `…_dataloader`.

    Lightning restores how many batches of the epoch a checkpoint has seen, but starts its loaders from the first batch again;
    with worker processes they even read ahead before they know the epoch. This one starts when the first batch is asked for,
    with the batch that comes next. Nothing of it is saved: the place is the trainer's own count, so that it is
    right for checkpoints from any moment, any number of workers, and gradients that are accumulated over several batches.

    A resumed run is bit-equal if an item depends on nothing but its key (epoch, index, …), see `seeded`.

    Args:
        module: the data module; its `batch_size`, `num_workers` and, for the order, `seed` count.
        sampler: an `EpochSampler` of another order; None for one of all items.
        shuffle: whether that has a new order in every epoch.
        drop_last: leave out the last batch if it is not full.
    """

    def __init__(
        self,
        module: Any,
        data: Dataset,
        sampler: EpochSampler | None = None,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
    ):
        self.module = module
        super().__init__(
            data,
            module.batch_size,
            sampler=sampler or EpochSampler(data, *share_of(module), shuffle=shuffle, seed=module.seed),
            num_workers=module.num_workers,
            drop_last=drop_last,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=module.num_workers > 0,
            worker_init_fn=_leave_interrupts,
        )

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert isinstance(self.sampler, EpochSampler)
        assert self.batch_size is not None
        trainer = self.module.trainer
        seen = trainer.fit_loop.epoch_loop.batch_progress.current.ready if trainer and trainer.training else 0
        self.sampler.skip = seen * self.batch_size
        yield from super().__iter__()

    # Without these, Lightning warns that the loader cannot resume.

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the trainer knows the place."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Does nothing."""


__all__ = ["EpochLoader", "EpochSampler", "share_of"]
