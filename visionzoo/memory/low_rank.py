"""Merging what low-rank pairs have learned, as of LoRA: the update of a weight is the product up @ down, not the two matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import InputError, unknown

__all__ = ["METHODS", "low_rank_pairs", "merge_pairs", "merge_values"]

METHODS = ("linear", "cat", "svd")
_DOWN, _UP = "lora_A", "lora_B"


def low_rank_pairs(names: Sequence[str]) -> dict[str, str]:
    """Name of each "….lora_A…" parameter -> that of its "….lora_B…".

    Raises:
        InputError: there are none, or one of two is missing.
    """
    known = set(names)
    pairs = {name: name.replace(_DOWN, _UP) for name in names if _DOWN in name}
    lonely = [name for name in names if (_DOWN in name or _UP in name) and name not in pairs.keys() | pairs.values()]
    lonely += [name for name, other in pairs.items() if other not in known]
    if lonely or not pairs:
        raise InputError(
            f"{lonely[0]} is only one of two matrices; cannot merge the products"
            if lonely
            else f"there are no low-rank pairs (*{_DOWN}*, *{_UP}*) to merge; use method='linear'"
        )
    return pairs


def merge_pairs(
    pairs: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float], rank: int | None = None
) -> tuple[Tensor, Tensor]:
    """A pair whose product is the weighted sum of the products: sum of weight * up @ down.

    Without `rank`, the matrices are put side by side, which is exact, and the ranks add up. With it, the result is the best
    approximation of that rank (truncated singular value decomposition, Eckart-Young): exact if the sum has no higher rank. The
    products themselves are never formed.

    Args:
        pairs: (down, up) of a linear layer, (r, in) and (out, r), or of a convolution, (r, in, *kernel) and (out, r, 1, …). Ranks
            may differ.
        weights: one for each pair.

    Returns:
        (down, up), of the same dtype; after a decomposition both have the same norms.

    Raises:
        InputError: shapes that do not fit, another number of weights, no pair, or a rank below 1.
    """
    if not pairs or len(pairs) != len(weights):
        raise InputError(f"expected a weight for each low-rank pair, got {len(weights)} for {len(pairs)}")
    down, up = pairs[0]
    for other_down, other_up in pairs:
        fits = (other_down.shape[1:], other_up.shape[:1], other_up.shape[2:]) == (
            down.shape[1:],
            up.shape[:1],
            up.shape[2:],
        )
        if not fits or other_down.shape[0] != other_up.shape[1] or up[0, 0].numel() != 1:
            raise InputError(
                f"low-rank pair {tuple(other_down.shape)}, {tuple(other_up.shape)} does not fit {tuple(down.shape)}, "
                f"{tuple(up.shape)}; expected (r, in, …) and (out, r, 1, …)"
            )
    wide = torch.promote_types(down.dtype, torch.float32)
    downs = torch.cat([one.to(wide).flatten(1) for one, _ in pairs])  # kernels of convolutions are part of the input
    ups = torch.cat([one.to(wide).flatten(1) * weight for (_, one), weight in zip(pairs, weights, strict=True)], 1)
    if rank is not None:
        downs, ups = _truncated(downs, ups, rank)
    return downs.unflatten(1, down.shape[1:]).to(down.dtype), ups.reshape(*ups.shape, *up.shape[2:]).to(up.dtype)


def _truncated(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best pair of a rank; filled up with zeros if the product has a lower one."""
    if rank < 1:
        raise InputError(f"the rank must be at least 1, got {rank}")
    exact_down, exact_up = down.double(), up.double()  # a product of two triangular matrices doubles the condition
    left, left_small = torch.linalg.qr(exact_up)
    right, right_small = torch.linalg.qr(exact_down.T)
    u, values, v = torch.linalg.svd(left_small @ right_small.T, full_matrices=False)
    root = values[:rank].sqrt()
    new_down, new_up = root[:, None] * (v[:rank] @ right.T), (left @ u[:, :rank]) * root
    missing = rank - len(root)
    if missing > 0:
        new_down = torch.nn.functional.pad(new_down, (0, 0, 0, missing))
        new_up = torch.nn.functional.pad(new_up, (0, missing))
    return new_down.to(down.dtype), new_up.to(up.dtype)


def merge_values(
    start: Mapping[str, Tensor],
    learned: Sequence[tuple[Mapping[str, Tensor], float]],
    method: str = "linear",
    rank: int | None = None,
) -> dict[str, Tensor]:
    """Merge several sets of values of the same parameters.

    Args:
        start: values before anything was learned.
        learned: (values, weight) of each set.
        method: "linear": start + sum of weight * (values - start), for each parameter. For low-rank pairs this mixes each matrix,
            and the product is not the sum of products. "cat": the pairs of `low_rank_pairs` get the exact sum of the products, and
            their ranks add up. "svd": the closest sum of `rank`. With these two, other parameters are mixed as with "linear".
        rank: for "svd"; by default that of `start`.

    Raises:
        InputError: an unknown method, a rank for another method than "svd", no pairs, or shapes that do not fit.
    """
    if method not in METHODS:
        raise unknown("method to merge memories", method, METHODS)
    if rank is not None and method != "svd":
        raise InputError(f'a rank belongs to method="svd", not to {method!r}')
    pairs = {} if method == "linear" else low_rank_pairs([*start])
    merged: dict[str, Tensor] = {}
    for down, up in pairs.items():
        sets = [(values[down], values[up]) for values, _ in learned]
        weights = [weight for _, weight in learned]
        if start[up].any() or not sets:  # what was there before anything was learned counts once
            sets, weights = [(start[down], start[up]), *sets], [1 - sum(weights), *weights]
        wanted = None if method == "cat" else start[down].shape[0] if rank is None else rank
        merged[down], merged[up] = merge_pairs(sets, weights, wanted)
    for name, value in start.items():
        if name not in merged:
            merged[name] = _mixed(name, value, learned)
    return {name: merged[name] for name in start}


def _mixed(name: str, start: Tensor, learned: Sequence[tuple[Mapping[str, Tensor], float]]) -> Tensor:
    wide = start.to(torch.promote_types(start.dtype, torch.float32))
    total = wide.clone()
    for values, weight in learned:
        if values[name].shape != start.shape:
            raise InputError(
                f"{name} is {tuple(values[name].shape)} and {tuple(start.shape)}; only method='cat' and 'svd' merge different ranks"
            )
        total += weight * (values[name].to(wide) - wide)
    return total.to(start.dtype)
