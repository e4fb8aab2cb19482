"""`project`: ellipses of Gaussians in images, compiled or in torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import cpu_projection, projection
from .rules import rules_named


def project(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    opacities: Tensor | None = None,
    rules: str = "gsplat",
    near_plane: float | None = None,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    antialiased: bool = False,
) -> projection.Projection:
    """Project Gaussians onto the images of pinhole cameras.

    Shapes are those of `render`. With `opacities`, a Gaussian extends only as far as its alpha is at least 1/255 (gsplat's
    rules). Gaussians are culled if they are outside the image, not between the planes, fainter than 1/255, not finite,
    without a rotation (a quaternion of zeros), or larger than about 1e9 pixels.

    Differentiable with respect to all tensors, any number of times.
    """
    found = rules_named(rules)
    inputs = (means, quats, scales, viewmats, Ks)
    if _can_compile(inputs):
        projected, usable = cpu_projection.project_usable, torch.ones(means.shape[:-1], dtype=torch.bool)
    else:
        projected, usable = projection.project_usable, projection.finite(means, quats, scales)
    settings = projection.ProjectionSettings(
        width, height, found, near_plane, far_plane, radius_clip, eps2d, antialiased
    )
    return projected(usable, means, quats, scales, viewmats, Ks, opacities, settings)


def _can_compile(inputs: Sequence[Tensor]) -> bool:
    """Whether the compiled loops can project these: float32 on a CPU, and nothing needs a gradient, which they give only once."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return False
    if has_tangents(inputs):
        return False
    return (
        all(t.device.type == "cpu" and t.dtype == torch.float32 for t in inputs) and cpu_projection.numba_is_installed()
    )


def has_tangents(tensors: Sequence[Tensor]) -> bool:
    """Whether forward-mode derivatives are being computed, as by `torch.func.jvp`. Custom operators drop them without an error."""
    if torch.compiler.is_compiling():
        return False
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)
