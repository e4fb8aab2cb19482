"""Checked backward passes for memories in weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, VisionZooError

__all__ = ["NotFiniteError", "backward", "takes_step"]


class NotFiniteError(VisionZooError):
    """The loss or the gradient of a write is NaN or infinite."""


def backward(value: Tensor, parameters: list[nn.Parameter], step: int, max_norm: float | None = None) -> float:
    """Check a loss, compute the gradients of the parameters, clip their norm, and return the loss.

    Raises:
        InputError: the loss is not a scalar, or does not depend on the parameters.
        NotFiniteError: the loss or the gradient is not finite.
    """
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"the loss is {shape}, expected a tensor with one value")
    if not value.requires_grad:
        raise InputError("the loss does not depend on the memory: is it detached, or the adapter switched off?")
    number = value.item()
    if not torch.isfinite(value):
        raise NotFiniteError(
            f"the loss of step {step} is {number}; nothing was written. Lower the learning rate, or fix the input"
        )
    value.reshape(()).backward()
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        raise InputError("the loss does not depend on the memory: is the adapter switched off?")
    norm = nn.utils.get_total_norm(gradients)
    if not torch.isfinite(norm):
        raise NotFiniteError(f"the gradient of step {step} is not finite; nothing was written")
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return number


def takes_step(loss: Callable[..., Any]) -> bool:
    """Whether a loss takes the index of the step as an argument."""
    try:
        parameters = inspect.signature(loss).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)
