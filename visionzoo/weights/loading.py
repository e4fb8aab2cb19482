"""Load checkpoints with published or our own key names into networks, and report what does not fit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import InputError, WeightsError
from ..stored import facts_of, remember_stored
from .converters import converter_of
from .reading import StateDict, find_state_dict, read_checkpoint


def load_checkpoint(
    model: nn.Module,
    path_or_state_dict: str | PathLike[str] | Mapping[str, Any],
    strict: bool = True,
    *,
    unsafe: bool = False,
) -> nn.Module:
    """Load weights into `model` and return it. Published key names are detected and converted; our own are loaded directly.

    Published names need a converter for the model's class or a base class; see `register_converter`. A network with a method
    `resize_for(state_dict)` resizes its tables to the numbers of rows in the file. One with a method `load_folder(path)` also loads
    folders. The file's metadata are stored in
    `model.stored` (`visionzoo.stored.Stored`).

    Args:
        model: any network.
        path_or_state_dict: a checkpoint file, or a state dict (possibly nested under "state_dict", "model", …).
        strict: raise an error for missing and unexpected keys. Shapes must always match.
        unsafe: see `read_checkpoint`.

    Raises:
        WeightsError: the file is unreadable, or keys or shapes do not match (listed by prefix).
    """
    load_folder: Any = getattr(model, "load_folder", None)
    if load_folder is not None and not isinstance(path_or_state_dict, Mapping) and Path(path_or_state_dict).is_dir():
        load_folder(Path(path_or_state_dict))
        return model
    converter = converter_of(model)
    if isinstance(path_or_state_dict, Mapping):
        where, loaded = "the state dict", path_or_state_dict
    else:
        allowed = getattr(converter, "SAFE_CLASSES", ())
        where = str(path_or_state_dict)
        loaded = read_checkpoint(path_or_state_dict, unsafe=unsafe, safe_classes=allowed)
    join = getattr(converter, "join_parts", None)
    state = find_state_dict(loaded if join is None else join(loaded), where)
    own = _resized(model, state)
    if converter is not None and not _fits(own, state):
        state = converter.to_ours(state, model)
        own = _resized(model, state)
    problem = misfit(own, state, strict=strict)
    if problem:
        raise WeightsError(f"{where} does not fit {type(model).__name__}: {problem}")
    model.load_state_dict(state, strict=strict)
    if not isinstance(path_or_state_dict, Mapping):
        remember_stored(model, facts_of(path_or_state_dict))
    return model


def to_official(model: nn.Module) -> StateDict:
    """A model's state dict with the published key names. Raises `InputError` if its system has no such converter."""
    convert = getattr(converter_of(model), "to_official", None)
    if convert is None:
        raise InputError(f"{type(model).__name__} has no converter to published key names")
    return convert(model.state_dict())


def _resized(model: nn.Module, state: StateDict) -> StateDict:
    """The model's state dict, after resizing its growing tables to the rows of `state`."""
    resize = getattr(model, "resize_for", None)
    if resize is not None:
        resize(state)
    return model.state_dict()


def _fits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    return own.keys() == state.keys() and all(own[key].shape == state[key].shape for key in own)


def misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], *, strict: bool = True) -> str:
    """Why `state` does not load into a model with `own` keys, in one line; empty if it does."""
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} is {_shape(state[key])}, expected {_shape(own[key])}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    parts = []
    if missing and strict:
        parts.append(f"{len(missing)} of {len(own)} keys are missing ({_grouped(missing)})")
    if unexpected and strict:
        parts.append(f"{len(unexpected)} are unexpected ({_grouped(unexpected)})")
    if shapes:
        parts.append(f"{len(shapes)} have another shape ({'; '.join(shapes[:3])}{'; …' if len(shapes) > 3 else ''})")
    return ", ".join(parts)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _grouped(keys: list[str]) -> str:
    """ "layer1.* 24, fc.weight 1": keys by their first component, the largest groups first."""
    groups: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        groups[key.split(".")[0]].append(key)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    names = [members[0] if len(members) == 1 else f"{prefix}.* {len(members)}" for prefix, members in ordered]
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
