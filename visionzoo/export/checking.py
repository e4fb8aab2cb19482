"""Compare an exported file with its network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import VisionZooError
from .writing import root

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Maximum relative error of an exported file; typical in float32 is 1e-6."""


def check_shapes(channels: int, size: tuple[int, int], *, dynamic: bool) -> list[tuple[int, ...]]:
    """Input shapes to check: one image of the given size; if sizes are free, also three with another, odd and non-square size."""
    shapes = [(1, channels, *size)]
    if dynamic:
        shapes.append((3, channels, size[0] + 13, (size[1] * 5 // 4) | 1))
    return shapes


def _load(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """A function that runs an exported file."""
    if path.suffix == ".pt2":
        network = torch.export.load(path).module()
        return lambda images: _as_list(network(images))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception classes have no other base
        raise VisionZooError(
            f"onnxruntime {onnxruntime.__version__} cannot load the exported file ({root(error)}); try an older opset"
        ) from error
    return lambda images: [torch.from_numpy(out) for out in session.run(None, {"images": images.numpy()})]


def _as_list(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else list(out)


def largest_error(path: Path, reference: nn.Module, shapes: Sequence[tuple[int, ...]]) -> float:
    run = _load(path)
    draw = torch.Generator().manual_seed(0)
    errors = []
    for shape in shapes:
        images = torch.randn(shape, generator=draw)
        with torch.no_grad():
            wanted, got = _as_list(reference(images)), run(images)
        for ours, theirs in zip(wanted, got, strict=True):
            scale = ours.double().norm().clamp_min(1e-12)
            errors.append(float((theirs.double() - ours.double()).norm() / scale))
    return float(torch.tensor(errors, dtype=torch.float64).max())  # keeps NaN


def runtime(kind: str) -> str:
    if kind != "ONNX":
        return f"torch {torch.__version__}"
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"
