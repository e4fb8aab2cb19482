"""An episode memory in a folder: the adapter as a LoRA file that diffusers reads, and what is needed to resume exactly."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionzoo.diffusion.lora_files import LAYER_METADATA, LoraLayer, peft_settings
from visionzoo.errors import InputError, WeightsError
from visionzoo.io.files import make_folder
from visionzoo.weights import read_checkpoint, read_metadata, save_safetensors

from .adapters import TempLoRA

__all__ = ["ADAPTER_FILE", "base_sample", "check_fits", "read_episode", "same_base", "write_episode"]

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
SETTINGS, FORMAT = "episode", 1
"""The key of the settings in the metadata of the adapter's file, and their version."""
_BASE = "base."


def write_episode(
    folder: str | Path, layers: Mapping[str, LoraLayer], settings: Mapping[str, Any], state: Mapping[str, Tensor]
) -> Path:
    """Write the adapter and `episode-….safetensors` with the state; an older episode in the folder is replaced at the last moment.

    Args:
        layers: layer of the network -> its update; empty if the episode has none.
        settings: JSON values.
        state: all other tensors.

    Raises:
        InputError: the folder cannot be created.
        VisionZooError: it cannot be written.
    """
    place = make_folder(folder)
    file = f"episode-{uuid.uuid4().hex[:12]}.safetensors"
    save_safetensors(state, place / file)
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = layer.down, layer.up
    metadata = {"format": "pt", SETTINGS: json.dumps({**settings, "format": FORMAT, "state": file})}
    if layers:
        metadata[LAYER_METADATA] = json.dumps(peft_settings(layers), sort_keys=True)
    save_safetensors(tensors, place / ADAPTER_FILE, metadata)  # from here on, the folder holds the new episode
    for old in place.glob("episode-*.safetensors"):
        if old.name != file:
            old.unlink(missing_ok=True)
    return place


def read_episode(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """The settings, the adapter's tensors ("LAYER.lora_A.weight", …) and the state that `write_episode` wrote.

    Raises:
        InputError: the folder holds no episode, one of another version, or a damaged one.
    """
    place = Path(folder)
    file = place / ADAPTER_FILE
    if not file.is_file():
        raise InputError(f"{place}: holds no episode memory ({ADAPTER_FILE} is missing); expected a folder of `save`")
    try:
        text = read_metadata(file).get(SETTINGS)
        if text is None:
            raise InputError(f"{file}: is a LoRA without an episode; load it with visionzoo.diffusion.load_lora")
        settings = json.loads(text)
        if settings.get("format") != FORMAT:
            raise InputError(f"{file}: has format {settings.get('format')}; this version of visionzoo reads {FORMAT}")
        name = str(settings["state"])
        if Path(name).name != name:
            raise InputError(f"{file}: names a file outside its folder; save the episode again")
        return settings, read_checkpoint(file), read_checkpoint(place / name)
    except (WeightsError, ValueError, KeyError) as error:
        if isinstance(error, InputError) and not isinstance(error, WeightsError):
            raise
        raise InputError(f"{place}: the episode memory is damaged ({error})") from error


def base_sample(unet: nn.Module, values: int = 8) -> dict[str, Tensor]:
    """A few values of each weight of a network, without adapters, to recognise it: "base.NAME" -> 1-D."""
    with torch.no_grad():
        state = {name: value for name, value in unet.state_dict().items() if value.is_floating_point()}
        flat = {name: value.detach().reshape(-1) for name, value in state.items()}
        return {
            f"{_BASE}{name}": value[:: max(1, len(value) // values)][:values].cpu().clone()
            for name, value in flat.items()
        }


def same_base(saved: Mapping[str, Tensor], unet: nn.Module) -> str:
    """Why a network is not the one of a `base_sample`, in a few words; empty if it is, in whatever precision."""
    old = {name: value for name, value in saved.items() if name.startswith(_BASE)}
    new = base_sample(unet)
    if old.keys() != new.keys() or any(old[name].shape != new[name].shape for name in old):
        return f"it has {len(old)} weights, this one {len(new)}" if len(old) != len(new) else "its layers are others"
    different = 0
    for name, value in old.items():
        narrow = min(value.dtype, new[name].dtype, key=lambda dtype: dtype.itemsize)
        different += not torch.equal(value.to(narrow), new[name].to(narrow))
    return f"{different} of its {len(old)} weights have other values" if different else ""


def check_fits(
    folder: str | Path,
    settings: Mapping[str, Any],
    adapter: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    unet: nn.Module,
    config: TempLoRA,
) -> None:
    """Raise `InputError` with the reason if what `read_episode` returned is not for this network and these settings."""
    saved = TempLoRA(**settings["config"])
    if reason := same_base(state, unet):
        raise InputError(f"{folder}: this memory was learned on another base model ({reason}); use it with that one")
    for what, theirs, ours in (
        ("targets", saved.targets, config.targets),
        ("rank", saved.rank, config.rank),
        ("alpha / rank", saved.scale, config.scale),
        ("learning", saved.variant != "off", config.variant != "off"),
    ):
        if theirs != ours and adapter:
            raise InputError(
                f"{folder}: this memory has {what} {theirs}, the pipeline's has {ours}; open it with that TempLoRA"
            )
