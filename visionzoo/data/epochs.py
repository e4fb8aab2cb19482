"""Loaders that resume inside an epoch with the batches that are left."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class EpochSampler(DistributedSampler):
    """This process's share of the items as (epoch, index); optionally shuffled in every epoch.

    Attributes:
        skip: number of items to skip at the start of the epoch; set by `EpochLoader`.
    """

    skip = 0

    def keys(self) -> Iterator[Any]:
        """The keys of the items of the epoch, in order."""
        return ((self.epoch, index) for index in super().__iter__())

    def __iter__(self) -> Iterator[Any]:
        return islice(self.keys(), self.skip, None)


def share_of(module: Any) -> tuple[int, int]:
    """Number of processes that train with a data module, and the rank of this one."""
    trainer = module.trainer
    return (trainer.world_size, trainer.global_rank) if trainer else (1, 0)


def _leave_interrupts(_: int) -> None:
    """Let a worker process finish its batch on Ctrl-C; the training process decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class EpochLoader(DataLoader):
    """A data loader for training or validation that resumes inside an epoch; data modules return it from `…_dataloader`.

    Lightning restores how many batches of the epoch a checkpoint has seen, but restarts its loaders with the first batch; with
    worker processes they even prefetch before they know the epoch. This loader starts when the first batch is requested, with the
    batch that is due. It saves no state: the position is the trainer's own count, so it is right for a checkpoint from any
    moment, any number of workers, and gradient accumulation.

    A resumed run is bit-identical if an item depends only on its key (epoch, index, …); see `seeded`.

    Args:
        module: the data module; its `batch_size`, `num_workers` and, for the order, `seed` are used.
        sampler: an `EpochSampler` with another order; None for one over all items.
        shuffle: whether that sampler shuffles in every epoch.
        drop_last: drop the last batch if it is incomplete.
        collate_fn: makes a batch of a list of items; None for torch's.
    """

    def __init__(
        self,
        module: Any,
        data: Dataset,
        sampler: EpochSampler | None = None,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ):
        self.module = module
        super().__init__(
            data,
            module.batch_size,
            sampler=sampler or EpochSampler(data, *share_of(module), shuffle=shuffle, seed=module.seed),
            num_workers=module.num_workers,
            drop_last=drop_last,
            collate_fn=collate_fn,
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
        """Empty: the trainer knows the position."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""


__all__ = ["EpochLoader", "EpochSampler", "share_of"]
