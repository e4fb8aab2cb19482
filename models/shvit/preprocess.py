"""From pictures to the network's input, as the published evaluation does it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from visionzoo.errors import InputError
from visionzoo.io.pixels import to_float

IMAGE_SIZES = {"shvit_s4": 256}
"""Side in pixels at which the published weights were trained and tested, where it is not 224."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """Picture (H, W, 3) uint8 RGB -> (3, size, size) float32 with the ImageNet normalisation.

    Attributes:
        size: side of the input in pixels.
        crop: share of the shorter side that the central crop keeps, 0.875 as published (224 of 256, 256 of 292).
    """

    size: int = 224
    crop: float = 0.875

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.crop <= 1:
            raise InputError(f"expected a size of at least 1 and a crop in (0, 1], got {self.size} and {self.crop}")

    @classmethod
    def of(cls, name: str) -> Preprocess:
        """What the published weights of the model `name` were tested with."""
        return cls(IMAGE_SIZES.get(name.partition(".")[0], 224))

    def resize(self, image: np.ndarray) -> np.ndarray:
        """The shorter side to size / crop (bicubic, rounded down), then the centre: (H, W, 3) -> (size, size, 3) uint8."""
        picture: Any = Image.fromarray(_without_ends(image))
        picture = functional.resize(picture, [math.floor(self.size / self.crop)], InterpolationMode.BICUBIC)
        return np.asarray(functional.center_crop(picture, [self.size, self.size]))

    def normalise(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (3, H, W) float32."""
        pixels = to_float(image)
        return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]

    def __call__(self, image: np.ndarray) -> Tensor:
        return self.normalise(self.resize(image))


def _without_ends(image: np.ndarray, longest: int = 8) -> np.ndarray:
    """The middle of a strip that is over `longest` times as long as wide, of which the crop keeps a part only: enlarged
    whole, a strip of one pixel's width would fill the memory."""
    height, width = image.shape[:2]
    limit = longest * min(height, width)
    top, left = max(0, (height - limit) // 2), max(0, (width - limit) // 2)
    return np.ascontiguousarray(image[top : top + limit, left : left + limit])
