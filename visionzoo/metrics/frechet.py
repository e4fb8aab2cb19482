"""Fréchet distance of two sets of features: FID of images (Heusel et al., NeurIPS 2017, arXiv 1706.08500) and FVD of videos
(Unterthiner et al., arXiv 1812.01717).

The distance of two normal distributions is |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). Here the last trace is the sum of the singular
values of R1 R2', where R'R is the covariance S and R comes from a QR decomposition of the centred features. No matrix root is taken,
so singular covariances (fewer samples than features) lose no digits.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.errors import InputError, check_items

from .features import FeatureExtractor, clip_features, extractor_name, image_features
from .frames import Pixels, as_tensor


@dataclass(frozen=True)
class Frechet:
    """A Fréchet distance and what is needed to compare it with others.

    Attributes:
        distance: at least 0; 0 for equal features.
        extractor: name of the extractor.
        samples: numbers of generated and of real images or clips. The distance depends on them: few samples make it too large.
    """

    distance: float
    extractor: str
    samples: tuple[int, int]


def frechet_distance(features1: Tensor | NDArray[np.floating], features2: Tensor | NDArray[np.floating]) -> float:
    """Fréchet distance of the normal distributions fitted to two sets of features, with unbiased covariances, in float64.

    Warns if a set has no more samples than features: then the distance is much too large, and compares only with others of the same
    numbers of samples.

    Args:
        features1: (N, D), N at least 2.
        features2: (M, D), M at least 2.

    Raises:
        InputError: wrong shapes, fewer than two samples, or values that are not finite.
    """
    first, second = _checked(features1, "features1"), _checked(features2, "features2")
    if first.shape[1] != second.shape[1]:
        raise InputError(
            f"features1 has {first.shape[1]} numbers per sample and features2 {second.shape[1]}; use one extractor for both"
        )
    few = min(len(first), len(second))
    if few <= first.shape[1]:
        warnings.warn(
            f"{few} samples of {first.shape[1]} features: the Fréchet distance is too large and compares only with others of as "
            f"many samples; use more than {first.shape[1]}",
            UserWarning,
            stacklevel=2,
        )
    (mean1, root1), (mean2, root2) = _moments(first), _moments(second)
    common = torch.linalg.svdvals(root1 @ root2.T).sum()
    distance = (mean1 - mean2).square().sum() + root1.square().sum() + root2.square().sum() - 2 * common
    return max(float(distance), 0.0)


def fid(
    generated: Iterable[Pixels], real: Iterable[Pixels], extractor: FeatureExtractor, *, batch: int = 16
) -> Frechet:
    """Fréchet distance of images. It is the FID of papers only with Inception's published weights; see `inception_features`.

    Args:
        generated: images of one size (H, W, 3), or tensors (3, H, W), uint8 or float in [0, 1], or the frames of `read_frames`.
        real: the same; another size is possible.
        extractor: maps (N, H, W, 3) to (N, D); see `FeatureExtractor`.
        batch: number of images per call of the extractor.

    Raises:
        InputError: fewer than two images, or as for `image_features`.
    """
    ours, theirs = (image_features(frames, extractor, batch=batch) for frames in (generated, real))
    return _result(ours, theirs, extractor)


def fvd(
    generated: Iterable[Iterable[Pixels]],
    real: Iterable[Iterable[Pixels]],
    extractor: FeatureExtractor,
    *,
    length: int = 16,
    stride: int = 8,
    batch: int = 4,
) -> Frechet:
    """Fréchet distance of clips. It is the FVD of papers only with I3D's published weights, and with their length and stride.

    Args:
        generated: videos, each an iterable of frames as in `fid`.
        real: the same.
        extractor: maps (N, length, H, W, 3) to (N, D); see `FeatureExtractor` and `TorchScriptFeatures`.
        length: frames of a clip.
        stride: frames from the beginning of one clip to that of the next.
        batch: number of clips per call of the extractor.

    Raises:
        InputError: no videos, fewer than two clips, or as for `clip_features`.
    """
    for name, videos in (("generated", generated), ("real", real)):
        check_items(name, videos, "videos, each an iterable of frames")
    ours, theirs = (
        [clip_features(frames, extractor, length=length, stride=stride, batch=batch) for frames in videos]
        for videos in (generated, real)
    )
    if not ours or not theirs:
        raise InputError(f"there are no {'real' if ours else 'generated'} videos")
    return _result(torch.cat(ours), torch.cat(theirs), extractor)


def _result(ours: Tensor, theirs: Tensor, extractor: FeatureExtractor) -> Frechet:
    return Frechet(frechet_distance(ours, theirs), extractor_name(extractor), (len(ours), len(theirs)))


def _checked(features: Tensor | NDArray[np.floating], name: str) -> Tensor:
    values = as_tensor(features, name, "an array (N, D)")
    if values.ndim != 2 or not values.shape[1] or len(values) < 2:
        raise InputError(f"{name} has shape {tuple(values.shape)}, expected (N, D) with at least two samples")
    values = values.detach().cpu().double()
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"{name} contains values that are not finite")
    return values


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and a root R (min(N, D), D) of the covariance R'R."""
    mean = features.mean(0)
    return mean, torch.linalg.qr((features - mean) / (len(features) - 1) ** 0.5, mode="r").R


__all__ = ["Frechet", "fid", "frechet_distance", "fvd"]
