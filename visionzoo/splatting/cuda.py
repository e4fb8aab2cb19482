"""The CUDA renderer: gsplat."""

from __future__ import annotations

from torch import Tensor

from ..errors import require
from .result import Render


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
    background: Tensor | None,
    near_plane: float,
    far_plane: float,
    radius_clip: float,
    eps2d: float,
    sh_degree: int | None,
    antialiased: bool,
    absgrad: bool,
) -> Render:
    """Like `visionzoo.splatting.render`, with checked arguments."""
    gsplat = require("gsplat", extra="gs", purpose="Gaussian splatting on CUDA")
    images, alphas, found = gsplat.rasterization(
        means,
        quats,
        scales,
        opacities,
        colors,
        viewmats,
        Ks,
        width,
        height,
        near_plane=near_plane,
        far_plane=far_plane,
        radius_clip=radius_clip,
        eps2d=eps2d,
        sh_degree=sh_degree,
        packed=False,
        absgrad=absgrad,
        backgrounds=background,
        render_mode="RGB+D",
        rasterize_mode="antialiased" if antialiased else "classic",
    )
    return Render(
        colors=images[..., :-1],
        alphas=alphas,
        depths=images[..., -1:],
        means2d=found["means2d"],
        radii=found["radii"],
    )
