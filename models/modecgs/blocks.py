"""The layers behind a field, on a CPU: block by block, so that hidden values stay in the cache.

For 20,000 points and three heads, the first layers of the heads alone have 8 million hidden values. Written as one product after the
other, each step reads and writes all of them from memory. Here a block of points goes through all layers at once, in buffers that the
next block reuses. Training keeps the features and the outputs of each point (about 42 numbers) instead of about 900; hidden values are
kept for the backward pass only up to a limit, beyond which it computes them a second time. Results are the same but for rounding.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Layer = tuple[Tensor, Tensor]
"""Weight and bias."""

BLOCK = 1 << 19
"""Hidden values per block, 2 MB: 1024 points for three heads of 128."""

KEPT = 1 << 24
"""Hidden values that are kept for the backward pass, 64 MB: 32,000 points for three heads of 128."""

NARROW, VECTOR = 32, 16
"""Heads with so few outputs together are computed as one product, whose width is a multiple of a vector's. A product of three
columns is ten times slower per operation."""


def run_layers(
    features: Tensor,
    trunk: list[Layer],
    heads: tuple[Tensor, Tensor],
    outs: list[Layer],
) -> Tensor:
    """Outputs of all heads, side by side (n, sum of their widths).

    Args:
        features: (n, F).
        trunk: (weight, bias) of each layer of the trunk, with ReLU between them and after the last.
        heads: weights (H * W, W) and biases (H * W,) of the heads' first layers, stacked; ReLU follows.
        outs: (weight (out, W), bias (out,)) of each head's second layer.
    """
    width = sum(len(bias) for _, bias in outs)
    if width <= NARROW:
        outs = [_merged(outs)]
    flat = [value for pair in (*trunk, heads, *outs) for value in pair]
    trained = torch.is_grad_enabled() and any(value.requires_grad for value in (features, *flat))
    return _Layers.apply(features, len(trunk), trained, *flat)[:, :width]


def _merged(outs: list[Layer]) -> Layer:
    """Narrow layers of several heads as one, with zeros between them, padded to whole vectors."""
    weight, bias = torch.block_diag(*(weight for weight, _ in outs)), torch.cat([bias for _, bias in outs])
    missing = -len(bias) % VECTOR
    return F.pad(weight, (0, 0, 0, missing)), F.pad(bias, (0, missing))


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, depth: int, trained: bool, *flat: Tensor) -> Tensor:
        ctx.save_for_backward(features, *flat)
        ctx.depth, ctx.kept = depth, []
        layers, outs = _split(flat, depth)
        result = features.new_empty(len(features), sum(len(bias) for _, bias in outs))
        for rows, buffers in _blocks(features, layers):
            block = features[rows]
            if trained and (len(ctx.kept) + 1) * BLOCK <= KEPT:
                buffers = _buffers(len(block), features, layers)
                ctx.kept.append(buffers)
            hidden = _forward(block, layers, buffers)
            _outputs(hidden[-1], outs, result[rows])
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, *flat = ctx.saved_tensors
        layers, outs = _split(flat, ctx.depth)
        gradients = [torch.zeros_like(value) for value in flat]
        layer_gradients, out_gradients = _split(gradients, ctx.depth)
        to_features = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        spare = _buffers(_block_rows(features, layers), features, layers)
        for number, (rows, buffers) in enumerate(_blocks(features, layers)):
            block, given = features[rows], gradient[rows]
            hidden = ctx.kept[number] if number < len(ctx.kept) else _forward(block, layers, buffers)
            size = len(block)
            below = spare[-1][:size]
            for (weight, _), (to_weight, to_bias), (columns, rows_of) in zip(
                outs, out_gradients, _places(outs), strict=True
            ):
                part = given[:, rows_of]
                to_weight.addmm_(part.T, hidden[-1][:, columns])
                to_bias.add_(part.sum(0))
                torch.mm(part, weight, out=below[:, columns])
            for place in range(len(layers) - 1, -1, -1):
                torch.ops.aten.threshold_backward.grad_input(below, hidden[place], 0, grad_input=below)
                source = hidden[place - 1] if place else block
                to_weight, to_bias = layer_gradients[place]
                to_weight.addmm_(below.T, source)
                to_bias.add_(below.sum(0))
                if place:
                    below = torch.mm(below, layers[place][0], out=spare[place - 1][:size])
                elif to_features is not None:
                    torch.mm(below, layers[0][0], out=to_features[rows])
        return (to_features, None, None, *gradients)


def _split(flat: Any, depth: int) -> tuple[list[Layer], list[Layer]]:
    """(weight, bias) of the trunk and of the stacked heads; and of the last layers."""
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    return pairs[: depth + 1], pairs[depth + 1 :]


def _block_rows(features: Tensor, layers: list[Layer]) -> int:
    return min(max(1, BLOCK // sum(len(bias) for _, bias in layers)), len(features))


def _buffers(rows: int, like: Tensor, layers: list[Layer]) -> list[Tensor]:
    return [like.new_empty(rows, len(bias)) for _, bias in layers]


def _blocks(features: Tensor, layers: list[Layer]) -> Iterator[tuple[slice, list[Tensor]]]:
    """Rows of each block, and buffers for its hidden values."""
    size = _block_rows(features, layers)
    buffers = _buffers(size, features, layers)
    for start in range(0, len(features), max(1, size)):
        rows = slice(start, min(start + size, len(features)))
        yield rows, [buffer[: rows.stop - rows.start] for buffer in buffers]


def _forward(block: Tensor, layers: list[Layer], buffers: list[Tensor]) -> list[Tensor]:
    """Hidden values of a block after each layer, ReLU included."""
    for (weight, bias), buffer in zip(layers, buffers, strict=True):
        torch.addmm(bias, block, weight.T, out=buffer)
        block = buffer.relu_()
    return buffers


def _outputs(hidden: Tensor, outs: list[Layer], result: Tensor) -> None:
    for (weight, bias), (columns, rows) in zip(outs, _places(outs), strict=True):
        torch.addmm(bias, hidden[:, columns], weight.T, out=result[:, rows])


def _places(outs: list[Layer]) -> list[tuple[slice, slice]]:
    """For each last layer, the hidden values that it reads, and the outputs that it writes."""
    ends = [0, *itertools.accumulate(weight.shape[1] for weight, _ in outs)]
    stops = [0, *itertools.accumulate(len(bias) for _, bias in outs)]
    return [(slice(*a), slice(*b)) for a, b in zip(itertools.pairwise(ends), itertools.pairwise(stops), strict=True)]


__all__ = ["run_layers"]
