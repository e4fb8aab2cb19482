"""`projection.py` for float32 on a CPU: a torch operator around the compiled loops of `projection_kernels.py`.

The operator works in eager mode, under `torch.compile` and without gradients. Second derivatives raise an error.
"""

from __future__ import annotations

import importlib.util
from functools import cache, lru_cache, partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import require
from .projection import Projection, ProjectionSettings
from .rules import (
    ALPHA_FLOOR,
    COMPENSATION_FLOOR,
    LAMBDA_SPREAD_FLOOR,
    LARGEST_INPUT,
    LARGEST_PIXELS,
    MAX_SIGMAS,
    TILE,
)
from .threads import run_jobs

_PART = 4096
"""Gaussians per job. It does not depend on the number of threads, so neither do sums over Gaussians (gradients of cameras)."""

_LIMITS = tuple(
    map(float, (LARGEST_INPUT, LARGEST_PIXELS, np.float32(ALPHA_FLOOR), MAX_SIGMAS, LAMBDA_SPREAD_FLOOR, COMPENSATION_FLOOR, TILE))
)  # fmt: skip


@cache
def numba_is_installed() -> bool:
    return importlib.util.find_spec("numba") is not None


def project_usable(
    usable: Tensor,
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    opacities: Tensor | None,
    settings: ProjectionSettings,
) -> Projection:
    """Like `projection.project_usable`, but Gaussians that are not finite are culled even if they are `usable`."""
    width, height, rules, _, far_plane, radius_clip, eps2d, antialiased = settings
    batch = means.shape[:-2]
    flat = [
        None if tensor is None else tensor.flatten(0, len(batch) - 1) if batch else tensor[None]
        for tensor in (means, quats, scales, opacities, usable, viewmats, Ks)
    ]
    *found, _ = project_compiled(
        *flat, width, height, settings.near, far_plane, radius_clip, eps2d, rules.square, antialiased
    )
    return Projection(*(value.unflatten(0, batch) if batch else value[0] for value in found))


@lru_cache(maxsize=1)
def projection_loops() -> ModuleType:
    """The compiled loops, `projection_kernels`."""
    require("numba", extra="gs", purpose="the CPU renderer of Gaussian splatting")
    from . import projection_kernels

    return projection_kernels


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().contiguous().numpy()


