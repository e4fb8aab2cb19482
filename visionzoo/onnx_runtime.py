"""Run networks with onnxruntime, usually the fastest way to run a small network on a CPU in float32 (docs/benchmarks.md).

As with `compiled.py`, a network accepts a single input shape; it is written as ONNX once and kept.
"""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from .compiled import Compiled
from .errors import InputError, VisionZooError, require
from .io.files import atomic_path

TOLERANCE = 1e-4
"""Maximum relative difference from the network that counts as rounding."""


def convert(network: nn.Module, example: Tensor, path: str | PathLike[str]) -> Compiled:
    """Write `network` for inputs like `example` to `path` (.onnx), and return a function that runs it.

    Args:
        network: network in eval mode and float32 on the CPU; it returns a tensor or a tuple of tensors.
        example: an example input; all inputs must have its shape.

    Raises:
        InputError: a wrong device or dtype.
        MissingDependencyError: the packages of the extra `export` are not installed.
        VisionZooError: the network cannot be exported, or the file's outputs differ; no file is kept then.
    """
    check(example.device, example.dtype)
    for package in ("onnx", "onnxscript"):
        require(package, extra="export", purpose="writing a network for onnxruntime")
    with atomic_path(Path(path)) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.no_grad():
                program = torch.onnx.export(
                    network.eval(), (example,), input_names=["images"], dynamo=True, external_data=False, verbose=False
                )
        except torch.onnx.OnnxExporterError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise VisionZooError(
                f"{type(network).__name__} cannot be written as ONNX ({reason}); use --runtime torch"
            ) from error
        assert program is not None
        program.save(str(temporary))
        with torch.no_grad():
            wanted, got = _flat(network(example)), _flat(_session(temporary)(example))
        error = max(float((a - b).norm() / a.norm().clamp_min(1e-12)) for a, b in zip(wanted, got, strict=True))
        if not error <= TOLERANCE:
            raise VisionZooError(
                f"onnxruntime's outputs differ from those of {type(network).__name__} (relative error {error:.1e}); "
                "use --runtime torch"
            )
    return load(path)


def load(path: str | PathLike[str]) -> Compiled:
    """Load the file that `convert` wrote to `path`.

    Raises:
        VisionZooError: the file is missing, or onnxruntime cannot load it.
    """
    if not Path(path).is_file():
        raise VisionZooError(f"{path}: no such file; convert the network first")
    return _session(Path(path))


def check(device: torch.device, dtype: torch.dtype) -> None:
    """Raise `InputError` unless the device is a CPU and the dtype float32, as onnxruntime is only used for these."""
    if device.type != "cpu" or dtype != torch.float32:
        name = str(dtype).removeprefix("torch.")
        raise InputError(
            f"the runtime onnxruntime is for float32 on the CPU, not for {name} on {device.type}; use --dtype float32 --device cpu"
        )


def _session(path: Path) -> Compiled:
    onnxruntime = require("onnxruntime", extra="export", purpose="the runtime onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception classes have no common base
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise VisionZooError(
            f"{path}: onnxruntime cannot load it ({reason}); delete it to have it written again"
        ) from error

    def run(images: Tensor) -> Tensor | tuple[Tensor, ...]:
        out = tuple(torch.from_numpy(each) for each in session.run(None, {"images": images.contiguous().numpy()}))
        return out[0] if len(out) == 1 else out

    return run


def _flat(out: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (out,) if isinstance(out, Tensor) else tuple(out)


__all__ = ["check", "convert", "load"]
