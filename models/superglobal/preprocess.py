"""From images to the network's input, as in the published code: no resize, 0..1, minus mean, over std, BGR."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visionzoo.errors import InputError

from .model import SuperGlobal, SuperGlobalConfig


def crop_box(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """The part of `image` (H, W, 3) inside `box` = (x0, y0, x1, y1) in pixels; fractions are truncated, as in the benchmark.

    Raises:
        InputError: the box has no area inside the image.
    """
    if len(box) != 4 or not np.isfinite(box).all():
        raise InputError(f"a box must be four numbers x0, y0, x1, y1 in pixels, got {list(box)}")
    x0, y0, x1, y1 = (int(value) for value in box)
    height, width = image.shape[:2]
    part = image[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    if part.size == 0:
        raise InputError(f"the box {x0},{y0},{x1},{y1} has no area inside the image of {width} x {height} pixels")
    return part


@dataclass(frozen=True)
class Preprocess:
    """Image (H, W, 3) uint8 RGB -> (3, H, W) float32, normalised for the network.

    Attributes:
        mean, std: mean and standard deviation per channel, in the order of `channel_order`.
        channel_order: "bgr" or "rgb".
        min_side: images with a shorter side are enlarged to it, with a warning.
        max_side: images with a longer side are shrunk to it; None keeps the native size (the benchmark's setting).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: str
    min_side: int = 1
    max_side: int | None = None

    @classmethod
    def of(cls, model: SuperGlobal, max_side: int | None = None) -> Preprocess:
        """The preprocessing that `model` needs."""
        if max_side is not None and max_side < model.min_side:
            raise InputError(f"max_side must be at least {model.min_side} pixels for this model, got {max_side}")
        return cls.from_config(model.config, model.min_side, max_side)

    @classmethod
    def from_config(cls, config: SuperGlobalConfig, min_side: int = 1, max_side: int | None = None) -> Preprocess:
        return cls(config.mean, config.std, config.channel_order, min_side, max_side)

    def fit_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after the size limits; the proportions are kept unless the image is a very thin strip."""
        scale = min(1.0, self.max_side / max(width, height)) if self.max_side else 1.0
        scale = max(scale, self.min_side / min(width, height))
        longest = max(self.max_side or max(width, height), self.min_side)  # a strip is not enlarged without bound
        return tuple(  # pyright: ignore[reportReturnType]
            min(max(round(side * scale), self.min_side), longest) for side in (width, height)
        )

    def resize(self, image: np.ndarray, name: str = "an image") -> np.ndarray:
        """`image` within the size limits; warns when it has to be enlarged."""
        height, width = image.shape[:2]
        size = self.fit_size(width, height)
        if size == (width, height):
            return image
        if size[0] > width or size[1] > height:
            warnings.warn(
                f"{name}: {width} x {height} pixels is below the smallest size; the image is enlarged to {size[0]} x {size[1]}",
                stacklevel=2,
            )
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))

    def normalise(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (3, H, W) float32."""
        return self.normalise_batch(torch.from_numpy(np.ascontiguousarray(image))[None])[0]

    def normalise_batch(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 RGB on any device -> (B, 3, H, W) float32 there, in channels-last memory."""
        if self.channel_order == "bgr":
            images = images.flip(-1)
        mean, std = (torch.tensor(values, device=images.device) for values in (self.mean, self.std))
        return images.float().div_(255).sub_(mean).div_(std).permute(0, 3, 1, 2)

    def __call__(self, image: np.ndarray, name: str = "an image") -> Tensor:
        return self.normalise(self.resize(image, name))


def preprocess_of(trainer: Any, max_side: int | None = None) -> Preprocess:
    """The normalisation of the running trainer's network; the published one without a trainer."""
    module = getattr(trainer, "lightning_module", None)
    if module is not None and hasattr(module, "preprocess"):
        return module.preprocess(max_side)
    return Preprocess.from_config(SuperGlobalConfig(), max_side=max_side)