def _cameras(viewmats: Tensor, intrinsics: Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    return _array(viewmats.double()), _array(intrinsics.double())


@torch.library.custom_op("visionzoo::project", mutates_args=(), device_types="cpu")
def project_compiled(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor | None, usable: Tensor, viewmats: Tensor, Ks: Tensor,
    width: int, height: int, near_plane: float, far_plane: float, radius_clip: float, eps2d: float, square: bool, antialiased: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The tensors of a `Projection`, and which Gaussians get gradients (B, C, N) bool.

    Args:
        means (B, N, 3), quats (B, N, 4), scales (B, N, 3), opacities (B, N), viewmats (B, C, 4, 4), Ks (B, C, 3, 3): as for `project`.
        usable: (B, N) bool; others are culled, as are those with a value that is not finite.
        square: see `Rules.square`.
    """
    kernels = projection_loops()
    batch, count, cameras = means.shape[0], means.shape[1], viewmats.shape[1]
    views, intrinsics = _cameras(viewmats, Ks)
    shape = (batch, cameras, count)
    results = [
        *(np.empty((*shape, *tail), np.float32) for tail in ((2,), (), (3,), ())),
        *(np.empty((*shape, *tail), np.int32) for tail in ((2,), (4,))),
        np.empty(shape, np.bool_),
    ]
    given = [_array(tensor) for tensor in (means, quats, scales)]
    strengths = np.empty((batch, 0), np.float32) if opacities is None else _array(opacities)
    mask = _array(usable)
    jobs = [
        partial(
            kernels.project, low, min(low + _PART, count),
            *(array[b] for array in given), strengths[b], mask[b], views[b], intrinsics[b], (float(width), float(height)),
            (float(near_plane), float(far_plane)), float(radius_clip), float(eps2d), _LIMITS, square, antialiased,
            *(result[b] for result in results),
        )
        for b in range(batch)
        for low in range(0, count, _PART)
    ]  # fmt: skip
    run_jobs(jobs, torch.get_num_threads())
    a, b, c, d, e, f, g = map(torch.from_numpy, results)
    return a, b, c, d, e, f, g


@project_compiled.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    means, viewmats = arguments[0], arguments[5]
    shape = (means.shape[0], viewmats.shape[1], means.shape[1])
    return (
        means.new_empty(*shape, 2),
        means.new_empty(shape),
        means.new_empty(*shape, 3),
        means.new_empty(shape),
        means.new_empty(*shape, 2, dtype=torch.int32),
        means.new_empty(*shape, 4, dtype=torch.int32),
        means.new_empty(shape, dtype=torch.bool),
    )


@torch.library.custom_op("visionzoo::project_backward", mutates_args=(), device_types="cpu")
def _backward_compiled(
    to_means2d: Tensor | None, to_depths: Tensor | None, to_ellipses: Tensor | None, to_compensations: Tensor | None,
    means: Tensor, quats: Tensor, scales: Tensor, viewmats: Tensor, Ks: Tensor, seen: Tensor,
    width: int, height: int, eps2d: float, square: bool, of_cameras: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    kernels = projection_loops()
    batch, cameras, count = seen.shape
    views, intrinsics = _cameras(viewmats, Ks)
    shape = (batch, cameras, count)
    received = [
        np.zeros((*shape, *tail), np.float32) if gradient is None else _array(gradient)
        for gradient, tail in ((to_means2d, (2,)), (to_depths, ()), (to_ellipses, (3,)), (to_compensations, ()))
    ]
    given, mask = [_array(tensor) for tensor in (means, quats, scales)], _array(seen)
    results = [np.empty_like(array) for array in given]
    starts = range(0, count, _PART)
    summed = cameras if of_cameras else 0
    of_views = np.zeros((batch, len(starts), summed, 4, 4))
    of_intrinsics = np.zeros((batch, len(starts), summed, 3, 3))
    jobs = [
        partial(
            kernels.project_backward, low, min(low + _PART, count),
            *(array[b] for array in given), views[b], intrinsics[b], (float(width), float(height)), float(eps2d),
            COMPENSATION_FLOOR, square, mask[b], *(gradient[b] for gradient in received), *(result[b] for result in results),
            of_views[b, part], of_intrinsics[b, part],
        )
        for b in range(batch)
        for part, low in enumerate(starts)
    ]  # fmt: skip
    run_jobs(jobs, torch.get_num_threads())
    of_means, of_quats, of_scales = map(torch.from_numpy, results)
    of_viewmats, of_ks = (torch.from_numpy(sums.sum(1).astype(np.float32)) for sums in (of_views, of_intrinsics))
    return of_means, of_quats, of_scales, of_viewmats, of_ks


@_backward_compiled.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    means, quats, scales, viewmats = arguments[4:8]
    of_cameras = arguments[-1]
    cameras = viewmats.shape[1] if of_cameras else 0
    empty = [tensor.new_empty(tensor.shape) for tensor in (means, quats, scales)]
    batch = means.shape[0]
    return (
        empty[0], empty[1], empty[2], means.new_empty(batch, cameras, 4, 4), means.new_empty(batch, cameras, 3, 3),
    )  # fmt: skip


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    means, quats, scales, _, _, viewmats, Ks, width, height, _, _, _, eps2d, square, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[4:])
    ctx.settings = (width, height, eps2d, square)
    ctx.save_for_backward(means, quats, scales, viewmats, Ks, output[6])


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    if all(grad is None for grad in grads[:4]):
        return (None,) * 15
    of_cameras = any(ctx.needs_input_grad[5:7])
    means, quats, scales, viewmats, Ks = _backward_compiled(*grads[:4], *ctx.saved_tensors, *ctx.settings, of_cameras)
    cameras = (viewmats, Ks) if of_cameras else (None, None)
    return (means, quats, scales, None, None, *cameras, *(None,) * 8)


project_compiled.register_autograd(_backward, setup_context=_save)
