"""A scene at one time as static Gaussians, as every viewer of 3D Gaussian Splatting shows them.

Anchors spawn Gaussians whose opacity, shape and colour depend on the view through networks; their centres do not. Files of Gaussians
know a view-dependent colour only, as spherical harmonics. So the networks are evaluated from many viewpoints, and what is stored is

* the mean opacity and the mean covariance over these views,
* harmonics fitted to the colours by least squares, each view weighted by the Gaussian's opacity in it.

Shapes: V views, M = A * k Gaussians of A anchors.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from visionzoo.errors import InputError
from visionzoo.jobs.progress import Progress, silent
from visionzoo.splatting.harmonics import MAX_DEGREE

from ..deformation import Scaffold
from ..fourdgs import SH_ZERO, FourDGaussians
from ..gaussians import Gaussians
from ..model import MoDecGS
from .moments import fit_harmonics, mean_shape
from .views import Views, views_of

LEAST_OPACITY = 1 / 255
"""Gaussians that are weaker than this are not drawn by any rasteriser."""

CHUNK = 2048
"""Gaussians whose views are held in memory together."""


@torch.no_grad()
def bake(
    model: MoDecGS | FourDGaussians,
    time: float | None,
    *,
    sh_degree: int = MAX_DEGREE,
    centers: Tensor | None = None,
    camera: Tensor | None = None,
    progress: Progress = silent,
) -> Gaussians:
    """The static Gaussians of a scene at one time.

    Args:
        time: in [0, 1]; None for the scene at rest.
        sh_degree: degree of the colours' harmonics, 0 to 3. Harmonics that the model stores itself (4DGaussians) are cut to it.
        centers: (C, 3), where the training cameras were: colours are fitted to these views first. By default, all directions count
            the same.
        camera: (3,), the centre of one camera: the Gaussians are exactly those that it sees, and colours do not depend on the view.
        progress: called with the number of Gaussians.

    Returns:
        Gaussians with unit quaternions, positive scales, opacities above 1 / 255, and harmonics (M, K, 3), on the model's device.

    Raises:
        InputError: a time or a degree that cannot be used, or nothing is visible at this time.
    """
    if time is not None and not 0 <= time <= 1:
        raise InputError(f"the time must be in [0, 1], got {time:g}")
    if not 0 <= sh_degree <= MAX_DEGREE:
        raise InputError(f"the degree of harmonics must be between 0 and {MAX_DEGREE}, got {sh_degree}")
    if isinstance(model, FourDGaussians):
        degree = min(sh_degree, model.config.sh_degree)
        parts = [_visible(model(None, time), degree)]
    else:
        degree = 0 if camera is not None else sh_degree
        parts = list(_parts(model, time, degree, centers, camera, progress))
    columns = [torch.cat(column) for column in zip(*(part.tensors for part in parts), strict=True)]
    if not columns or not len(columns[0]):
        raise InputError("the scene has no visible Gaussians at this time; train it first")
    return Gaussians(*columns, sh_degree=degree)


def _parts(
    model: MoDecGS, time: float | None, degree: int, centers: Tensor | None, camera: Tensor | None, progress: Progress
) -> Iterator[Gaussians]:
    """The visible Gaussians, of some anchors at a time."""
    scaffold = model.anchors.scaffold() if time is None else model.canonical(time)
    anchors, k = len(scaffold.positions), model.config.num_offsets
    if camera is None:
        views = views_of(model, centers)
    else:
        views = Views(camera.to(scaffold.positions)[None], scaffold.positions.new_ones(1))
    step = max(CHUNK // k, 1)
    for first in range(0, anchors, step):
        part = Scaffold(*(value[first : first + step] for value in scaffold))
        yield _part(model, part, time, degree, views)
        progress("bake", min(first + step, anchors) * k, anchors * k)


def _part(model: MoDecGS, scaffold: Scaffold, time: float | None, degree: int, views: Views) -> Gaussians:
    seen = [model.networks(scaffold, center, dense=True) for center in views.centers]
    means = seen[0].means
    scales, quats, alphas, colors = (
        torch.stack([getattr(one, name) for one in seen]) for name in ("scales", "quats", "opacities", "colors")
    )
    if time is not None and model.local_deformation is not None:
        # it adds to the Gaussians of every view what depends on their centres only
        means, grown, turned = model.local_deformation(means, scales.new_zeros(means.shape), quats[0] * 0, time)
        scales, quats = scales + grown, quats + turned
    strengths = alphas.nan_to_num(0).clamp(0, 1)  # a view from inside an anchor has no direction
    opacities = (views.weights @ strengths) / views.weights.sum()
    kept = opacities > LEAST_OPACITY
    means, scales, quats, colors, opacities = (
        means[kept],
        scales[:, kept],
        quats[:, kept],
        colors[:, kept],
        opacities[kept],
    )
    weights = strengths[:, kept] * views.weights[:, None]
    if len(views.centers) == 1:
        shape = F.normalize(quats[0], dim=-1), scales[0].abs()
        harmonics = (colors[0][:, None] - 0.5) / SH_ZERO
    else:
        shape = mean_shape(quats, scales.nan_to_num(0), weights)
        directions = F.normalize(means - views.centers[:, None], dim=-1)
        harmonics = fit_harmonics(directions, colors.nan_to_num(0), weights, degree)
    return Gaussians(means, *shape, opacities, harmonics, sh_degree=degree)


def _visible(found: Gaussians, degree: int) -> Gaussians:
    kept = found.opacities > LEAST_OPACITY
    means, quats, scales, opacities, harmonics = (value[kept] for value in found.tensors)
    return Gaussians(means, quats, scales, opacities, harmonics[:, : (degree + 1) ** 2], sh_degree=degree)


__all__ = ["LEAST_OPACITY", "bake"]
