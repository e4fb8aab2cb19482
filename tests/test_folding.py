"""Folding batch norms changes nothing but the number of passes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visionzoo.folding import fold_batchnorm


def settle(network: nn.Module) -> nn.Module:
    """Set norms as after training, so that none is the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return network.eval()


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0", "mobilenetv3_small_050", "regnetx_002"])
def test_timm_networks(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = settle(timm.create_model(name, num_classes=7))
    x = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        before = network(x)
        fold_batchnorm(network, torch.rand(1, 3, 64, 64))
        after = network(x)
    assert not [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert (after - before).norm() / before.norm() < 1e-4


def test_refuses_training_mode() -> None:
    with pytest.raises(ValueError, match="eval"):
        fold_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), torch.rand(1, 3, 8, 8))


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y + self.norm(y)


def test_a_convolution_with_two_readers_is_not_fused() -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="used twice"):
        fold_batchnorm(settle(ReadTwice()), torch.rand(1, 3, 8, 8))


def test_norms_without_a_convolution_stay() -> None:
    network = settle(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)))
    fold_batchnorm(network, torch.rand(1, 3, 8, 8))
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 2
