"""Parts of an editing pipeline by name or path: the ControlNet, and the network that smooths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from visionzoo.diffusion.folders import INDEX, check_complete, one_line, without_bars
from visionzoo.errors import InputError, WeightsError
from visionzoo.io.head import read_head
from visionzoo.registry import create_model, list_models

from ...models.lovecon import Interpolator

__all__ = ["check_checkpoint", "open_controlnet", "open_smoother"]

EXAMPLE = "a copy of the repository lllyasviel/sd-controlnet-canny"


def check_checkpoint(folder: Path, controlnet: Path | None) -> None:
    """Raise `InputError` for a folder of Stable Diffusion, which has no ControlNet, if none is given."""
    if controlnet is not None or not (folder / INDEX).is_file():
        return
    try:
        has_one = "controlnet" in json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # opening the folder reports it
    if not has_one:
        raise InputError(
            f"{folder}: has no ControlNet; add one for this model with --controlnet FOLDER, e.g. {EXAMPLE}"
        )


def open_controlnet(folder: str | Path, dtype: torch.dtype) -> Any:
    """The ControlNet in a folder, as diffusers writes it: config.json and diffusion_pytorch_model.safetensors.

    Raises:
        WeightsError: the folder or a file in it is missing, damaged, or of another kind.
    """
    from diffusers import ControlNetModel  # pyright: ignore[reportPrivateImportUsage]

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


def open_smoother(name: str) -> Interpolator | None:
    """The network that smooths: "none", a registered model that interpolates frames, or a file with weights of RIFE.

    Raises:
        InputError: a file that is missing or holds other weights, or weights that are not available.
    """
    if name == "none":
        return None
    known = name.partition(".")[0] in list_models(task="interpolate")
    network: Any = create_model(name, pretrained=True) if known else create_model("rife_hdv3", checkpoint=name)
    return Interpolator.of(network)
