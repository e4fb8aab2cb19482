"""Random numbers that do not depend on the device, the batch, or what ran before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError

__all__ = ["Seed", "generators", "noise"]

Seed = int | torch.Generator | Sequence[torch.Generator]


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
    given = [seed] if isinstance(seed, torch.Generator) else list(seed)
    if len(given) != count:
        raise InputError(f"expected {count} generators, one for each result, got {len(given)}")
    return given


def noise(shape: Sequence[int], seed: Seed, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal noise (B, …), float32, with a generator for each of the B results; see `generators`."""
    from diffusers.utils.torch_utils import randn_tensor

    given = generators(seed, shape[0])
    return randn_tensor(tuple(shape), generator=given, device=torch.device(device), dtype=torch.float32)
