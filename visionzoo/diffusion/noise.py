"""Random numbers of training that belong to items: the same for any number of processes, and after resuming."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["noise_and_times", "noise_of"]


def noise_of(streams: Tensor | Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Normal noise for a batch, (N, *shape) float32; the noise of an item depends only on its number.

    Args:
        streams: (N,) an integer from 0 to 2**63 - 1 for each item, e.g. `visionzoo.data.augmented.stream_of(seed, epoch, index)`.
        shape: of one item.
        device: where to put it; it is drawn on the CPU, so that all devices get the same.
    """
    return torch.stack([torch.randn(*shape, generator=_generator(stream)) for stream in streams]).to(device)


def noise_and_times(
    streams: Tensor | Sequence[int], shape: Sequence[int], steps: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Noise (N, *shape) float32 as from `noise_of`, and timesteps (N,) int64 from 0 to `steps` - 1, for diffusion training."""
    times = [torch.randint(steps, (), generator=_generator(int(stream) ^ 1)) for stream in streams]
    return noise_of(streams, shape, device), torch.stack(times).to(device)


def _generator(stream: Tensor | int) -> torch.Generator:
    return torch.Generator().manual_seed(int(stream))
