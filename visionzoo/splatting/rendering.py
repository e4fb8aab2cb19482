"""`render`: draws images of Gaussians with the renderer of their device."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import unknown
from . import reference
from .harmonics import spherical_harmonics
from .projecting import has_tangents
from .projection import Projection, ProjectionSettings, finite, project_usable
from .result import Render
from .rules import rules_named

BACKENDS = ("auto", "gsplat", "cpu", "reference")


def render(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    background: Tensor | None = None,
    rules: str = "gsplat",
    near_plane: float | None = None,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    antialiased: bool = False,
    absgrad: bool = False,
    backend: str = "auto",
) -> Render:
    """Draw Gaussians from the views of cameras. Differentiable with respect to every tensor, including the cameras.

    "..." stands for batch dimensions; all scenes of a batch have the same number of Gaussians (N) and cameras (C).

    Args:
        means: (..., N, 3) centres.
        quats: (..., N, 4) rotations as quaternions, w first, of any length.
        scales: (..., N, 3) standard deviations along the axes (not their logarithms).
        opacities: (..., N) in [0, 1] (not logits).
        colors: (..., N, D) or (..., C, N, D): colours, or features with any number of channels. With `sh_degree`:
            (..., N, K, 3) or (..., C, N, K, 3), coefficients of spherical harmonics.
        viewmats: (..., C, 4, 4) transforms from world to camera; the camera looks along +z, and y points down.
        Ks: (..., C, 3, 3) pinhole intrinsics in pixels, without skew. The centre of the first pixel is (0.5, 0.5).
        background: (D,) or (..., C, D); black if None.
        rules: "gsplat", or "inria" for the rules of the original rasteriser. Their images differ by a few thousandths.
        near_plane: Gaussians closer than this are culled. Default: 0.01 (gsplat) or 0.2 (inria).
        far_plane: Gaussians further away than this are culled.
        radius_clip: Gaussians with at most this radius in pixels are culled.
        eps2d: variance in pixels² that is added to every ellipse, so that none is lost between pixels.
        sh_degree: degree of the spherical harmonics, 0 to 3. None: `colors` are values.
        antialiased: reduce the opacity of ellipses that `eps2d` enlarges, as in Mip-Splatting (arXiv:2311.16493).
        absgrad: after the backward pass, `means2d.absgrad` holds the sum over pixels of the absolute gradients of the centres
            (AbsGS, arXiv:2404.10484).
        backend: "auto" uses gsplat for CUDA tensors and cpu for CPU tensors. "reference" is slow and dense, and accepts
            float64.

    Returns:
        A `Render` with the images. A Gaussian with a value that is not finite, or with a zero quaternion, is not drawn, and
        its gradients are zero.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, a camera is not finite, or forward-mode derivatives are asked of
            the CPU backend.
        MissingDependencyError: the package of the backend is not installed.
    """
    found = rules_named(rules)
    chosen = _choose(backend, means.device)
    batch = _check(means, quats, scales, opacities, colors, viewmats, Ks, width, height, sh_degree, chosen)
    cameras, channels = viewmats.shape[-3], 3 if sh_degree is not None else colors.shape[-1]
    if background is not None:
        background = _broadcast_background(background, batch, cameras, channels)
    if chosen == "gsplat":
        from . import cuda

        if rules != "gsplat":
            raise ValueError(f"rules {rules!r} are not available on CUDA; use rules='gsplat', or backend='reference'")
        return cuda.render(
            means, quats, scales, opacities, colors, viewmats, Ks, width, height,
            background=background, near_plane=found.near_plane if near_plane is None else near_plane, far_plane=far_plane,
            radius_clip=radius_clip, eps2d=eps2d, sh_degree=sh_degree, antialiased=antialiased,
            absgrad=absgrad,
        )  # fmt: skip

    count = means.shape[-2]
    features = colors if colors.dim() == len(batch) + (3 if sh_degree is None else 4) else colors.unsqueeze(len(batch))
    shown = features.detach().flatten(len(batch) + 2).sum(-1).isfinite()
    if chosen == "reference" or sh_degree is not None:
        usable = finite(means, quats, scales) & opacities.detach().isfinite()
        shown = shown & usable.unsqueeze(-2)
        opacities = torch.where(usable, opacities, 0)
        if sh_degree is not None:
            features = _view_colors(features, sh_degree, means, viewmats, shown)
        features = torch.where(shown.unsqueeze(-1), features, 0)
    # otherwise nothing needs to be replaced: compiled loops cull what is not finite, and read nothing of what is culled
    features = features.expand(*batch, cameras, count, channels)
    if chosen == "cpu":
        if has_tangents((means, quats, scales, opacities, colors, viewmats, Ks)):
            raise ValueError("backend 'cpu' has no forward-mode derivatives; use backend='reference'")
        from . import cpu as renderer
        from .cpu_projection import project_usable as projected
    else:
        renderer, projected = reference, project_usable
    settings = ProjectionSettings(width, height, found, near_plane, far_plane, radius_clip, eps2d, antialiased)
    seen = projected(shown.all(-2), means, quats, scales, viewmats, Ks, opacities, settings)
    strength = opacities.unsqueeze(-2) * (seen.compensations if antialiased else 1)
    strength = strength.expand(*batch, cameras, count)

    absolute = _absolute(seen.means2d) if absgrad else None
    flat = Projection(**{name: value.flatten(0, len(batch)) for name, value in vars(seen).items()})
    drawn, depths, left = renderer.splat(
        flat, strength.flatten(0, len(batch)), features.flatten(0, len(batch)), width, height, found,
        absolute if absolute is None else absolute.flatten(0, len(batch)),
    )  # fmt: skip
    drawn, depths, left = (value.unflatten(0, (*batch, cameras)) for value in (drawn, depths, left))
    if background is not None:
        drawn = drawn + left.unsqueeze(-1) * background[..., None, None, :]
    return Render(
        colors=drawn,
        alphas=(1 - left).unsqueeze(-1),
        depths=depths.unsqueeze(-1),
        means2d=seen.means2d,
        radii=seen.radii,
    )


def _absolute(means2d: Tensor) -> Tensor:
    """Zeros whose gradient becomes the attribute `absgrad` of the means, as in gsplat."""
    zeros = torch.zeros_like(means2d, requires_grad=torch.is_grad_enabled())
    if zeros.requires_grad:
        zeros.register_hook(lambda gradient: setattr(means2d, "absgrad", gradient))
    return zeros


def _choose(backend: str, device: torch.device) -> str:
    if backend not in BACKENDS:
        raise unknown("splatting backend", backend, BACKENDS)
    if backend == "auto":
        backend = "gsplat" if device.type == "cuda" else "cpu"
    if (backend == "gsplat" and device.type != "cuda") or (backend == "cpu" and device.type != "cpu"):
        needed = "CUDA" if backend == "gsplat" else "the CPU"
        raise ValueError(f"backend {backend!r} needs tensors on {needed}, the Gaussians are on {device}")
    return backend


def _check(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    sh_degree: int | None,
    backend: str,
) -> tuple[int, ...]:
    """Check all shapes, types and devices, and return the batch dimensions."""
    if means.dim() < 2 or means.shape[-1] != 3:
        raise ValueError(f"means must be (..., N, 3), got {tuple(means.shape)}")
    if viewmats.dim() < 3:
        raise ValueError(f"viewmats must be (..., C, 4, 4), got {tuple(viewmats.shape)}")
    batch, count, cameras = tuple(means.shape[:-2]), means.shape[-2], viewmats.shape[-3]
    for name, value, shape in (
        ("quats", quats, (*batch, count, 4)),
        ("scales", scales, (*batch, count, 3)),
        ("opacities", opacities, (*batch, count)),
        ("viewmats", viewmats, (*batch, cameras, 4, 4)),
        ("Ks", Ks, (*batch, cameras, 3, 3)),
    ):
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} must be {shape} with means {tuple(means.shape)}, got {tuple(value.shape)}")
    tail = 1 if sh_degree is None else 2
    fitting = ((*batch, count), (*batch, cameras, count))
    if tuple(colors.shape[:-tail]) not in fitting or (sh_degree is not None and colors.shape[-1] != 3):
        wanted = "(..., N, D) or (..., C, N, D)" if sh_degree is None else "(..., N, K, 3) or (..., C, N, K, 3)"
        raise ValueError(f"colors must be {wanted} with means {tuple(means.shape)}, got {tuple(colors.shape)}")
    for name, value in (("width", width), ("height", height)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of pixels of at least 1, got {value!r}")
    for name, value in (
        ("quats", quats), ("scales", scales), ("opacities", opacities), ("colors", colors), ("viewmats", viewmats), ("Ks", Ks),
    ):  # fmt: skip
        if value.dtype != means.dtype or value.device != means.device:
            raise ValueError(
                f"all tensors must have the dtype and device of means ({means.dtype}, {means.device}); "
                f"{name} has {value.dtype}, {value.device}"
            )
    if backend != "reference" and means.dtype != torch.float32:
        raise ValueError(
            f"backend {backend!r} computes in float32, the Gaussians are {means.dtype}; convert them, or use backend='reference'"
        )
    if means.device.type == "cpu" and not torch.compiler.is_compiling():
        for name, value in (("viewmats", viewmats), ("Ks", Ks)):
            if not value.detach().isfinite().all():
                raise ValueError(f"{name} must be finite")
        if (Ks[..., 0, 1] != 0).any() or (Ks[..., 1, 0] != 0).any():
            raise ValueError("Ks must have no skew (entries [0, 1] and [1, 0] must be 0)")
    return batch


def _broadcast_background(background: Tensor, batch: tuple[int, ...], cameras: int, channels: int) -> Tensor:
    shape = (*batch, cameras, channels)
    if tuple(background.shape) not in ((channels,), shape):
        raise ValueError(f"background must be ({channels},) or {shape}, got {tuple(background.shape)}")
    return background.expand(shape)


def _view_colors(coefficients: Tensor, degree: int, means: Tensor, viewmats: Tensor, shown: Tensor) -> Tensor:
    """Colours (..., C, N, 3) of spherical harmonics (..., 1 or C, N, K, 3) seen from the cameras."""
    rotation, translation = viewmats[..., :3, :3], viewmats[..., :3, 3:]
    eyes = -(rotation.mT @ translation).squeeze(-1)
    directions = means.unsqueeze(-3) - eyes.unsqueeze(-2)
    directions = torch.where(shown.unsqueeze(-1), directions, 1)
    return (spherical_harmonics(degree, directions, coefficients) + 0.5).clamp(min=0)
