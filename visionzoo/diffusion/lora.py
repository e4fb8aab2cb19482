"""LoRA in pipelines: load, scale, list, save and unload, for networks of diffusers and CLIP text encoders.

Updates stay separate from the weights, so that unloading restores the network exactly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError, check_kind, require, unknown
from .lora_files import LoraLayer, peft_settings, read_lora, write_lora

__all__ = ["inject_lora", "list_loras", "load_lora", "save_lora", "scale_loras", "unload_lora"]

_LEVEL = "text_model."
"""Level of the names of CLIP text encoders that transformers 5 has removed."""
_KOHYA = {
    "lora_unet_": "unet",
    "lora_transformer_": "transformer",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}


def load_lora(pipe: Any, path: str | Path, name: str | None = None, *, scale: float = 1.0, strict: bool = True) -> str:
    """Load a LoRA into the networks of a pipeline, beside those that are loaded; return its name.

    Args:
        pipe: a pipeline of diffusers.
        path: a file or folder in any format of `visionzoo.diffusion.lora_files.read_lora`.
        name: how to call it; by default the name of the file or folder.
        scale: strength; 1 as it was trained.
        strict: raise an error if some layers are not in the pipeline; otherwise they are left out.

    Raises:
        InputError: the name is taken, or layers are not in the pipeline or have another shape (a LoRA for another base model).
        WeightsError: see `read_lora`.
        MissingDependencyError: peft is not installed.
    """
    require("peft", extra="diffusion", purpose="LoRA")
    active = list_loras(pipe)
    name = re.sub(r"\W", "_", Path(path).stem) if name is None else name
    if name in active:
        raise InputError(f"a LoRA {name!r} is loaded already; choose another name, or unload it")
    _check_scale(scale)
    layers = read_lora(path)
    parts = _placed(pipe, path, layers, strict)
    for part, inside in parts.items():
        layers_of = inject_lora(getattr(pipe, part), name, inside, **peft_settings(inside))
        with torch.no_grad():
            for key, wrapped in layers_of.items():
                _set_weights(wrapped, name, inside[key])
    scale_loras(pipe, {**active, name: scale})
    return name


def inject_lora(network: nn.Module, name: str, layers: Iterable[str], **settings: Any) -> dict[str, Any]:
    """Add a new low-rank update to layers of a network of diffusers; it is active, and no flag `requires_grad` changes.

    Args:
        name: of the update; not the name of another one.
        layers: full names of the layers.
        **settings: arguments of PEFT's `LoraConfig`: r, lora_alpha, ….

    Returns:
        name of each layer -> PEFT's layer around it, with `lora_A[name]` and `lora_B[name]`, which are frozen.

    Raises:
        MissingDependencyError: peft is not installed.
    """
    peft = require("peft", extra="diffusion", purpose="LoRA")
    one: Any = network
    # as the network names them now: other updates add a level
    trainable = {key.replace(".base_layer.", "."): value.requires_grad for key, value in network.named_parameters()}
    settings["target_modules"] = "|".join(map(re.escape, layers))
    peft.inject_adapter_in_model(peft.LoraConfig(**settings), network, adapter_name=name)
    for key, value in network.named_parameters():  # PEFT freezes the network and trains the adapter
        value.requires_grad_(trainable.get(key.replace(".base_layer.", "."), False))
    one._hf_peft_config_loaded = True
    return dict(_wrapped(network, name))


def _set_weights(wrapped: Any, name: str, layer: LoraLayer) -> None:
    """Give a wrapped layer its update; old versions of PEFT do not find the rank and alpha of some layers in the patterns."""
    base = wrapped.get_base_layer().weight
    for side, matrix in ((wrapped.lora_A, layer.down), (wrapped.lora_B, layer.up)):
        side[name].weight = nn.Parameter(matrix.to(base.device, side[name].weight.dtype), requires_grad=False)
    wrapped.r[name], wrapped.lora_alpha[name] = layer.rank, layer.alpha


def _placed(pipe: Any, path: Any, layers: Mapping[str, LoraLayer], strict: bool) -> dict[str, dict[str, LoraLayer]]:
    """Part -> layer as the network names it -> update. Raises `InputError` for layers that do not fit."""
    networks = {part: network for part, network in pipe.components.items() if isinstance(network, nn.Module)}
    known = {part: _names(network) for part, network in networks.items()}
    parts: dict[str, dict[str, LoraLayer]] = {}
    lost = []
    for name, layer in layers.items():
        part, inner = _split(name, known)
        if part is None:
            lost.append(name)
            continue
        own = known[part][inner]
        module: Any = networks[part].get_submodule(own)
        base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
        parts.setdefault(part, {})[own] = _shaped(path, f"{part}.{own}", layer, base)
    if lost and (strict or not parts):
        count = "none" if len(lost) == len(layers) else f"{len(lost)}"
        verb = "is" if count in ("none", "1") else "are"
        missing = (
            f"none of its {len(layers)} layers is"
            if count == "none"
            else f"{count} of its {len(layers)} layers {verb} not"
        )
        raise InputError(f"{path}: {missing} in this pipeline, e.g. {lost[0]}; is it for another base model?")
    return parts


def _names(network: nn.Module) -> dict[str, str]:
    """All names that files use for the layers of a network -> its own."""
    found: dict[str, str] = {}
    for name, module in network.named_modules():
        if (
            ".base_layer" in name
            or ".lora_" in name
            or (not isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)) and not hasattr(module, "base_layer"))
        ):
            continue
        for other in (name, _LEVEL + name, name.removeprefix(_LEVEL)):
            found.setdefault(other, name)
            found.setdefault(other.replace(".", "_"), name)
    return found


def _split(name: str, known: Mapping[str, Mapping[str, str]]) -> tuple[str | None, str]:
    """The part that a name in a file belongs to, and the rest of the name; None if there is no such layer."""
    for prefix, part in _KOHYA.items():
        inner = name.removeprefix(prefix)
        if name.startswith(prefix) and inner in known.get(part, ()):
            return part, inner
    part, _, inner = name.partition(".")
    if inner in known.get(part, ()):
        return part, inner
    main = next((part for part in ("unet", "transformer") if part in known), "")
    return (main, name) if name in known.get(main, ()) else (None, name)


def _shaped(path: Any, name: str, layer: LoraLayer, base: nn.Module) -> LoraLayer:
    """The update in the shape of its layer. Raises `InputError` if it is for a layer of another size."""
    down, up = layer.down, layer.up
    if isinstance(base, nn.Linear) and down.ndim > 2 and down[0, 0].numel() == 1:  # stored as convolutions of 1 x 1
        down, up = down.flatten(1), up.flatten(1)
    weight: Any = base.weight
    fits = (down.shape[1:], up.shape[0], up.shape[1]) == (weight.shape[1:], weight.shape[0], down.shape[0])
    if not fits:
        have = f"{up.shape[0]} x {' x '.join(map(str, down.shape[1:]))}"
        raise InputError(
            f"{path}: {name} is for a layer of {have}, expected {' x '.join(map(str, weight.shape))}; is it for another base model?"
        )
    return LoraLayer(down, up, layer.alpha)


def _wrapped(network: nn.Module, name: str | None = None) -> Iterator[tuple[str, Any]]:
    """Layers of a network with a LoRA (of that name), and their names."""
    for key, module in network.named_modules():
        layer: Any = module
        if hasattr(layer, "lora_A") and hasattr(layer, "base_layer") and (name is None or name in layer.lora_A):
            yield key, layer


def _networks(pipe: Any) -> dict[str, nn.Module]:
    """Parts of a pipeline that have a LoRA."""
    check_kind("the pipeline", pipe, "a pipeline of diffusers", "components")
    return {
        part: one
        for part, one in pipe.components.items()
        if isinstance(one, nn.Module) and getattr(one, "peft_config", None)
    }


def list_loras(pipe: Any) -> dict[str, float]:
    """The LoRAs of a pipeline -> their scale, 0 if switched off."""
    found: dict[str, float] = {}
    for network in _networks(pipe).values():
        for _, module in _wrapped(network):
            for name in module.lora_A:
                on = name in module.active_adapters and not module.disable_adapters
                full = _full(module, name)
                found.setdefault(name, float(module.scaling[name] / full) if on and full else 0.0)
    return found


def _full(module: Any, name: str) -> float:
    """The scaling of a layer at scale 1."""
    return module.lora_alpha[name] / module.r[name]


def _check_scale(scale: float) -> None:
    if not math.isfinite(scale):
        raise InputError(f"the strength of a LoRA must be a finite number, got {scale}")


def scale_loras(pipe: Any, scales: Mapping[str, float]) -> None:
    """Set the strength of each LoRA: 1 as it was trained, 0 off; those that are not named are switched off.

    Raises:
        InputError: a name that is not loaded, or a strength that is NaN or infinite.
    """
    loaded = list_loras(pipe)
    check_kind("scales", scales, "a dictionary of names and strengths", "items")
    for name, scale in scales.items():
        if name not in loaded:
            raise unknown("LoRA", name, loaded)
        _check_scale(scale)
    for network in _networks(pipe).values():
        for _, module in _wrapped(network):
            names = [name for name in module.lora_A if scales.get(name)]
            trainable = {key: value.requires_grad for key, value in module.named_parameters()}
            module.set_adapter(names)
            for key, value in module.named_parameters():
                value.requires_grad_(trainable[key])
            for name in names:
                module.scaling[name] = scales[name] * _full(module, name)


def unload_lora(pipe: Any, name: str | None = None) -> None:
    """Remove a LoRA, or all of them; without any, the networks are exactly as before.

    Raises:
        InputError: the name is not loaded.
    """
    scales = list_loras(pipe)
    if name is not None and name not in scales:
        raise unknown("LoRA", name, scales)
    gone = list(scales) if name is None else [name]
    for network in _networks(pipe).values():
        this: Any = network
        for key, module in list(_wrapped(network)):
            for one in gone:
                if one in module.lora_A:
                    module.delete_adapter(one)
            if not len(module.lora_A):
                parent, _, last = key.rpartition(".")
                setattr(network.get_submodule(parent), last, module.base_layer)
        this.peft_config = {one: config for one, config in this.peft_config.items() if one not in gone}
        if not this.peft_config:
            del this.peft_config
            this._hf_peft_config_loaded = False
    scale_loras(pipe, {one: scale for one, scale in scales.items() if one not in gone})


def save_lora(pipe: Any, path: str | Path, name: str | None = None) -> Path:
    """Write a LoRA of a pipeline as the file that diffusers reads, with the alpha of every layer; return the file.

    Args:
        path: a `.safetensors` file, or a folder for `pytorch_lora_weights.safetensors`.
        name: which one; None if only one is loaded.

    Raises:
        InputError: there is no such LoRA, or several and no name.
    """
    loaded = list_loras(pipe)
    if name is None and len(loaded) != 1:
        raise InputError(f"the pipeline has {len(loaded)} LoRAs ({', '.join(loaded) or 'none'}); name one to save")
    name = next(iter(loaded)) if name is None else name
    if name not in loaded:
        raise unknown("LoRA", name, loaded)
    parts: dict[str, dict[str, LoraLayer]] = {}
    for part, network in _networks(pipe).items():
        level = _LEVEL if part.startswith("text_encoder") and not hasattr(network, "text_model") else ""
        for key, module in _wrapped(network, name):
            layer = LoraLayer(module.lora_A[name].weight, module.lora_B[name].weight, float(module.lora_alpha[name]))
            parts.setdefault(part, {})[level + key] = layer
    return write_lora(parts, path)
