"""Counts the memory of calls on the meta device, where nothing is computed: the bytes of the tensors that are alive at once, as torch
frees them. The working memory of kernels, the fragments of the allocator and CUDA itself are not counted."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive while functions run, except `known` ones.

    Attributes:
        peak: the largest sum so far.
    """

    def __init__(self, known: Sequence[Tensor] = ()):
        super().__init__()
        self.peak = self.held = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()
        for tensor in known:
            self._seen.add(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(each, Tensor) and (storage := each.untyped_storage()) not in self._seen:
                self._seen.add(storage)
                self.held += storage.nbytes()
                self.peak = max(self.peak, self.held)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return out

    def _freed(self, size: int) -> None:
        self.held -= size


class FusedAttention(torch.autograd.Function):
    """Keeps what fused kernels keep: queries, keys, values and output. On the meta device, torch would make a table of scores."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@contextmanager
def fused_attention() -> Iterator[None]:
    """Inside the block, `scaled_dot_product_attention` is `FusedAttention`, also where a backward pass runs a network again."""

    def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        return FusedAttention.apply(query, key, value)

    with mock.patch.object(F, "scaled_dot_product_attention", attend):
        yield


def peak_bytes(run: Callable[[], Any], *networks: nn.Module, gradients: bool = False) -> int:
    """Bytes that a call takes at once beyond the weights of the networks.

    Args:
        gradients: `run` may compute gradients; those of weights count.
    """
    weights = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    # a backward pass in another thread would not be seen
    with torch.autograd.set_multithreading_enabled(False), torch.set_grad_enabled(gradients):
        with fused_attention(), Alive(weights) as counted:
            result = run()
        del result
    return counted.peak
