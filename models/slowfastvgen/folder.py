"""Folders with the parts of a text-to-video pipeline, in diffusers' layout."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from visionzoo.diffusion.folders import INDEX, check_complete, check_parts, finish_saving, load_transformers, one_line
from visionzoo.errors import WeightsError
from visionzoo.io.files import make_folder, write_json, write_text
from visionzoo.stored import CUSTOM

__all__ = ["PARTS", "open_parts", "save_video_folder"]

PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
EXAMPLE = "a copy of the repository ali-vilab/text-to-video-ms-1.7b"


def open_parts(folder: str | Path, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Load vae, text_encoder, tokenizer, unet and scheduler from a folder in diffusers' layout, in eval mode.

    Raises:
        WeightsError: the folder or a part is missing, damaged or of another kind.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from transformers import CLIPTokenizer

    from .unet import SlowFastUNet

    place = Path(folder)
    if not (place / INDEX).is_file():
        raise WeightsError(f"{place}: is no folder of a pipeline ({INDEX} is missing); expected e.g. {EXAMPLE}")
    variant = check_parts(place, PARTS)
    options: dict[str, Any] = {"torch_dtype": dtype, "local_files_only": True, "variant": variant}
    try:
        text = load_transformers(place, ["text_encoder"], dtype, variant)
        parts: dict[str, Any] = {
            "vae": AutoencoderKL.from_pretrained(str(place / "vae"), **options),
            "text_encoder": text["text_encoder"],
            "tokenizer": CLIPTokenizer.from_pretrained(str(place / "tokenizer"), local_files_only=True),
            "unet": SlowFastUNet.from_pretrained(str(place / "unet"), **options),
            "scheduler": DDIMScheduler.from_pretrained(str(place / "scheduler"), clip_sample=False),
        }
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(
            f"{place}: the pipeline cannot be loaded ({one_line(error)}); expected e.g. {EXAMPLE}"
        ) from error
    check_complete(parts, place)
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.eval()
    return parts


def save_video_folder(
    parts: Mapping[str, Any], folder: str | Path, *, half: bool = True, settings: Mapping[str, Any] | None = None
) -> Path:
    """Write the parts of a text-to-video pipeline to a folder that `SlowFastVGenPipeline` loads; they are unchanged.

    Args:
        parts: those of `PARTS`.
        folder: created if it does not exist.
        half: write the weights in half precision.
        settings: constructor values of the pipeline to record in model_index.json, e.g. {"window": 16}.
    """
    place = make_folder(folder)
    copies: dict[str, Any] = {}
    for name in PARTS:
        part: Any = parts[name]
        if isinstance(part, nn.Module):
            part = copy.deepcopy(part).eval()
            # diffusers warns about `to` of its own models, which is about layers that these do not have
            part = nn.Module.to(part, torch.float16 if half else torch.float32)
        part.save_pretrained(place / name)
        copies[name] = part
        if _kind(part) != type(part).__name__:
            config = json.loads((place / name / "config.json").read_text(encoding="utf-8"))
            write_text(
                place / name / "config.json", json.dumps({**config, "_class_name": _kind(part)}, indent=2) + "\n"
            )
    index = {
        name: ["transformers" if name in ("text_encoder", "tokenizer") else "diffusers", _kind(part)]
        for name, part in copies.items()
    }
    write_json(place / INDEX, {"_class_name": "SlowFastVGenPipeline", **index, **(settings or {})})
    finish_saving(place, copies, {"task": "generate", "model": CUSTOM})
    return place


def _kind(part: Any) -> str:
    """The class that others know: the video UNet's keys and configuration are those of diffusers'."""
    return "UNet3DConditionModel" if type(part).__name__ == "SlowFastUNet" else type(part).__name__
