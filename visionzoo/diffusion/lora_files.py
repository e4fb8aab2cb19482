"""Reads and writes LoRA files in all common formats, as low-rank updates of named layers, each with its own alpha.

Formats: diffusers' `pytorch_lora_weights.safetensors` (new and old names), kohya's and A1111's single file, PEFT's folder, and
the file of one network's `save_lora_adapter`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError, WeightsError
from ..io.files import make_folder
from ..weights import find_state_dict, read_checkpoint, read_metadata, save_safetensors

__all__ = ["LAYER_METADATA", "LoraLayer", "read_lora", "write_lora"]

LAYER_METADATA = "lora_adapter_metadata"
_FILES = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
)
_DOWN = re.compile(r"\.(lora_A|lora_down|lora\.down|lora_linear_layer\.down)(\.default)?\.weight$")
_UP = re.compile(r"\.(lora_B|lora_up|lora\.up|lora_linear_layer\.up)(\.default)?\.weight$")
_PROCESSOR = re.compile(r"\.processor\.(to_q|to_k|to_v|to_out)_lora\.")
_OTHERS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "LoCon with a Tucker decomposition",
    "dora_scale": "DoRA",
    "lora_magnitude": "DoRA",
}


@dataclass(frozen=True)
class LoraLayer:
    """A low-rank update of a layer: the weight changes by alpha / rank * up @ down.

    Attributes:
        down: (rank, in) of a linear layer, (rank, in, k, k) of a convolution.
        up: (out, rank) or (out, rank, 1, 1).
        alpha: numerator of the scale.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def read_lora(path: str | Path) -> dict[str, LoraLayer]:
    """Read a LoRA: the name of each layer as in the file, without the ending, -> its update.

    Names begin with the part, "unet.…", "text_encoder.…", or as in kohya's files "lora_unet_…", "lora_te_…"; those of a single
    network have no such beginning. Alpha comes from the file's own entries, else from its metadata or `adapter_config.json`,
    else it is the rank.

    Raises:
        WeightsError: the file is missing, damaged, holds no LoRA, one of another kind (LoHa, LoKr, DoRA), or NaN.
    """
    file = _file_of(Path(path))
    state = find_state_dict(read_checkpoint(file), str(file))
    for mark, kind in _OTHERS.items():
        if any(mark in key for key in state):
            raise WeightsError(f"{file}: is a {kind}, which is not supported; expected a plain LoRA")
    renamed = {
        _PROCESSOR.sub(r".\1.lora.", key).removeprefix("base_model.model."): value for key, value in state.items()
    }
    renamed = {re.sub(r"\.to_out\.lora\.", ".to_out.0.lora.", key): value for key, value in renamed.items()}
    downs = {key[: match.start()]: value for key, value in renamed.items() if (match := _DOWN.search(key))}
    ups = {key[: match.start()]: value for key, value in renamed.items() if (match := _UP.search(key))}
    if not downs or downs.keys() != ups.keys():
        odd = sorted(downs.keys() ^ ups.keys())
        problem = (
            f"{odd[0]} has one of its two matrices only"
            if odd
            else "it has no layers with lora_A, lora_down or lora.down"
        )
        raise WeightsError(f"{file}: is not a LoRA, or damaged ({problem})")
    alphas = {key.removesuffix(".alpha"): float(value) for key, value in renamed.items() if key.endswith(".alpha")}
    settings = _settings(file)
    for name, value in (*downs.items(), *ups.items()):
        if not value.isfinite().all() or not math.isfinite(alphas.get(name, 0.0)):
            raise WeightsError(f"{file}: {name} has values that are NaN or infinite; the file is damaged")
    return {
        name: LoraLayer(down, ups[name], alphas.get(name, _alpha_of(name, settings, down.shape[0])))
        for name, down in downs.items()
    }


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = [path / name for name in _FILES if (path / name).is_file()] or sorted(path.glob("*.safetensors"))
    if not found:
        raise WeightsError(f"{path}: holds no LoRA; expected {_FILES[0]}, or {_FILES[1]} with adapter_config.json")
    if len(found) > 1 and found[0].name not in _FILES:
        raise WeightsError(
            f"{path}: holds several files ({', '.join(file.name for file in found[:3])}); name one of them"
        )
    return found[0]


def _settings(file: Path) -> dict[str, Any]:
    """Settings of PEFT that a file states, with the part in front of each name if it has several."""
    config = file.with_name("adapter_config.json")
    try:
        if file.name.startswith("adapter_model") and config.is_file():
            return json.loads(config.read_text(encoding="utf-8"))
        return json.loads(read_metadata(file).get(LAYER_METADATA, "{}")) if file.suffix == ".safetensors" else {}
    except ValueError as error:
        raise WeightsError(f"{file}: its settings of the LoRA are damaged ({error})") from error


def _alpha_of(name: str, settings: Mapping[str, Any], rank: int) -> float:
    """Alpha of a layer by the settings of its part; patterns match the end of a name, the first one wins, as in PEFT."""
    part, _, rest = name.partition(".")
    prefix = f"{part}." if any(key.startswith(f"{part}.") for key in settings) else ""
    inner = rest if prefix else name
    for pattern, alpha in (settings.get(f"{prefix}alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", inner):
            return float(alpha)
    alpha = float(settings.get(f"{prefix}lora_alpha", rank))
    # PEFT's rank-stabilised form divides by the root of the rank
    return alpha * rank**0.5 if settings.get(f"{prefix}use_rslora") else alpha


def write_lora(parts: Mapping[str, Mapping[str, LoraLayer]], path: str | Path) -> Path:
    """Write a LoRA as diffusers' file, with the settings of every part, so that no alpha is lost; return the file.

    Args:
        parts: part, e.g. "unet" -> layer -> its update.
        path: a `.safetensors` file, or a folder for `pytorch_lora_weights.safetensors`.

    Raises:
        InputError: there are no layers, or the folder cannot be created.
    """
    if not any(parts.values()):
        raise InputError(f"{path}: there is no LoRA to save")
    file = Path(path) if Path(path).suffix == ".safetensors" else make_folder(path) / _FILES[0]
    state: dict[str, Tensor] = {}
    settings: dict[str, Any] = {}
    for part, layers in parts.items():
        for name, layer in layers.items():
            state[f"{part}.{name}.lora_A.weight"], state[f"{part}.{name}.lora_B.weight"] = layer.down, layer.up
        settings |= {f"{part}.{key}": value for key, value in peft_settings(layers).items()}
    save_safetensors(state, file, {"format": "pt", LAYER_METADATA: json.dumps(settings, sort_keys=True)})
    return file


def peft_settings(layers: Mapping[str, LoraLayer]) -> dict[str, Any]:
    """Arguments of PEFT's `LoraConfig` for layers with their own ranks and alphas.

    A pattern of PEFT also matches longer names that end in it, and the first match wins: so they name every layer, long names first.
    """
    ordered = dict(sorted(layers.items(), key=lambda item: (-len(item[0]), item[0])))
    ranks = {name: layer.rank for name, layer in ordered.items()}
    alphas = {name: layer.alpha for name, layer in ordered.items()}
    first = next(iter(layers.values()))
    return {
        "r": first.rank,
        "lora_alpha": first.alpha,
        "rank_pattern": ranks if len(set(ranks.values())) > 1 else {},
        "alpha_pattern": alphas if len(set(alphas.values())) > 1 else {},
        "target_modules": sorted(layers),
    }
