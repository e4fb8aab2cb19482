"""Runtimes of a classifier: torch, a network that is compiled for this machine, or onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from visionzoo import __version__, onnx_runtime
from visionzoo.compiled import Compiled, compile_ahead, load_compiled, machine
from visionzoo.errors import InputError, require, unknown
from visionzoo.weights import weights_dir

RUNTIMES = ("torch", "compiled", "onnxruntime")


def pick_runtime(runtime: str, compile: bool, device: torch.device, dtype: torch.dtype) -> str:
    """The runtime that `runtime` and `compile` select, if it is installed and usable there. Raises `InputError`."""
    chosen = "compiled" if compile and runtime == "torch" else runtime
    if chosen not in RUNTIMES:
        raise unknown("runtime", runtime, RUNTIMES)
    if compile and chosen != "compiled":
        raise InputError(f"compile=True means runtime='compiled', so runtime must not be {runtime!r}")
    if chosen == "onnxruntime":
        onnx_runtime.check(device, dtype)
        require("onnxruntime", extra="export", purpose="the runtime onnxruntime")
    return chosen


class PooledAndLogits(nn.Module):
    """Images (B, 3, S, S) -> (pooled vectors (B, C), logits (B, classes))."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.network.forward_features(images)[0]
        return pooled, self.network.forward_head(pooled)


class Runner:
    """Batches through a network.

    Args:
        network: the network in its form for inference, on its device.
        runtime: one of `RUNTIMES`; all except "torch" are prepared when they are first needed, and kept.
        name: name of the weights and the precision, under which prepared files are kept.
    """

    def __init__(self, network: Any, runtime: str, device: torch.device, name: str):
        self.network, self.runtime, self.device, self.name = PooledAndLogits(network), runtime, device, name
        self._compiled: dict[tuple[int, ...], Compiled] = {}

    @torch.inference_mode()
    def __call__(self, batch: Tensor, full: int) -> tuple[np.ndarray, np.ndarray]:
        """(B, 3, S, S) -> pooled vectors (B, C) and probabilities (B, classes), float32. `full` is the usual B."""
        count = len(batch)
        if self.runtime != "torch" and 1 < count < full:
            batch = torch.cat([batch, batch.new_zeros(full - count, *batch.shape[1:])])
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        pooled, logits = (self._compiled_for(batch) if self.runtime != "torch" else self.network)(batch)
        return pooled[:count].float().cpu().numpy(), logits[:count].float().softmax(-1).cpu().numpy()

    def _compiled_for(self, batch: Tensor) -> Compiled:
        """The network for batches like this one: made earlier, kept from another run, or compiled now."""
        shape = tuple(batch.shape)
        if shape not in self._compiled:
            kind = f"{self.name}-{shape[0]}x{shape[-1]}"
            place = weights_dir().parent / "compiled" / f"{kind}-{__version__}-{machine()}-{self.device.type}"
            # not with_suffix, as versions contain dots
            path = Path(f"{place}.{'onnx' if self.runtime == 'onnxruntime' else 'pt2'}")
            path.parent.mkdir(parents=True, exist_ok=True)
            make, load = (
                (onnx_runtime.convert, onnx_runtime.load)
                if self.runtime == "onnxruntime"
                else (compile_ahead, load_compiled)
            )
            self._compiled[shape] = load(path) if path.is_file() else make(self.network, batch, path)
        return self._compiled[shape]


__all__ = ["RUNTIMES", "Runner", "pick_runtime"]
