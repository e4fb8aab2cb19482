"""SHViT as the backbone of a detector: the published feature pyramid on its maps (arXiv 2401.16456, section 4.3).

Shapes: B images, D channels of every pyramid level.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.errors import InputError

from .config import SHViTConfig
from .fused import FusedSHViT
from .model import SHViT


@dataclass(frozen=True)
class NeckConfig:
    """The feature pyramid; the defaults are the published RetinaNet's, `MASK_RCNN` is the published Mask R-CNN's.

    Attributes:
        out_channels: channels of every level (D).
        finer: number of levels finer than the backbone's, each by a transposed convolution: 1 adds stride 8; 2, strides 8 and 4.
        coarser: number of levels coarser than the backbone's, each by a convolution with stride 2, the first on its last map.
    """

    out_channels: int = 256
    finer: int = 1
    coarser: int = 1

    def __post_init__(self) -> None:
        if self.out_channels < 1 or not 0 <= self.finer <= 4 or not 0 <= self.coarser <= 4:
            raise InputError(f"out_channels must be at least 1, finer and coarser 0 to 4, got {self}")


RETINANET = NeckConfig()
"""Levels with strides 8, 16, 32, 64, 128."""

MASK_RCNN = NeckConfig(finer=2, coarser=0)
"""Levels with strides 4, 8, 16, 32, 64."""


class FeaturePyramid(nn.Module):
    """Maps with strides 16, 32, 64 -> maps (B, D, h, w) with the strides of `levels`, finest first.

    Convolutions have a bias, and neither norm nor activation.
    """

    def __init__(self, in_channels: Sequence[int], config: NeckConfig):
        super().__init__()
        dim = config.out_channels
        self.laterals = nn.ModuleList(nn.Conv2d(channels, dim, 1) for channels in in_channels)
        outputs = [nn.Conv2d(dim, dim, 3, padding=1) for _ in in_channels]
        for level in range(config.coarser):
            outputs.append(nn.Conv2d(dim if level else in_channels[-1], dim, 3, stride=2, padding=1))
        self.outputs = nn.ModuleList(outputs)
        self.upsamplers = nn.ModuleList(nn.ConvTranspose2d(dim, dim, 2, stride=2) for _ in range(config.finer))
        # the first belongs to the finest level, although the first upsampler makes the coarsest of the finer ones
        self.finer_outputs = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in range(config.finer))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        merged = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            size = merged[level - 1].shape[-2:]
            merged[level - 1] = merged[level - 1] + F.interpolate(merged[level], size, mode="nearest")
        finer: list[Tensor] = []
        for upsample in self.upsamplers:
            finer.insert(0, upsample(finer[0] if finer else merged[0]))
        levels = [output(x) for output, x in zip(self.finer_outputs, finer, strict=True)]
        levels += [output(x) for output, x in zip(self.outputs, merged, strict=False)]
        for level, output in enumerate(self.outputs[len(merged) :]):
            levels.append(output(levels[-1] if level else maps[-1]))
        return levels


@dataclass(frozen=True)
class DetectionConfig:
    """A SHViT and its feature pyramid; the defaults are those of the published RetinaNet with S4."""

    backbone: SHViTConfig = field(
        default_factory=lambda: SHViTConfig(
            embed_dim=(224, 336, 448), partial_dim=(48, 72, 96), depth=(4, 7, 6), features_only=True
        )
    )
    neck: NeckConfig = RETINANET


class DetectionBackbone(nn.Module):
    """Images (B, 3, H, W), normalised with the ImageNet statistics -> pyramid levels {"0": finest, "1": …}, each (B, D, h, w).

    It fits torchvision's detectors (`RetinaNet(backbone, …)`, `MaskRCNN(backbone, …)`): it has `out_channels` and returns an
    ordered dictionary. The backbone and neck of the published mmdetection files load with `visionzoo.load_checkpoint(model,
    path, strict=False)`; with strict, the detector heads in them are reported, as this module has none.

    In training, the backbone's batch norms stay in eval mode, as published.
    """

    def __init__(self, config: DetectionConfig):
        super().__init__()
        config = replace(config, backbone=replace(config.backbone, features_only=True, out_indices=(0, 1, 2)))
        self.config = config
        self.backbone: SHViT | FusedSHViT = SHViT(config.backbone)
        self.neck = FeaturePyramid(config.backbone.embed_dim, config.neck)
        self.out_channels = config.neck.out_channels

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the levels, finest first."""
        finest = 16 >> self.config.neck.finer
        return tuple(finest << level for level in range(len(self.neck.outputs) + self.config.neck.finer))

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        levels = self.neck(self.backbone.features(x))
        return OrderedDict((str(level), x) for level, x in enumerate(levels))

    def train(self, mode: bool = True) -> DetectionBackbone:
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def fuse(self, pad_to: int = 1) -> DetectionBackbone:
        """A copy for inference whose backbone is fused (see `SHViT.fuse`)."""
        assert isinstance(self.backbone, SHViT)
        with torch.device("meta"):
            fused = DetectionBackbone(self.config)
        fused.backbone = self.backbone.fuse(pad_to)
        fused.neck = FeaturePyramid(self.config.backbone.embed_dim, self.config.neck)
        fused.neck.load_state_dict(self.neck.state_dict())
        weight = next(self.parameters())
        fused.neck.to(weight.device, weight.dtype).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return fused.eval()
