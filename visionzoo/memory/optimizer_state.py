"""Converts the state of an optimizer to plain settings and named tensors, for JSON and safetensors, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import InputError

__all__ = ["copied", "pack", "state_is_elsewhere", "unpack"]


def copied(state: Any) -> Any:
    """A deep copy of an optimizer's `state_dict()`; much faster than `copy.deepcopy` for many small tensors."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, list):
        return [copied(value) for value in state]
    return copy.deepcopy(state)


def pack(optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and numbers for JSON, and copies of the tensors named INDEX.KEY (INDEX is that of the parameter)."""
    state = optimizer.state_dict()
    numbers = {
        str(i): {key: value for key, value in values.items() if not isinstance(value, Tensor)}
        for i, values in state["state"].items()
    }
    groups = [{key: _plain(value) for key, value in group.items()} for group in state["param_groups"]]
    tensors = {
        f"{i}.{key}": value.clone()
        for i, values in state["state"].items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }
    return {"class": type(optimizer).__name__, "groups": groups, "numbers": numbers}, tensors


def unpack(
    make: Callable[[list[nn.Parameter]], Optimizer],
    parameters: list[nn.Parameter],
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> Optimizer:
    """Rebuild the optimizer that `pack` saved, over the same parameters in the same order.

    Raises:
        InputError: `make` returns another kind of optimizer, or other groups of parameters.
    """
    optimizer = make(parameters)
    if type(optimizer).__name__ != config["class"]:
        raise InputError(
            f"the memory was written with {config['class']}, this bank makes {type(optimizer).__name__}; "
            "give the same optimizer=…"
        )
    groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in groups] != [group["params"] for group in config["groups"]]:
        raise InputError("the memory was written with other groups of parameters; give the same optimizer=…")
    for group, saved in zip(groups, config["groups"], strict=True):
        # JSON has no tuples; settings that JSON cannot hold at all come from `make`
        group.update({key: tuple(v) if isinstance(group.get(key), tuple) else v for key, v in saved.items()})
    state: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in config["numbers"].items()}
    for place, value in tensors.items():
        index, _, key = place.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return optimizer


def state_is_elsewhere(optimizer: Optimizer, parameter: nn.Parameter) -> bool:
    """Whether optimizer state of the parameter is on another device (its step count may stay on the CPU)."""
    state = optimizer.state.get(parameter, {})
    return any(isinstance(v, Tensor) and v.ndim > 0 and v.device != parameter.device for v in state.values())


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
