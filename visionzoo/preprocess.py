"""Preprocessing of images for classifiers, as in the published evaluations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .errors import InputError
from .io.pixels import to_float

if TYPE_CHECKING:
    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """Image (H, W, 3) uint8 RGB -> (3, size, size) float32, centre-cropped and normalised.

    The results equal those of the transforms of torchvision and timm, whose import would take as long as that of torch.

    Attributes:
        size: side of the input in pixels.
        crop: fraction of the shorter side that the centre crop keeps, in (0, 1], e.g. 0.875 (224 of 256 pixels).
        mean, std: for the normalisation of values in [0, 1].
    """

    size: int = 224
    crop: float = 0.875
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.crop <= 1:
            raise InputError(f"size must be at least 1 and crop must be in (0, 1], got {self.size} and {self.crop}")

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Resize the shorter side to size / crop (bicubic, rounded down) and crop the centre: (H, W, 3) -> (size, size, 3) uint8."""
        pil = Image.fromarray(_without_ends(image))
        short, long = sorted(pil.size)
        shorter = math.floor(self.size / self.crop)
        longer = int(shorter * long / short)
        width, height = (shorter, longer) if pil.width <= pil.height else (longer, shorter)
        if pil.size != (width, height):
            pil = pil.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return np.asarray(pil.crop((left, top, left + self.size, top + self.size)))

    def normalise(self, image: np.ndarray) -> Tensor:
        """Normalise: (H, W, 3) uint8 RGB -> (3, H, W) float32."""
        import torch

        pixels = to_float(image)
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]

    def __call__(self, image: np.ndarray) -> Tensor:
        return self.normalise(self.resize(image))


def _without_ends(image: np.ndarray, longest: int = 8) -> np.ndarray:
    """Cut the ends off a strip that is more than `longest` times as long as wide, as the centre crop drops them anyway: resized as
    a whole, a strip one pixel wide would fill the memory."""
    height, width = image.shape[:2]
    limit = longest * min(height, width)
    top, left = max(0, (height - limit) // 2), max(0, (width - limit) // 2)
    return np.ascontiguousarray(image[top : top + limit, left : left + limit])


__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preprocess"]
