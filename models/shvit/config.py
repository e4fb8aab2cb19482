"""The configuration of SHViT, and checks that the network and its fused form share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from visionzoo.errors import InputError

STRIDES = (16, 32, 64)
"""Strides of the three stages' maps."""


@dataclass(frozen=True)
class SHViTConfig:
    """The configuration of a SHViT; the defaults are those of the published S1.

    Attributes:
        embed_dim: channels of the three stages; the first one is a multiple of 8.
        partial_dim: channels that the attention of each stage reads and writes, the first ones of the map.
        depth: number of blocks in each stage.
        types: per stage "s" (blocks with attention) or "i" (without).
        qk_dim: width of queries and keys in each stage.
        in_chans: channels of the input image.
        num_classes: outputs of the head; 0 for no head, `forward` then gives the pooled vector.
        distillation: a second head, trained against a teacher (section 4.2).
        features_only: no head: `forward` gives the maps of the stages `out_indices`, for use as a backbone.
        out_indices: stages (0, 1, 2) whose maps `features_only` returns; their strides are 16, 32 and 64.
    """

    embed_dim: tuple[int, ...] = (128, 224, 320)
    partial_dim: tuple[int, ...] = (32, 48, 68)
    depth: tuple[int, ...] = (2, 4, 5)
    types: tuple[str, ...] = ("i", "s", "s")
    qk_dim: tuple[int, ...] = (16, 16, 16)
    in_chans: int = 3
    num_classes: int = 1000
    distillation: bool = False
    features_only: bool = False
    out_indices: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        for name in ("embed_dim", "partial_dim", "depth", "types", "qk_dim"):
            if len(getattr(self, name)) != 3:
                raise InputError(f"{name} must have one entry for each of the three stages, got {getattr(self, name)}")
        if any(kind not in ("i", "s") for kind in self.types):
            raise InputError(f"types must be 's' (with attention) or 'i' (without), got {self.types}")
        if self.embed_dim[0] % 8 or min(*self.embed_dim, *self.qk_dim, *self.partial_dim, *self.depth) < 1:
            raise InputError(f"widths and depths must be positive and embed_dim[0] a multiple of 8, got {self}")
        if any(part > dim for part, dim in zip(self.partial_dim, self.embed_dim, strict=True)):
            raise InputError(f"partial_dim must be at most embed_dim {self.embed_dim}, got {self.partial_dim}")
        if self.in_chans < 1 or self.num_classes < 0:
            raise InputError(
                f"in_chans must be at least 1 and num_classes at least 0, got {self.in_chans}, {self.num_classes}"
            )
        check_indices(self.out_indices)

    @property
    def heads(self) -> int:
        """0, 1, or 2 with distillation."""
        if self.features_only or not self.num_classes:
            return 0
        return 2 if self.distillation else 1


def check_indices(indices: Sequence[int]) -> None:
    if not indices or any(index not in (0, 1, 2) for index in indices) or list(indices) != sorted(set(indices)):
        raise InputError(f"out_indices must be some of the stages 0, 1, 2 in rising order, got {tuple(indices)}")


def check_images(x: Tensor, channels: int) -> None:
    """Raise `InputError` unless x is (B, channels, H, W) with H, W >= 1."""
    if x.ndim != 4 or x.shape[1] != channels:
        raise InputError(f"expected images (B, {channels}, H, W), got {tuple(x.shape)}")
    if x.shape[2] == 0 or x.shape[3] == 0:
        raise InputError(f"expected images of at least 1 x 1 pixels, got {tuple(x.shape)}")


def squeezed(dim: int) -> int:
    """A quarter of `dim`, rounded to a multiple of 8 as in timm (308 becomes 312), and at least 8."""
    return max(8, int(dim / 4 + 4) // 8 * 8)
