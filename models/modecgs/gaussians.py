"""A set of 3D Gaussians, ready for a renderer, in gsplat's notation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Gaussians:
    """M Gaussians, after all activations.

    Attributes:
        means: (M, 3).
        quats: (M, 4), w x y z, of length 1.
        scales: (M, 3), standard deviations along the axes; a sign has no meaning.
        opacities: (M,), at most 1; at most 0 for Gaussians that are not drawn.
        colors: (M, 3) RGB, or spherical harmonics (M, bands, 3) of degree `sh_degree`.
        sh_degree: degree of the harmonics in `colors`; None for RGB.
        slots: (M,) anchor * k + offset, the place of each Gaussian among the N * k that the anchors can spawn.
        anchors: (A,) indices of the anchors that could spawn.
        neural_opacities: (A, k), the output of the opacity network before selection.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    sh_degree: int | None = None
    slots: Tensor | None = None
    anchors: Tensor | None = None
    neural_opacities: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Means, quaternions, scales, opacities and colours: the first arguments of `visionzoo.splatting.render`."""
        return self.means, self.quats, self.scales, self.opacities, self.colors

    def __len__(self) -> int:
        return len(self.means)
