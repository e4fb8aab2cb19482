"""Small networks to export, and checks that a file computes the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden import seeded
from visionzoo.models.shvit import SHViT, SHViTConfig

SMALL: dict[str, Any] = {"embed_dim": (16, 24, 32), "partial_dim": (8, 8, 8), "depth": (1, 1, 1)}
OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7)

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra `export` is not installed",
)
free_sizes = pytest.mark.skipif(OLD, reason="torch 2.6 writes ONNX with a fixed size only")


def network(**changes: object) -> SHViT:
    """Set nontrivial weights and norm statistics, because the attention of a new network adds nothing."""
    model = SHViT(SHViTConfig(**{**SMALL, "num_classes": 5, **changes})).eval()  # pyright: ignore[reportArgumentType]
    model.load_state_dict(seeded.fill(model.state_dict()))
    return model


def relative(got: Tensor | np.ndarray, want: Tensor) -> float:
    got = torch.as_tensor(got)
    assert got.shape == want.shape
    return float((got.double() - want.double()).norm() / want.double().norm())


def session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def alone(path: Path) -> bool:
    """No other file is in the folder: no separate weights, no temporary name."""
    return [entry.name for entry in path.parent.iterdir()] == [path.name]
