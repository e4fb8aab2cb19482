"""Random numbers that belong to results and training items: the same on any device, in any batch, and after resuming."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError, check_items

__all__ = ["Seed", "generators", "initial_noise", "noise_and_times", "noise_of"]

Seed = int | torch.Generator | Sequence[torch.Generator]


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


def generators(seed: Seed, count: int = 1) -> list[torch.Generator]:
    """A random generator for each of `count` results, on the CPU, so that a result does not depend on the device or its batch.

    Args:
        seed: a number: result i has the generator of `seed` + i; or generators, which are used as they are.

    Raises:
        InputError: a negative seed, or another number of generators.
    """
    if isinstance(seed, int):
        if not 0 <= seed <= 2**63 - count:
            raise InputError(f"the seed must be a whole number from 0 to 2**63 - {count}, got {seed}")
        return [torch.Generator().manual_seed(seed + number) for number in range(count)]
    check_items(
        "the seed", [seed] if isinstance(seed, torch.Generator) else seed, "a whole number or generators of torch"
    )
    given = [seed] if isinstance(seed, torch.Generator) else list(seed)
    if len(given) != count:
        raise InputError(f"expected {count} generators, one for each result, got {len(given)}")
    return given


def initial_noise(shape: Sequence[int], seed: Seed, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal noise (B, …), float32, with a generator for each of the B results; see `generators`."""
    from diffusers.utils.torch_utils import randn_tensor

    given = generators(seed, shape[0])
    return randn_tensor(tuple(shape), generator=given, device=torch.device(device), dtype=torch.float32)
