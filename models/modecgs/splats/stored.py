"""Gaussians before activation, as files hold them: logarithms of scales, logits of opacities, harmonics for colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ..fourdgs import SH_ZERO
from ..gaussians import Gaussians
from .baking import LEAST_OPACITY

Values = NDArray[np.float32]

LOWEST_LOG_SCALE = -20.0
"""A scale of 0, as of a flat Gaussian, has no logarithm; this one is as thin, and finite."""

MARGIN = 1e-6
"""Opacities are stored at least this far from 0 and 1: the logit of 1 is infinite, which empties whole files in some readers."""


@dataclass(frozen=True)
class Stored:
    """N Gaussians.

    Attributes:
        means: (N, 3).
        scales: (N, 3), natural logarithms.
        quats: (N, 4), w first.
        opacities: (N,), logits.
        harmonics: (N, K, 3), K = 1, 4, 9 or 16.
    """

    means: Values
    scales: Values
    quats: Values
    opacities: Values
    harmonics: Values

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        return round(self.harmonics.shape[1] ** 0.5) - 1

    @property
    def alphas(self) -> Values:
        """(N,) opacities in [0, 1]."""
        return sigmoid(self.opacities)

    def take(self, rows: NDArray[np.integer]) -> Stored:
        """The Gaussians `rows` (n,), in this order."""
        return Stored(*(np.ascontiguousarray(value[rows]) for value in vars(self).values()))


def store(gaussians: Gaussians) -> Stored:
    """Gaussians for a file: those that are drawn at all (opacity above 1 / 255), with unit quaternions and finite numbers."""
    colors = gaussians.colors if gaussians.sh_degree is not None else (gaussians.colors[:, None] - 0.5) / SH_ZERO
    bands = 1 if gaussians.sh_degree is None else (gaussians.sh_degree + 1) ** 2
    finite = gaussians.opacities > LEAST_OPACITY
    for value in (gaussians.means, gaussians.quats, gaussians.scales, colors[:, :bands]):
        finite &= value.flatten(1).isfinite().all(1)
    opacities = gaussians.opacities[finite].double().clamp(MARGIN, 1 - MARGIN)
    columns = (
        gaussians.means[finite],
        gaussians.scales[finite].abs().log().clamp_min(LOWEST_LOG_SCALE),
        F.normalize(gaussians.quats[finite], dim=-1),
        opacities.logit(),
        colors[finite, :bands],
    )
    return Stored(*(np.ascontiguousarray(value.detach().float().cpu().numpy()) for value in columns))


def restore(stored: Stored) -> tuple[Gaussians, int]:
    """The Gaussians of a file, and how many were left out because a number of theirs is not finite or their quaternion is 0."""
    with np.errstate(over="ignore"):
        scales = np.exp(stored.scales)
    lengths = np.linalg.norm(stored.quats, axis=1)
    usable = np.isfinite(lengths) & (lengths > 0) & ~np.isnan(stored.opacities)
    for value in (stored.means, scales, stored.harmonics):
        usable &= np.isfinite(value.reshape(len(value), -1)).all(axis=1)
    columns = (
        stored.means,
        stored.quats / np.where(usable, lengths, 1)[:, None],
        scales,
        stored.alphas,
        stored.harmonics,
    )
    tensors = (torch.from_numpy(np.ascontiguousarray(value[usable], dtype=np.float32)) for value in columns)
    return Gaussians(*tensors, sh_degree=stored.sh_degree), int((~usable).sum())


def sigmoid(logits: Values) -> Values:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


def logit(alphas: NDArray[np.floating]) -> Values:
    """Logits of opacities in [0, 1], none infinite."""
    clipped = np.clip(alphas.astype(np.float64), MARGIN, 1 - MARGIN)
    return np.log(clipped / (1 - clipped)).astype(np.float32)


__all__ = ["LOWEST_LOG_SCALE", "MARGIN", "Stored", "logit", "restore", "sigmoid", "store"]
