"""EfficientNet-Lite0 for inference: batch norms are folded into the convolutions, and activations run in the same kernels."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from visionzoo.folding import fold_batchnorm
from visionzoo.fused_conv import fuse_convolutions

if TYPE_CHECKING:
    from .model import EfficientNetLite


class FusedEfficientNetLite(nn.Module):
    """The outputs of `network` (relative error about 1e-6 in float32); maps are channels-last.

    Args:
        network: stays unchanged.
    """

    def __init__(self, network: EfficientNetLite):
        super().__init__()
        self.config, self.num_features = network.config, network.num_features
        weight = network.conv_stem.weight
        whole = copy.deepcopy(network).eval().requires_grad_(False).to("cpu", torch.float32)
        example = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
        fuse_convolutions(fold_batchnorm(whole, example), example)
        whole.to(weight.device, weight.dtype)
        self.network = whole.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Like `EfficientNetLite.forward_features`; `x` is converted to the network's precision."""
        return self.network.forward_features(x.to(self.dtype))

    def forward_head(self, pooled: Tensor) -> Tensor:
        return self.network.forward_head(pooled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x)[0])

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.network.parameters()).dtype


__all__ = ["FusedEfficientNetLite"]
