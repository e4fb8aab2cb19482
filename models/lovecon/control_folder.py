"""Folders in the layout of Stable Diffusion with a ControlNet, which diffusers loads."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from visionzoo.diffusion.folders import check_complete, one_line, without_bars
from visionzoo.errors import WeightsError
from visionzoo.io.files import make_folder, write_json
from visionzoo.io.head import read_head
from visionzoo.stored import CUSTOM

__all__ = ["control_pipeline", "load_controlnet", "open_controlnet", "save_control_pipeline", "save_part"]

EXAMPLE = "a copy of the repository lllyasviel/sd-controlnet-canny"


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
        WeightsError: see `load_controlnet`.
    """
    from diffusers.models.controlnets.controlnet import ControlNetModel

    places = [] if folder is None else [Path(folder) / "controlnet", Path(folder)]
    place = next((each for each in places if (each / "config.json").is_file()), None)
    if place is None and unet is not None:
        return ControlNetModel.from_unet(unet)
    return load_controlnet(place or Path(folder or "."))


def load_controlnet(folder: str | Path, dtype: torch.dtype = torch.float32) -> Any:
    """The ControlNet in a folder, as diffusers writes it: config.json and diffusion_pytorch_model.safetensors.

    Raises:
        WeightsError: the folder or a file in it is missing, damaged, or of another kind.
    """
    from diffusers.models.controlnets.controlnet import ControlNetModel
    from safetensors import SafetensorError

    folder = Path(folder)
    config = folder / "config.json"
    if not config.is_file():
        what = "there is no config.json" if folder.is_dir() else "no such folder"
        raise WeightsError(
            f"{folder}: holds no ControlNet ({what}); expected a folder with its config.json and weights, e.g. {EXAMPLE}"
        )
    files = sorted(folder.glob("diffusion_pytorch_model*.safetensors")) or sorted(
        folder.glob("diffusion_pytorch_model*.bin")
    )
    if not files:
        raise WeightsError(
            f"{folder}: has no diffusion_pytorch_model.safetensors; copy or download the whole folder again"
        )
    for file in files:
        read_head(file, "a checkpoint file", WeightsError)
    half = all(".fp16." in file.name for file in files)
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("_class_name")
        if kind != "ControlNetModel":
            raise WeightsError(f"{folder}: holds a {kind}, expected a ControlNetModel, e.g. {EXAMPLE}")
        with without_bars():
            network = ControlNetModel.from_pretrained(
                str(folder), torch_dtype=dtype, local_files_only=True, **({"variant": "fp16"} if half else {})
            )
    except (OSError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{folder}: the ControlNet cannot be loaded ({one_line(error)})") from error
    check_complete({folder.name: network}, folder.parent)
    return network.eval()


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
