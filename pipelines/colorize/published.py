"""Opens the published files of LongAnimation: those of the authors, CogVideoX1.5-5B-I2V and Video-XL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from visionzoo.diffusion import make_scheduler
from visionzoo.diffusion.folders import INDEX, check_complete, check_parts, load_part, one_line, without_bars
from visionzoo.errors import WeightsError

from ...models.longanimation import (
    LineartModel,
    LongAnimationTransformer,
    VideoXLMemoryEncoder,
    open_lineart,
    open_memory_fusion,
    open_sketch_dit,
)

__all__ = ["LAYOUT", "is_published", "open_published"]

CONTROL, MEMORY, LINEART = "control_module.safetensors", "glm_module.safetensors", "sk_model.pth"
BASE, VIDEOXL = "CogVideoX1.5-5B-I2V", "VideoXL_weight_8"
BASE_PARTS = ("tokenizer", "text_encoder", "vae", "transformer", "scheduler")
PLACES = ("", "longanimation", "pretrained_weights", "pretrained_weight")
"""Folders in which the files are looked for, inside the given one: the README and the script of the published code disagree."""

LAYOUT = (
    f"{CONTROL} and {MEMORY} of CNcreator0331/LongAnimation, a copy of zai-org/{BASE} as the folder {BASE}, the folder {VIDEOXL} of "
    f"sy1998/Video_XL, and {LINEART} of lllyasviel/Annotators (all on the Hugging Face hub)"
)
"""What belongs into a folder, as part of messages."""


def is_published(folder: Path) -> bool:
    """Whether a folder holds any of the authors' files."""
    return any((folder / place / name).exists() for place in PLACES for name in (CONTROL, MEMORY, BASE))


def open_published(folder: Path, dtype: torch.dtype | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a pipeline, on the CPU.

    Args:
        folder: see `LAYOUT`, or the folder of CogVideoX with the other files in it; Video-XL and the line-art network may be missing.
        dtype: precision of the networks; None: that of the files.
        given: parts that need not be loaded.

    Raises:
        WeightsError: a file is missing (the message names it and its place), damaged, or does not fit.
    """
    precision = dtype or torch.bfloat16
    parts: dict[str, Any] = dict(given)
    needed = [name for name in BASE_PARTS if name not in parts]
    places = {
        name: folder if name == "base" and (folder / INDEX).is_file() else _find(folder, file)
        for name, file in {"base": BASE, "sketch_dit": CONTROL, "memory_fusion": MEMORY}.items()
        if name not in parts and (name != "base" or needed)
    }
    if missing := [name for name, place in places.items() if place is None]:
        names = {"base": f"folder {BASE}", "sketch_dit": CONTROL, "memory_fusion": MEMORY}
        raise WeightsError(f"{folder}: has no {' and no '.join(names[name] for name in missing)}; expected {LAYOUT}")
    if base := places.get("base"):
        parts |= _open_base(base, needed, dtype)
    if found := places.get("sketch_dit"):
        parts["sketch_dit"] = open_sketch_dit(found, precision)
    if found := places.get("memory_fusion"):
        parts["memory_fusion"] = open_memory_fusion(found, precision)
    if "memory_encoder" not in parts and (found := _find(folder, VIDEOXL) or _find(folder, f"Video_XL/{VIDEOXL}")):
        parts["memory_encoder"] = VideoXLMemoryEncoder.from_folder(found, dtype=precision)
    if "lineart" not in parts and (found := _find(folder, LINEART)):
        parts["lineart"] = LineartModel.of(open_lineart(found))
    return parts


def _find(folder: Path, name: str) -> Path | None:
    return next((path for place in PLACES if (path := folder / place / name).exists()), None)


def _open_base(base: Path, names: Sequence[str], dtype: torch.dtype | None) -> dict[str, Any]:
    """Parts of CogVideoX 1.5."""
    import transformers
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX

    if not (base / INDEX).is_file():
        raise WeightsError(f"{base}: holds no {INDEX}; copy the whole repository zai-org/{BASE} there")
    check_parts(base, names)
    kinds: dict[str, Any] = {"vae": AutoencoderKLCogVideoX, "transformer": LongAnimationTransformer}
    precision = {} if dtype is None else {"torch_dtype": dtype}
    found: dict[str, Any] = {}
    try:
        with without_bars():
            for name in names:
                if name in kinds:
                    found[name] = kinds[name].from_pretrained(str(base / name), local_files_only=True, **precision)
                elif name == "tokenizer":
                    found[name] = transformers.AutoTokenizer.from_pretrained(str(base / name), local_files_only=True)
                elif name == "text_encoder":
                    found[name] = _in_precision(load_part(base / name, transformers.T5EncoderModel), dtype)
                else:
                    config = json.loads((base / name / "scheduler_config.json").read_text(encoding="utf-8"))
                    # the published code samples with DPM and trailing timesteps, whatever the folder states
                    found[name] = make_scheduler("cogvideox-dpm", config, timestep_spacing="trailing")
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{base}: cannot be loaded ({one_line(error)}); copy zai-org/{BASE} again") from error
    check_complete(found, base)
    return found


def _in_precision(network: Any, dtype: torch.dtype | None) -> Any:
    return network if dtype is None else network.to(dtype)
