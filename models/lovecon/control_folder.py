"""Folders in the layout of Stable Diffusion with a ControlNet, which diffusers loads."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from visionzoo.errors import InputError
from visionzoo.io.files import make_folder, write_json
from visionzoo.stored import CUSTOM

__all__ = ["control_pipeline", "open_controlnet", "save_control_pipeline", "save_part"]


def control_pipeline(parts: Mapping[str, Any]) -> Any:
    """diffusers' StableDiffusionControlNetPipeline; it shares vae, text_encoder, tokenizer, unet, controlnet and scheduler."""
    from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline

    make: Any = StableDiffusionControlNetPipeline
    return make(**parts, safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False)


def open_controlnet(folder: str | Path | None, unet: Any = None) -> Any:
    """Load a ControlNet in float32, from a folder of its own or from `controlnet/` in a pipeline's folder.

    Args:
        folder: either of them, or None.
        unet: where there is no ControlNet, make one from the encoder of this UNet; None to refuse.

    Raises:
        InputError: the folder holds no ControlNet.
    """
    from diffusers.models.controlnets.controlnet import ControlNetModel

    places = () if folder is None else (Path(folder) / "controlnet", Path(folder))
    place = next(filter(_is_controlnet, places), None)
    if place is None:
        if unet is None:
            raise InputError(f"{folder}: is no folder of a ControlNet (config.json is missing)")
        return ControlNetModel.from_unet(unet)
    try:
        return ControlNetModel.from_pretrained(place, torch_dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{place}: holds no ControlNet that diffusers can load ({error})") from error


def _is_controlnet(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def save_part(network: Any, folder: str | Path, *, half: bool = True) -> Path:
    """Write one network of diffusers to a folder of its own; it is unchanged."""
    place = make_folder(folder)
    _converted(network, half).save_pretrained(place)
    return place


def save_control_pipeline(
    parts: Mapping[str, Any], folder: str | Path, *, half: bool = True, settings: Mapping[str, Any] | None = None
) -> Path:
    """Write a folder that `diffusers.StableDiffusionControlNetPipeline.from_pretrained` loads.

    Args:
        parts: those of `control_pipeline`; unchanged.
        folder: created if it does not exist.
        half: write the weights in half precision.
        settings: constructor values of `LOVEConPipeline` to record in model_index.json, e.g. {"mask_scale": 8}.
    """
    from visionzoo.diffusion.folders import INDEX, finish_saving, without_bars

    copies = {name: _converted(part, half) if isinstance(part, nn.Module) else part for name, part in parts.items()}
    place = make_folder(folder)
    with without_bars():
        control_pipeline(copies).save_pretrained(place)
    finish_saving(place, copies, {"task": "edit", "model": CUSTOM})
    index = json.loads((place / INDEX).read_text(encoding="utf-8"))
    write_json(place / INDEX, {**index, **(settings or {})})
    return place


def _converted(network: Any, half: bool) -> Any:
    """A copy in eval mode, in half or single precision."""
    other = copy.deepcopy(network).eval()
    # diffusers warns about `to` of its own models, which is about layers that these do not have
    nn.Module.to(other, memory_format=torch.contiguous_format)
    return nn.Module.to(other, torch.float16 if half else torch.float32)
