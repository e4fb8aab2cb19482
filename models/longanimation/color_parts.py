"""Folders with the parts of LongAnimation for training: opened, and written in diffusers' layout."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from visionzoo.diffusion.folders import INDEX, load_transformers, one_line
from visionzoo.errors import WeightsError
from visionzoo.io.files import make_folder, write_json

__all__ = ["NETWORKS", "open_color_parts", "save_color_parts"]

NETWORKS = ("transformer", "sketch_dit", "memory_fusion", "memory_encoder", "text_encoder")
"""Parts that can be trained."""

_EXAMPLE = "a copy of the repository THUDM/CogVideoX1.5-5B-I2V"


def open_color_parts(folder: str | Path, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Load the parts that a folder has: tokenizer, text_encoder, vae, transformer and scheduler, which it must have, and sketch_dit,
    memory_fusion and memory_encoder, if they are there.

    Raises:
        WeightsError: the folder or a part is missing, damaged or of another kind.
    """
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
    from diffusers.schedulers.scheduling_dpm_cogvideox import CogVideoXDPMScheduler
    from transformers import T5Tokenizer

    from .frame_vae import frame_by_frame
    from .memory_fusion import DynamicMemoryFusion
    from .sketch_dit import SketchDiT
    from .transformer import LongAnimationTransformer
    from .videoxl import VideoXLMemoryEncoder

    place = Path(folder)
    if not (place / "transformer" / "config.json").is_file():
        raise WeightsError(
            f"{place}: is no folder of a video pipeline (transformer/config.json is missing); expected e.g. {_EXAMPLE}"
        )
    kinds: dict[str, Any] = {"vae": AutoencoderKLCogVideoX, "transformer": LongAnimationTransformer}
    kinds |= {"sketch_dit": SketchDiT, "memory_fusion": DynamicMemoryFusion, "memory_encoder": VideoXLMemoryEncoder}
    parts: dict[str, Any] = {}
    try:
        for name, kind in kinds.items():
            if name in ("vae", "transformer") or (place / name).is_dir():
                parts[name] = kind.from_pretrained(str(place / name), torch_dtype=dtype, local_files_only=True)
        frame_by_frame(parts["vae"])
        parts["text_encoder"] = load_transformers(place, ["text_encoder"], dtype, None)["text_encoder"]
        parts["tokenizer"] = T5Tokenizer.from_pretrained(str(place / "tokenizer"), local_files_only=True)
        parts["scheduler"] = CogVideoXDPMScheduler.from_pretrained(str(place / "scheduler"))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"{place}: cannot be loaded ({one_line(error)}); expected e.g. {_EXAMPLE}") from error
    return parts


def save_color_parts(
    parts: Mapping[str, Any], folder: str | Path, *, half: bool = True, settings: Mapping[str, Any] | None = None
) -> Path:
    """Write parts as sub-folders in diffusers' layout; they are unchanged.

    Args:
        parts: by name.
        folder: created if it does not exist.
        half: write the weights in half precision.
        settings: values to record in model_index.json.
    """
    place = make_folder(folder)
    index: dict[str, Any] = {}
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            part = nn.Module.to(copy.deepcopy(part).eval(), torch.float16 if half else torch.float32)
        saved: Any = part
        saved.save_pretrained(place / name)
        for file in (place / name).glob("*config.json"):  # diffusers records from where a part was loaded
            facts = json.loads(file.read_text(encoding="utf-8"))
            if facts.pop("_name_or_path", None) is not None:
                write_json(file, facts)
        own = type(part).__module__.startswith(__package__ or "visionzoo")
        library = __package__ if own else "transformers" if name in ("text_encoder", "tokenizer") else "diffusers"
        index[name] = [library, type(part).__name__]
    write_json(place / INDEX, {"_class_name": "LongAnimationPipeline", **index, **(settings or {})})
    return place
