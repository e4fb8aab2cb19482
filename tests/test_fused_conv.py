"""Convolutions fused with their activations give the numbers of the pair, for every size and padding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visionzoo.fused_conv import FusedConv2d, SameConv2d, fuse_convolutions


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 8), (8, 11), (7, 9)])
def test_same_padding_is_tensorflows(kernel: int, height: int, width: int) -> None:
    conv = SameConv2d(4, 4, kernel, groups=4)
    x = torch.randn(2, 4, height, width, generator=torch.Generator().manual_seed(0))
    pads = []
    for side in (width, height):
        total = max((-(-side // 2) - 1) * 2 + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    wanted = F.conv2d(F.pad(x, pads), conv.weight, conv.bias, 2, groups=4)
    assert torch.allclose(conv(x), wanted, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(FusedConv2d(conv, nn.ReLU6())(x), wanted.clamp(0, 6), atol=1e-6)


class Net(nn.Module):
    """Pairs of every kind: an activation that reads a convolution, one that reads a sum, a convolution without any."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = SameConv2d(3, 8, 3), nn.ReLU6()
        self.deep, self.silu = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.SiLU()
        self.out, self.last = nn.Conv2d(8, 8, 1), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.first(x))
        return self.last(x + self.out(self.silu(self.deep(x))))


def test_a_network_computes_the_same_fused_copied_and_with_gradients() -> None:
    torch.manual_seed(0)
    net = Net().eval()
    x = torch.randn(2, 3, 33, 20)
    with torch.no_grad():
        wanted = net(x)
    fused = fuse_convolutions(copy.deepcopy(net), x)
    assert sum(isinstance(module, FusedConv2d) for module in fused.modules()) == 3
    assert isinstance(fused.last, nn.ReLU)  # an activation that reads a sum stays
    with torch.no_grad():
        assert torch.allclose(fused(x), wanted, atol=1e-5)
        half = fused.to(torch.bfloat16)(x.bfloat16()).float()
        assert (half - wanted).norm() < 2e-2 * wanted.norm()
        assert torch.equal(copy.deepcopy(fused)(x.bfloat16()).float(), half)  # after it has run once
        fused.load_state_dict({key: value * 0 for key, value in fused.state_dict().items()})
        assert not fused(x.bfloat16()).any()  # new weights are used although the old ones were prepared
    assert fused.float()(x.requires_grad_()).requires_grad


def test_two_readers_of_one_convolution_are_detected() -> None:
    class Twice(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raw = self.first(x)
            return raw + self.act(raw)

    with pytest.raises(ValueError, match="used twice"):
        fuse_convolutions(Twice().eval(), torch.randn(1, 3, 16, 16))


class Shortcut(nn.Module):
    """Like timm's residual blocks: the sum overwrites the convolution's output, which the activation then reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv(x)
        out += x
        return self.act(out)


def test_a_sum_in_place_is_not_skipped() -> None:
    network, x = Shortcut().eval(), torch.randn(1, 3, 16, 16)
    want = network(x)
    torch.testing.assert_close(fuse_convolutions(network, x)(x), want, rtol=1e-4, atol=1e-5)
