"""Parts of an editing pipeline by name or path: whether a folder can be used, and the network that smooths."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visionzoo.diffusion.folders import read_index
from visionzoo.errors import WeightsError
from visionzoo.registry import create_model, list_models

from ...models.lovecon import Interpolator
from ...models.lovecon.control_folder import EXAMPLE
from ..interpolate.pipeline import InterpolatePipeline

__all__ = ["check_checkpoint", "open_smoother"]


def check_checkpoint(folder: Path, *, has_controlnet: bool) -> None:
    """Raise `WeightsError` for a folder with a model of another kind than Stable Diffusion 1.5, or one without a ControlNet.

    Args:
        folder: in the layout of diffusers.
        has_controlnet: whether a ControlNet is given beside it.
    """
    kind, parts = read_index(folder)
    family = _family(folder, kind, parts)
    if family is not None:
        raise WeightsError(
            f"{folder}: holds {family}; LOVECon needs Stable Diffusion 1.5 or a model of the same kind, and a ControlNet for it"
        )
    if not has_controlnet and "controlnet" not in parts:
        raise WeightsError(
            f"{folder}: has no ControlNet; add one for this model with --controlnet FOLDER (in Python: controlnet=FOLDER), "
            f"e.g. {EXAMPLE}"
        )


def _family(folder: Path, kind: str, parts: Sequence[str]) -> str | None:
    """What a folder holds, unless it is of the kind of Stable Diffusion 1.5."""
    if "text_encoder_2" in parts and "unet" in parts:
        return f"SDXL or a similar model ({kind}), which has two text encoders"
    if "unet" not in parts:
        return f"a {kind}, which has no UNet"
    try:
        width = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8")).get("cross_attention_dim")
    except (OSError, ValueError, AttributeError):
        return None  # loading it reports that
    return "Stable Diffusion 2, whose texts have the width 1024 instead of 768" if width == 1024 else None


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
