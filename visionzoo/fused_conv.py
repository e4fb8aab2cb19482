"""Fuse convolutions with their activations into one kernel on the CPU, which saves a pass over memory for each pair.

It uses the operator that torch's compiler emits (oneDNN's post-ops), for images of any size and without compiling. On other devices,
and if gradients are needed, convolution and activation run separately with the same results.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_POST_OPS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
}
"""Activation -> the operator's name for it, with its arguments."""


class SameConv2d(nn.Conv2d):
    """A convolution of stride 2 with TensorFlow's "same" padding: on an even side, one pixel less before than after.

    Instead of the input, the kernel is padded with a leading row or column of zeros: exact, and three times as fast.

    Args:
        kernel_size: odd.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, groups: int = 1, bias: bool = True):
        super().__init__(in_channels, out_channels, kernel_size, 2, kernel_size // 2, groups=groups, bias=bias)

    def kernel(self, x: Tensor) -> Tensor:
        """The weights for inputs of the size of `x`, for the symmetric padding `self.padding`."""
        return F.pad(self.weight, (1 - x.shape[-1] % 2, 0, 1 - x.shape[-2] % 2, 0))

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # sizes are symbolic there, but a kernel's size is fixed
            pads = [(self.kernel_size[0] - 2 + side % 2) for side in (input.shape[-1], input.shape[-2])]
            padded = F.pad(input, [part for total in pads for part in (total // 2, total - total // 2)])
            return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
        return self._conv_forward(input, self.kernel(input), self.bias)


class FusedConv2d(nn.Module):
    """activation(conv(x)), x (B, C, H, W).

    Args:
        conv: a convolution with zero padding, or a `SameConv2d`.
        activation: None, or one of `nn.ReLU`, `nn.ReLU6`, `nn.SiLU`.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None):
        super().__init__()
        self.conv, self.activation = conv, activation
        self._packed: tuple[tuple[int, int], Tensor] | None = None
        self.post_op = ("none", []) if activation is None else _POST_OPS[type(activation)]

    @staticmethod
    def takes(conv: nn.Module, activation: nn.Module | None) -> bool:
        """Whether the two can be fused."""
        plain = (
            type(conv) in (nn.Conv2d, SameConv2d) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
        )
        return plain and (activation is None or type(activation) in _POST_OPS)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        if not _usable(x):
            out = conv(x)
            return out if self.activation is None else self.activation(out)
        return torch.ops.mkldnn._convolution_pointwise(
            x, self._weight(x), conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups, *self.post_op, ""
        )

    def _weight(self, x: Tensor) -> Tensor:
        """The kernel for `x`; in bfloat16 it is packed once in the layout of oneDNN's kernels, not at every call."""
        conv = self.conv
        if isinstance(conv, SameConv2d):
            return conv.kernel(x)
        if x.dtype != torch.bfloat16:  # in float32, the layout chosen without an input can be slow
            return conv.weight
        state = (conv.weight.data_ptr(), 0 if conv.weight.is_inference() else conv.weight._version)
        if self._packed is None or self._packed[0] != state:
            order = torch.ops.mkldnn._reorder_convolution_weight
            packed = order(conv.weight, conv.padding, conv.stride, conv.dilation, conv.groups, list(x.shape))
            self._packed = state, packed
        return self._packed[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # packed weights can be neither copied nor pickled


def _usable(x: Tensor) -> bool:
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.no_grad()
def fuse_convolutions(network: nn.Module, example: Tensor, *, tolerance: float = 1e-3) -> nn.Module:
    """Replace every convolution and its activation by a `FusedConv2d`, in place, and return `network`.

    Pairs are found by running `example` and recording which activation reads the output of a convolution.

    Args:
        network: network in eval mode and float32 with folded batch norms (`folding.fold_batchnorm`); it must return a tensor.
        example: an example input.
        tolerance: maximum relative change of the output that counts as rounding.

    Raises:
        ValueError: the network is in training mode, or its output changed (a convolution's output is also used elsewhere).
    """
    if network.training:
        raise ValueError("convolutions are fused in eval mode only; call .eval() first")
    before, pairs = _trace_pairs(network, example)
    names = {id(module): name for name, module in network.named_modules()}
    for conv, activation in pairs:
        _replace(network, names[id(conv)], FusedConv2d(conv, activation))
        if activation is not None:
            _replace(network, names[id(activation)], nn.Identity())
    change = (network(example) - before).norm() / before.norm().clamp_min(1e-12)
    if change > tolerance:
        raise ValueError(f"fusing changed the output by {change:.1e}; a convolution's output is used twice")
    return network


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)


def _trace_pairs(network: nn.Module, example: Tensor) -> tuple[Tensor, list[tuple[nn.Conv2d, nn.Module | None]]]:
    written: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}
    readers: dict[int, nn.Module] = {}
    calls: dict[int, int] = {}
    convs: list[nn.Conv2d] = []

    def on_conv(module: nn.Module, _: tuple, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        # holding the tensor prevents reuse of its id; its version shows whether it was changed in place, e.g. by a shortcut's sum
        written[id(output)] = (module, output, output._version)
        convs.append(module)

    def on_activation(module: nn.Module, inputs: tuple) -> None:
        calls[id(module)] = calls.get(id(module), 0) + 1
        hit = written.get(id(inputs[0]))
        if hit is not None and hit[2] == inputs[0]._version:
            readers[id(hit[0])] = module

    modules = list(network.modules())
    hooks = [m.register_forward_hook(on_conv) for m in modules if FusedConv2d.takes(m, None)]
    hooks += [m.register_forward_pre_hook(on_activation) for m in modules if type(m) in _POST_OPS]
    try:
        out = network(example)
    finally:
        for hook in hooks:
            hook.remove()
    once = [conv for conv in convs if convs.count(conv) == 1]  # a shared convolution would need several replacements
    found = ((conv, readers.get(id(conv))) for conv in once)
    return out, [(c, a if a is not None and calls[id(a)] == 1 else None) for c, a in found]
