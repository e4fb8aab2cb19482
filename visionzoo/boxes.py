"""Operations on boxes (left, top, right, bottom): overlap, non-maximum suppression, and RoI align.

The kernels are torchvision's, called as torch operators. `import torchvision` would also load torch._dynamo, which takes as long
as importing torch.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["box_iou", "nms", "roi_align"]

LIBRARY = "_C*"
"""File names of the library with torchvision's compiled operators, beside its `__init__.py`."""
SUFFIXES = (".so", ".pyd", ".dylib", ".dll")


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes (N, 4) with others (M, 4): (N, M) in [0, 1]; NaN for two boxes without area.

    Like `torchvision.ops.box_iou`, for floating-point boxes.
    """
    corner = torch.maximum(boxes[:, None, :2], others[:, :2])
    shared = (torch.minimum(boxes[:, None, 2:], others[:, 2:]) - corner).clamp(min=0).prod(2)
    areas, other_areas = ((each[:, 2:] - each[:, :2]).prod(1) for each in (boxes, others))
    return shared / (areas[:, None] + other_areas - shared)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression: indices of the boxes (N, 4) to keep, highest score first; none has an IoU above `threshold` with a
    better one."""
    return _kernels().nms(boxes, scores, threshold)


def roi_align(x: Tensor, boxes: Tensor, size: int, sampling_ratio: int) -> Tensor:
    """Average boxes (N, 4), in pixels of one map `x` (1, C, H, W), to (N, C, size, size); 0 outside the map.

    Args:
        sampling_ratio: number of sampling points along each side of an output cell.
    """
    of_first = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], 1)
    return _kernels().roi_align(x, of_first, 1.0, size, size, sampling_ratio, True)


@cache
def _kernels() -> Any:
    """`torch.ops.torchvision`, without importing torchvision if its library can be loaded separately."""
    spec = None if "torchvision" in sys.modules else find_spec("torchvision")
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in sorted(Path(folder).glob(LIBRARY)):
            if file.suffix in SUFFIXES:
                try:
                    torch.ops.load_library(file)
                except OSError:
                    continue  # needs what torchvision's own import sets up
    if not hasattr(torch.ops.torchvision, "roi_align"):
        import_module("torchvision")
    return torch.ops.torchvision
