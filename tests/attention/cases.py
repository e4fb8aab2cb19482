"""Inputs for attention tests, and the float64 reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from visionzoo.attention import attention_with_lse


@dataclass(frozen=True)
class Case:
    """A shape, and the memory layout of its tensors."""

    batch: int
    heads: int
    groups: int  # query heads per head of keys
    queries: int
    keys: int
    key_width: int
    value_width: int
    mask: str  # none, boolean, additive, keys
    layout: str  # plain, transposed, fused, maps, shared (keys with a batch of 1)
    seed: int

    def tensors(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        draw = torch.Generator().manual_seed(self.seed)
        owners = 1 if self.layout == "shared" else self.batch
        all_heads = self.heads * self.groups

        def make(batch: int, heads: int, length: int, width: int) -> Tensor:
            if self.layout == "transposed":  # (B, L, H, D) as linear layers give it
                return torch.randn(batch, length, heads, width, generator=draw).to(dtype).transpose(1, 2)
            if self.layout == "fused":  # a slice of one projection
                return torch.randn(batch, heads, length, width + 3, generator=draw).to(dtype)[..., 1 : width + 1]
            if self.layout == "maps":  # (B, H, D, L) as convolutions give it
                return torch.randn(batch, heads, width, length, generator=draw).to(dtype).transpose(2, 3)
            return torch.randn(batch, heads, length, width, generator=draw).to(dtype)

        q = make(self.batch, all_heads, self.queries, self.key_width)
        k = make(owners, self.heads, self.keys, self.key_width)
        v = make(owners, self.heads, self.keys, self.value_width)
        mask = None
        if self.mask == "boolean":
            mask = torch.rand(self.batch, 1, self.queries, self.keys, generator=draw) > 0.4
            mask[:, :, :1] = False  # a query that sees nothing
        elif self.mask == "keys":
            mask = torch.rand(self.batch, 1, 1, self.keys, generator=draw) > 0.5
        elif self.mask == "additive":
            mask = torch.randn(1, all_heads, self.queries, self.keys, generator=draw).to(dtype)
            mask[:, :, -1:] = -torch.inf
        return q, k, v, mask


def cases(
    longest: int = 70, masks: tuple[str, ...] = ("none", "boolean", "additive", "keys")
) -> st.SearchStrategy[Case]:
    length = st.integers(1, longest)
    return st.builds(
        Case,
        batch=st.integers(1, 3),
        heads=st.integers(1, 3),
        groups=st.sampled_from([1, 1, 2, 3]),
        queries=length,
        keys=length,
        key_width=st.sampled_from([1, 3, 8, 16, 40]),
        value_width=st.sampled_from([1, 5, 8, 16, 40]),
        mask=st.sampled_from(masks),
        layout=st.sampled_from(["plain", "transposed", "fused", "maps", "shared"]),
        seed=st.integers(0, 2**16),
    )


def reference(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp in float64, by the textbook formula."""
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.double()
    return attention_with_lse(q.double(), k.double(), v.double(), mask=mask, scale=scale, backend="math")


def textbook(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """The same without using our code; rows without keys give NaN and -inf."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.einsum("bhld,bhnd->bhln", q, k.expand(q.shape[0], -1, -1, -1))
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    out = torch.einsum("bhln,bhnd->bhld", scores.softmax(-1), v.expand(q.shape[0], -1, -1, -1))
    return out, scores.logsumexp(-1)


def finite(lse: Tensor) -> Tensor:
    """For losses: -inf, which has no gradient, becomes 0."""
    return lse.masked_fill(lse == -torch.inf, 0)


def error(got: Tensor, want: Tensor) -> float:
    """Relative error in the 2-norm."""
    assert got.shape == want.shape
    return ((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-30)).item()
