"""Networks compiled ahead of time for this machine (torch's AOTInductor), without Python and checks between kernels.

A compiled network accepts a single input shape and dtype. On a CPU, weights are packed once for their kernels; small batches gain
most (docs/benchmarks.md). The files are machine code: load only those that you made.
"""

from __future__ import annotations

import platform
import tempfile
import warnings
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from .errors import VisionZooError
from .io.files import atomic_path

Compiled = Callable[[Tensor], Any]
"""A function that accepts inputs of the compiled shape and dtype only."""


def compile_ahead(network: nn.Module, example: Tensor, path: str | PathLike[str] | None = None) -> Compiled:
    """Compile `network` for inputs like `example`; takes about half a minute for a small network.

    Args:
        network: network in eval mode, on its device.
        example: an example input; all inputs must have its shape, dtype and device.
        path: file to save the result to (.pt2), for `load_compiled`; None: the result exists only in this process.

    Raises:
        VisionZooError: there is no C++ compiler, or torch cannot compile this network.
    """
    options = {"freezing": True} if example.device.type == "cpu" else {}
    with tempfile.TemporaryDirectory(prefix="visionzoo-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = str(Path(folder) / "network.pt2")
        try:
            with torch.no_grad():
                program = torch.export.export(network.eval(), (example,))
                torch._inductor.aoti_compile_and_package(program, package_path=package, inductor_configs=options)
        except Exception as error:  # torch's errors here have no common base class
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            missing = "InvalidCxxCompiler" in str(error) or "No working C++ compiler" in str(error)
            remedy = "install a C++ compiler (Debian: apt install g++)" if missing else "run it without compiling"
            raise VisionZooError(f"{type(network).__name__} cannot be compiled ({lines[0][:200]}); {remedy}") from error
        if path is not None:
            with atomic_path(Path(path)) as temporary:
                temporary.write_bytes(Path(package).read_bytes())
        return _load(package)


def load_compiled(path: str | PathLike[str]) -> Compiled:
    """Load what `compile_ahead` saved at `path`: machine code for the same version of torch and kind of machine.

    Raises:
        VisionZooError: the file is missing or cannot be loaded here.
    """
    if not Path(path).is_file():
        raise VisionZooError(f"{path}: no such file; compile the network first")
    try:
        return _load(str(path))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise VisionZooError(f"{path}: cannot be loaded here ({reason}); compile the network again") from error


def _load(path: str) -> Compiled:
    return cast(Compiled, torch._inductor.aoti_load_package(path))


def machine() -> str:
    """torch's version and the kind of processor, which compiled networks depend on, as part of a file name."""
    kind = torch.cuda.get_device_name().replace(" ", "-") if torch.cuda.is_available() else "cpu"
    return (
        f"{torch.__version__}-{platform.machine()}-{torch.backends.cpu.get_cpu_capability().replace(' ', '-')}-{kind}"
    )
