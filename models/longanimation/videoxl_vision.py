"""The eyes of Video-XL: CLIP ViT-L/14-336, a projector of two layers, and 2 x 2 pooling. 144 tokens per frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from visionzoo.errors import InputError

__all__ = ["VisionConfig", "VisionTower", "clip_pixels", "projector", "visual_tokens"]

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's normalisation."""


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision network; the defaults are those of CLIP ViT-L/14-336.

    Attributes:
        hidden_size, intermediate_size, num_hidden_layers, num_attention_heads: of the transformer.
        image_size, patch_size: sides in pixels; the second divides the first.
        select_layer: which hidden state is used: -1 is that after the last layer, -2 the one before. Published training
            scripts differ in it, so it is taken from the checkpoint.
        pool: side of the squares of tokens that are averaged after the projector.
    """

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 336
    patch_size: int = 14
    select_layer: int = -1
    pool: int = 2

    def __post_init__(self) -> None:
        if self.image_size % (self.patch_size * self.pool):
            raise InputError(f"image_size is {self.image_size}; expected a multiple of {self.patch_size} * {self.pool}")
        if not -self.num_hidden_layers <= self.select_layer <= -1:
            raise InputError(f"select_layer is {self.select_layer}; expected -{self.num_hidden_layers} to -1")

    @property
    def depth(self) -> int:
        """Number of layers that are built: those before the selected hidden state."""
        return self.num_hidden_layers + 1 + self.select_layer

    @property
    def tokens(self) -> int:
        """Number of visual tokens per frame."""
        return (self.image_size // self.patch_size // self.pool) ** 2


class VisionTower(nn.Module):
    """Holds transformers' CLIPVisionModel under the name that the published keys have.

    Args:
        config: its sizes.
        whole: build the layers after the selected one, too.
    """

    def __init__(self, config: VisionConfig, whole: bool = False):
        super().__init__()
        self.vision_tower = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_hidden_layers if whole else config.depth,
                num_attention_heads=config.num_attention_heads,
                image_size=config.image_size,
                patch_size=config.patch_size,
            )
        )

    def restore_buffers(self) -> None:
        """Give values to the position ids, which are in no checkpoint, if the network was made on the meta device."""
        embeddings = getattr(self.vision_tower, "vision_model", self.vision_tower).embeddings
        if embeddings.position_ids.is_meta:
            device = embeddings.class_embedding.device
            places = torch.arange(embeddings.num_positions, device=device)[None]
            embeddings.register_buffer("position_ids", places, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (N, 3, S, S) -> patch tokens (N, patches, width)."""
        return self.vision_tower(pixels).last_hidden_state[:, 1:]


def projector(vision: int, language: int) -> nn.Sequential:
    """The layers between the widths of both networks."""
    return nn.Sequential(nn.Linear(vision, language), nn.GELU(), nn.Linear(language, language))


def clip_pixels(frames: Tensor, size: int) -> Tensor:
    """Frames as CLIP sees them: the shorter side resized to `size` (bicubic), the central square, normalised.

    What is outside of the central square is not seen: 44 % of a frame of 16:9.

    Args:
        frames: (N, 3, H, W), RGB, uint8 or float in [0, 1]. uint8 is rounded as published.
        size: S.

    Returns:
        (N, 3, S, S) float32 on the device of `frames`.

    Raises:
        InputError: another shape or dtype.
    """
    integers = frames.dtype == torch.uint8
    if (
        frames.ndim != 4
        or frames.shape[1] != 3
        or not (integers or frames.is_floating_point())
        or 0 in frames.shape[2:]
    ):
        raise InputError(
            f"frames are {tuple(frames.shape)} {frames.dtype}; expected (N, 3, H, W), uint8 or floats in [0, 1]"
        )
    pixels = central_square(frames, size)
    pixels = pixels.float() / 255 if integers else pixels.clamp(0, 1)
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (MEAN, STD))
    return (pixels - mean) / std


def central_square(frames: Tensor, size: int) -> Tensor:
    """Frames (N, 3, H, W) -> (N, 3, S, S): the shorter side resized to `size` (bicubic), the central square; the dtype stays."""
    integers = frames.dtype == torch.uint8
    height, width = frames.shape[2:]
    short, long = min(height, width), max(height, width)
    other = int(size * long / short)
    sides = (size, other) if height <= width else (other, size)
    # for uint8 on a CPU, torch rounds like Pillow, after each direction; elsewhere, it has no such kernel
    exact = integers and frames.device.type == "cpu"
    pixels = frames if exact else frames.float()
    if sides != (height, width):
        pixels = F.interpolate(pixels, sides, mode="bicubic", antialias=True)
    top, left = (sides[0] - size) // 2, (sides[1] - size) // 2
    pixels = pixels[:, :, top : top + size, left : left + size]
    return pixels.round().clamp(0, 255).to(torch.uint8) if integers and not exact else pixels


def visual_tokens(
    tower: VisionTower, project: nn.Module, frames: Tensor, config: VisionConfig, batch: int
) -> Iterator[Tensor]:
    """Yield the tokens of `batch` frames at a time: (n, tokens, language width), in the order of rows."""
    weight = next(project.parameters())
    side = config.image_size // config.patch_size
    for part in frames.split(batch):
        pixels = clip_pixels(part, config.image_size).to(weight)
        tokens = project(tower(pixels))
        grid = tokens.transpose(1, 2).unflatten(2, (side, side))
        yield F.avg_pool2d(grid, config.pool).flatten(2).transpose(1, 2)
