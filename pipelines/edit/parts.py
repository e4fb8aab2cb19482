"""Parts of an editing pipeline by name or path: whether there is a ControlNet, and the network that smooths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from visionzoo.diffusion.folders import INDEX
from visionzoo.errors import InputError
from visionzoo.registry import create_model, list_models

from ...models.lovecon import Interpolator
from ...models.lovecon.control_folder import EXAMPLE
from ..interpolate.pipeline import InterpolatePipeline

__all__ = ["check_checkpoint", "open_smoother"]


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


def open_smoother(name: str) -> Interpolator | None:
    """The network that smooths: "none", a registered model that interpolates frames, or a file with weights of RIFE.

    Raises:
        InputError: a file that is missing or holds other weights, or weights that are not available.
    """
    if name == "none":
        return None
    known = name.partition(".")[0] in list_models(task="interpolate")
    if known:
        network: Any = create_model(name, pretrained=True)
    else:
        network = InterpolatePipeline.open(None, name, {}).network  # of the model that the file states
    return Interpolator.of(network)
