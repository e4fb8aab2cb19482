"""Repeated augmentation (arXiv 1901.09335), as SHViT's and DeiT's training sample the images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized

import torch
from torch.utils.data import Sampler

from visionzoo.errors import InputError


class RepeatedAugmentationSampler(Sampler[int]):
    """Repeats each image `repeats` times and distributes the copies to the processes, which augment them differently.

    An epoch is as long as without repeats: of the repeated list only the first 1 / repeats is used, and the rest of the
    images is left for other epochs. The order depends on the epoch alone, so it is the same on every machine.

    Args:
        data: the data set, for its length.
        replicas, rank: number of processes and which one this is; by default those of torch.distributed, else 1 and 0.
        repeats: 3 as published.
        round_to: the epoch's length is cut to a multiple of this (256 as published); a smaller data set is used in full.
    """

    def __init__(
        self, data: Sized, replicas: int | None = None, rank: int | None = None, repeats: int = 3, round_to: int = 256
    ):
        if replicas is None or rank is None:
            spread = torch.distributed.is_available() and torch.distributed.is_initialized()
            replicas = (torch.distributed.get_world_size() if spread else 1) if replicas is None else replicas
            rank = (torch.distributed.get_rank() if spread else 0) if rank is None else rank
        if not 0 <= rank < replicas or repeats < 1 or round_to < 1:
            raise InputError(
                f"rank must be in [0, replicas), repeats and round_to at least 1, got {rank}, {replicas}, {repeats}, {round_to}"
            )
        self.data, self.replicas, self.rank, self.repeats = data, replicas, rank, repeats
        count = len(data)
        self.length = (count // round_to * round_to or count) // replicas
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; call it before each epoch, or the order stays the same."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(self.epoch))
        repeated = order.repeat_interleave(self.repeats)
        total = math.ceil(len(repeated) / self.replicas) * self.replicas
        repeated = torch.cat([repeated, repeated[: total - len(repeated)]])
        return iter(repeated[self.rank :: self.replicas][: self.length].tolist())
