"""Finding the parts of characters in images of the toy world by their shapes, where nobody knows where they are.

`PartNet` is a small U-Net. It works at half the resolution and below: the first convolution halves the sides, and the last
one predicts four pixels at each place. Lines are a class of their own, so that the pixels of a part have the part's colour.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.data.toy_world import Clip, Frame
from visionzoo.data.toy_world.characters import PARTS
from visionzoo.errors import InputError, unknown
from visionzoo.io.pixels import to_float

CLASSES = ("background", "line", "skin", *PARTS)
"""The classes of pixels. Skin includes mouths; eyes are lines."""


@dataclass(frozen=True)
class PartNetConfig:
    """Sizes of the network.

    Attributes:
        channels: at 1/2, 1/4, 1/8 … of the image's sides.
    """

    channels: tuple[int, ...] = (16, 32, 48, 56)


class PartNet(nn.Module):
    """A U-Net that gives every pixel one of `CLASSES`.

    Attributes:
        config: its sizes.
    """

    def __init__(self, config: PartNetConfig):
        super().__init__()
        self.config = config
        widths = config.channels
        self.stem = _block(3, widths[0], kernel=5, stride=2)
        self.down = nn.ModuleList(
            nn.Sequential(_block(before, after, stride=2), _block(after, after))
            for before, after in itertools.pairwise(widths)
        )
        narrower = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.narrow = nn.ModuleList(nn.Conv2d(before, after, 1) for before, after in narrower)
        self.up = nn.ModuleList(_block(after, after) for _, after in narrower)
        self.head = nn.Conv2d(widths[0], 4 * len(CLASSES), 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> logits (B, classes, H, W). Any size will do: images are padded by repeating their borders."""
        height, width = images.shape[-2:]
        factor = 2 ** len(self.config.channels)
        x = F.pad(images, (0, -width % factor, 0, -height % factor), mode="replicate")
        x = self.stem(x)
        finer: list[Tensor] = []
        for down in self.down:
            finer.append(x)
            x = down(x)
        for narrow, up in zip(self.narrow, self.up, strict=True):
            x = up(F.interpolate(narrow(x), scale_factor=2, mode="nearest") + finer.pop())
        return F.pixel_shuffle(self.head(x), 2)[..., :height, :width]


def _block(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def build(name: str, **overrides: Any) -> PartNet:
    """Build the registered network "toy_parts" with random weights.

    Args:
        **overrides: fields of `PartNetConfig`.

    Raises:
        InputError: an unknown field, or channels that are not positive.
    """
    known = list(PartNetConfig.__dataclass_fields__)
    for field in overrides:
        if field not in known:
            raise unknown("field of PartNetConfig", field, known)
    channels = tuple(overrides.get("channels", PartNetConfig.channels))
    if not channels or min(channels) < 1:
        raise InputError(f"channels of {name} must be positive numbers, got {channels}")
    return PartNet(PartNetConfig(channels))


def true_parts(clip: Clip, frame: Frame) -> np.ndarray:
    """The true classes of a drawn frame, (H, W) uint8 indices of `CLASSES`.

    A pixel that a line touches is a line.
    """
    table = np.zeros(len(clip.regions), np.uint8)
    for region in clip.regions:
        if 0 < region.instance <= len(clip.characters):
            table[region.number] = CLASSES.index("skin" if region.part == "face" else region.part)
    return np.where(frame.ink < 255, CLASSES.index("line"), table[frame.regions]).astype(np.uint8)


@torch.no_grad()
def find_parts(network: PartNet, images: np.ndarray, *, confidence: float = 0.5) -> np.ndarray:
    """Find the parts of characters.

    Args:
        network: in eval mode.
        images: (N, H, W, 3) uint8.
        confidence: pixels whose class is less probable than this become "background".

    Returns:
        (N, H, W) uint8 indices of `CLASSES`.

    Raises:
        InputError: images of another shape or type.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise InputError(f"images are {images.dtype} of shape {images.shape}, expected uint8 (N, H, W, 3)")
    device = next(network.parameters()).device
    batches = torch.from_numpy(np.ascontiguousarray(images)).split(16)
    found = []
    for batch in batches:
        probability, label = network(to_float(batch, device=device) * 2 - 1).softmax(1).max(1)
        found.append(torch.where(probability < confidence, 0, label).byte().cpu())
    return cast(np.ndarray, torch.cat(found).numpy())


__all__ = ["CLASSES", "PartNet", "PartNetConfig", "build", "find_parts", "true_parts"]
