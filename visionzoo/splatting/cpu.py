"""The CPU renderer: a torch operator around the compiled loops of `kernels.py`.

The operator works in eager mode, under `torch.compile` and without gradients. Second derivatives raise an error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import require
from .projection import Projection
from .rules import Rules
from .threads import run_jobs

_CHUNKS_PER_THREAD = 4
"""Chunks per thread: bands differ in work, so each thread takes several chunks, one after the other."""
_SERIAL_BELOW = 2000
"""With fewer Gaussians than this, starting threads takes longer than drawing."""


def splat(
    seen: Projection,
    opacities: Tensor,
    features: Tensor,
    width: int,
    height: int,
    rules: Rules,
    absolute: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Like `reference.splat`, in float32."""
    image, depth, left, _ = _draw(
        seen.means2d, seen.ellipses, opacities, features, seen.depths, seen.rectangles, absolute, width, height,
        rules.alpha_cap, rules.closed_below,
    )  # fmt: skip
    return image, depth, left


@lru_cache(maxsize=1)
def loops() -> tuple[ModuleType, ModuleType]:
    """The compiled loops: `kernels` and `bands`."""
    require("numba", extra="gs", purpose="the CPU renderer of Gaussian splatting")
    from . import bands, kernels

    return kernels, bands


def _jobs(function: Callable[..., None], count: int, threads: int, *arguments: Any) -> list[Callable[[], None]]:
    """Calls of `function(low, high, *arguments)` for contiguous parts of `range(count)`."""
    parts = min(count, threads * _CHUNKS_PER_THREAD if threads > 1 else 1)
    edges = [count * i // parts for i in range(parts + 1)] if parts else []
    return [partial(function, low, high, *arguments) for low, high in pairwise(edges)]


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().contiguous().numpy()


def _scene(
    means: Tensor,
    ellipses: Tensor,
    opacities: Tensor,
    features: Tensor,
    depths: Tensor,
    rectangles: Tensor,
    height: int,
) -> tuple[NDArray[Any], ...]:
    """The visible Gaussians of one image in order of depth, their table, and the lists of `arrange`."""
    kernels, bands = loops()
    where, depth = _array(rectangles), _array(depths)
    visible = np.flatnonzero(where[:, 2] > where[:, 0])
    # positive floats sort like their bits; the lower half of a key is the index of the Gaussian, which breaks ties
    keys = (depth[visible].view(np.int32).astype(np.int64) << 32) | visible
    keys.sort()
    order = (keys & 0xFFFFFFFF).astype(np.int64)
    arrays = (_array(tensor) for tensor in (means, ellipses, opacities, features))
    return order, *bands.arrange(order, *arrays, depth, where, height, kernels.ROWS)


@torch.library.custom_op("visionzoo::splat", mutates_args=(), device_types="cpu")
def _draw(
    means: Tensor,
    ellipses: Tensor,
    opacities: Tensor,
    features: Tensor,
    depths: Tensor,
    rectangles: Tensor,
    absolute: Tensor | None,
    width: int,
    height: int,
    cap: float,
    threshold: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (kernels, _), threads = loops(), torch.get_num_threads()
    count, _, channels = features.shape
    image = np.empty((count, height, width, channels), np.float32)
    depth = np.empty((count, height, width), np.float32)
    left = np.empty((count, height, width), np.float32)
    closed = np.empty((count, height, width), np.int32)
    layout, jobs = (0,) * (channels + 1), []
    for i in range(count):
        _, table, boxes, starts, entries, _, _ = _scene(
            means[i], ellipses[i], opacities[i], features[i], depths[i], rectangles[i], height
        )
        jobs += _jobs(
            kernels.draw, len(starts) - 1, 1 if len(table) < _SERIAL_BELOW else threads,
            layout, starts, entries, boxes, table, width, height, np.float32(cap), np.float32(threshold),
            image[i], depth[i], left[i], closed[i],
        )  # fmt: skip
    run_jobs(jobs, threads)
    return torch.from_numpy(image), torch.from_numpy(depth), torch.from_numpy(left), torch.from_numpy(closed)


@_draw.register_fake
def _(
    means: Tensor, ellipses: Tensor, opacities: Tensor, features: Tensor, depths: Tensor, rectangles: Tensor,
    absolute: Tensor | None, width: int, height: int, cap: float, threshold: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    count, _, channels = features.shape
    left = means.new_empty(count, height, width)
    return features.new_empty(count, height, width, channels), left, left.clone(), left.to(torch.int32)


@torch.library.custom_op("visionzoo::splat_backward", mutates_args=(), device_types="cpu")
def _undraw(
    grad_image: Tensor | None,
    grad_depth: Tensor | None,
    grad_left: Tensor | None,
    left: Tensor,
    closed: Tensor,
    means: Tensor,
    ellipses: Tensor,
    opacities: Tensor,
    features: Tensor,
    depths: Tensor,
    rectangles: Tensor,
    cap: float,
    absolute: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    (kernels, bands), threads = loops(), torch.get_num_threads()
    count, height, width = left.shape
    channels = features.shape[-1]
    grads = [np.zeros(like.shape, np.float32) for like in (means, ellipses, opacities)]
    absolutes = np.zeros(means.shape if absolute else (count, 0, 2), np.float32)
    grad_values = np.zeros((*features.shape[:2], channels + (grad_depth is not None)), np.float32)
    from_image = grad_image if grad_image is not None else left.new_zeros(count, height, width, channels)
    if grad_depth is not None:
        from_image = torch.cat([from_image, grad_depth.unsqueeze(-1)], -1)
    from_left = _array(grad_left if grad_left is not None else torch.zeros_like(left))
    from_image, lefts, places_closed, values = _array(from_image), _array(left), _array(closed), _array(opacities)
    layout, drawing, adding = (0,) * grad_values.shape[-1], [], []
    for i in range(count):
        order, table, boxes, starts, entries, places, firsts = _scene(
            means[i], ellipses[i], opacities[i], features[i], depths[i], rectangles[i], height
        )
        parts = np.empty((len(entries), kernels.SUMS + len(layout) + 2 * absolute), np.float32)
        few = 1 if len(table) < _SERIAL_BELOW else threads
        drawing += _jobs(
            kernels.undraw, len(starts) - 1, few,
            layout, (0,) * absolute, starts, entries, places, boxes, table, width, height, np.float32(cap), lefts[i], places_closed[i],
            from_image[i], from_left[i], parts,
        )  # fmt: skip
        adding += _jobs(
            bands.collect, len(table), few,
            firsts, parts, table, order, values[i], *(grad[i] for grad in grads), grad_values[i], absolutes[i],
        )  # fmt: skip
    run_jobs(drawing, threads)
    run_jobs(adding, threads)
    of_depths = torch.from_numpy(grad_values[..., -1].copy()) if grad_depth is not None else torch.zeros_like(depths)
    of_features = torch.from_numpy(np.ascontiguousarray(grad_values[..., :channels]))
    of_means, of_ellipses, of_opacities = (torch.from_numpy(grad) for grad in grads)
    return of_means, of_ellipses, of_opacities, of_features, of_depths, torch.from_numpy(absolutes)


@_undraw.register_fake
def _(
    grad_image: Tensor | None, grad_depth: Tensor | None, grad_left: Tensor | None, left: Tensor, closed: Tensor,
    means: Tensor, ellipses: Tensor, opacities: Tensor, features: Tensor, depths: Tensor, rectangles: Tensor, cap: float,
    absolute: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    like = (means, ellipses, opacities, features, depths)
    empty = [tensor.new_empty(tensor.shape) for tensor in like]
    absolutes = means.new_empty(means.shape if absolute else (means.shape[0], 0, 2))
    return empty[0], empty[1], empty[2], empty[3], empty[4], absolutes


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, absolute, _, _, cap, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[3])
    ctx.cap, ctx.absolute = cap, absolute is not None
    ctx.save_for_backward(output[2], output[3], *tensors)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    if all(grad is None for grad in grads[:3]):
        return (None,) * 11
    *found, absolutes = _undraw(*grads[:3], *ctx.saved_tensors, ctx.cap, ctx.absolute)
    return (*found, None, absolutes if ctx.absolute else None, None, None, None, None)


_draw.register_autograd(_backward, setup_context=_save)
