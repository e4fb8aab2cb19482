"""Fold batch norms into the preceding convolutions: fewer passes over memory at inference, with the same result."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@torch.no_grad()
def fold_batchnorm(network: nn.Module, example: Tensor, *, tolerance: float = 1e-3) -> nn.Module:
    """Fold every batch norm that follows a convolution, in place, and return `network`.

    Pairs are found by running `example` and recording which norm reads the output of a convolution, so that names and block types
    do not matter. An activation inside the norm (timm's `BatchNormAct2d`) is kept.

    Args:
        network: network in eval mode and float32; it must return a tensor.
        example: an input, e.g. (1, 3, 96, 96).
        tolerance: maximum relative change of the output that counts as rounding.

    Raises:
        ValueError: the network is in training mode, or its output changed by more than rounding (a convolution's output is
            also used elsewhere).
    """
    if network.training:
        raise ValueError("batch norms are folded in eval mode only; call .eval() first")
    before, pairs = _trace_pairs(network, example)
    for conv, norm in pairs:
        _fold_pair(conv, norm)
    names = {id(module): name for name, module in network.named_modules()}
    for _, norm in pairs:
        parent, _, leaf = names[id(norm)].rpartition(".")
        setattr(network.get_submodule(parent), leaf, _without_norm(norm))
    change = (network(example) - before).norm() / before.norm().clamp_min(1e-12)
    if change > tolerance:
        raise ValueError(f"folding changed the output by {change:.1e}; a convolution's output is used twice")
    return network


def _trace_pairs(network: nn.Module, example: Tensor) -> tuple[Tensor, list[tuple[nn.Conv2d, nn.BatchNorm2d]]]:
    written: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def on_conv(module: nn.Module, _: tuple, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        written[id(output)] = (module, output)  # holding the tensor keeps its id from being reused

    def on_norm(module: nn.Module, inputs: tuple) -> None:
        hit = written.get(id(inputs[0]))
        if hit and isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            pairs.append((hit[0], module))

    hooks = [m.register_forward_hook(on_conv) for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(on_norm) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    try:
        return network(example), pairs
    finally:
        for hook in hooks:
            hook.remove()


def _fold_pair(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    conv.requires_grad_(False)


def _without_norm(norm: nn.BatchNorm2d) -> nn.Module:
    """The part of a norm after normalisation: nothing, or timm's drop and activation."""
    rest = [getattr(norm, name) for name in ("drop", "act") if isinstance(getattr(norm, name, None), nn.Module)]
    rest = [module for module in rest if not isinstance(module, nn.Identity)]
    return nn.Sequential(*rest) if rest else nn.Identity()
