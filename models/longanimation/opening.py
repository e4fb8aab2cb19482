"""Opens the networks of LongAnimation from published files, or from folders in diffusers' layout."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from visionzoo.diffusion.folders import check_complete, one_line, without_bars
from visionzoo.errors import WeightsError
from visionzoo.io.files import make_folder
from visionzoo.weights import find_state_dict, load_checkpoint, misfit, read_checkpoint

from .checkpoint import check_trained, to_ours
from .lineart import LineartGenerator
from .memory_fusion import DynamicMemoryFusion
from .sketch_dit import SketchDiT

__all__ = ["convert_longanimation", "open_lineart", "open_memory_fusion", "open_sketch_dit"]

CONTROL, MEMORY = "control_module.safetensors", "glm_module.safetensors"
"""Published files."""


def open_sketch_dit(path: str | PathLike[str], dtype: torch.dtype = torch.float32) -> SketchDiT:
    """Load a SketchDiT, in eval mode on the CPU.

    Args:
        path: `control_module.safetensors`, with any number of blocks, or a folder that `save_pretrained` wrote.

    Raises:
        WeightsError: the file is missing or damaged, has missing or unexpected keys, or would have no effect.
    """
    return _open(SketchDiT, Path(path), dtype, CONTROL)


def open_memory_fusion(
    path: str | PathLike[str], dtype: torch.dtype = torch.float32, *, dim_head: int = 96
) -> DynamicMemoryFusion:
    """Load a DynamicMemoryFusion, in eval mode on the CPU.

    Args:
        path: `glm_module.safetensors`, or a folder that `save_pretrained` wrote.
        dim_head: width of an attention head, for files, whose shapes do not tell it.

    Raises:
        WeightsError: the file is missing or damaged, has missing or unexpected keys, or would have no effect.
    """
    return _open(DynamicMemoryFusion, Path(path), dtype, MEMORY, dim_head=dim_head)


def open_lineart(path: str | PathLike[str]) -> LineartGenerator:
    """Load `sk_model.pth`, in eval mode on the CPU.

    Raises:
        WeightsError: the file is missing or damaged, or has missing or unexpected keys.
    """
    network = LineartGenerator()
    load_checkpoint(network, path)
    return network.eval()


def convert_longanimation(
    control: str | PathLike[str], glm: str | PathLike[str], folder: str | PathLike[str], *, dim_head: int = 96
) -> Path:
    """Write the published files as folders of components, `sketch_dit` and `memory_fusion`, in diffusers' layout.

    Args:
        control: `control_module.safetensors`.
        glm: `glm_module.safetensors`.
        folder: created if it does not exist. The weights keep their precision.
        dim_head: see `open_memory_fusion`.

    Raises:
        WeightsError: a file is missing or damaged, has missing or unexpected keys, or would have no effect.
    """
    networks = {
        "sketch_dit": _open(SketchDiT, Path(control), None, CONTROL),
        "memory_fusion": _open(DynamicMemoryFusion, Path(glm), None, MEMORY, dim_head=dim_head),
    }
    place = make_folder(Path(folder))
    for name, network in networks.items():
        network.save_pretrained(place / name)
    return place


def _open(kind: Any, path: Path, dtype: torch.dtype | None, published: str, **settings: Any) -> Any:
    if path.is_dir():
        network = _from_folder(kind, path, dtype, published)
    else:
        state = to_ours(find_state_dict(read_checkpoint(path), str(path)))
        try:
            config = kind.config_of(state, **settings)
        except KeyError as error:
            raise WeightsError(
                f"{path}: holds no weights of a {kind.__name__} ({error} is missing); expected {published}"
            ) from error
        except ValueError as error:
            raise WeightsError(f"{path}: does not fit {kind.__name__}: {error}") from error
        with torch.device("meta"):  # without drawing random weights first
            network = kind(**config)
        problem = misfit(network.state_dict(), state)
        if problem:
            raise WeightsError(f"{path} does not fit {kind.__name__}: {problem}")
        network.load_state_dict(state, assign=True)
    check_trained(network, str(path))
    if dtype is not None:
        nn.Module.to(
            network, dtype
        )  # diffusers warns about `to` of its own models, which is about layers that these do not have
    return network.eval()


def _from_folder(kind: Any, path: Path, dtype: torch.dtype | None, published: str) -> Any:
    try:
        with without_bars():
            network = kind.from_pretrained(str(path), local_files_only=True, torch_dtype=dtype or torch.float32)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(
            f"{path}: holds no {kind.__name__} ({one_line(error)}); expected a folder that save_pretrained wrote, or {published}"
        ) from error
    check_complete({path.name: network}, path.parent)
    return network
