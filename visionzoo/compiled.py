"""Networks compiled ahead of time for this machine (torch's AOTInductor): no Python and no checks between the kernels.

For one shape of the input and one dtype. On a CPU, weights are packed once for the kernels that read them; small batches
gain most (docs/benchmarks.md). Files of this kind are machine code: load only those that you made.
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
"""Takes an input of the shape and dtype that it was compiled for, and nothing else."""


def compile_ahead(network: nn.Module, example: Tensor, path: str | PathLike[str] | None = None) -> Compiled:
    """Compile `network` for inputs like `example`; takes half a minute or so for a small network.

    Args:
        network: for inference, on the device where it is to run.
        example: an input: its shape, dtype and device are those of every input.
        path: where to keep the result (.pt2), for `load_compiled`; without one it is gone with the process.

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
        except Exception as error:  # what torch raises here has no common class
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            missing = "InvalidCxxCompiler" in str(error) or "No working C++ compiler" in str(error)
            remedy = "install a C++ compiler (Debian: apt install g++)" if missing else "run it without compiling"
            raise VisionZooError(f"{type(network).__name__} cannot be compiled ({lines[0][:200]}); {remedy}") from error
        if path is not None:
            with atomic_path(Path(path)) as temporary:
                temporary.write_bytes(Path(package).read_bytes())
        return _load(package)


def load_compiled(path: str | PathLike[str]) -> Compiled:
    """What `compile_ahead` kept at `path`, which is machine code of that version of torch, for that kind of machine.

    Raises:
        VisionZooError: no such file, or it cannot be loaded here.
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
    """What compiled networks depend on, as a part of a file name: torch's version and the kind of processor."""
    kind = torch.cuda.get_device_name().replace(" ", "-") if torch.cuda.is_available() else "cpu"
    return (
        f"{torch.__version__}-{platform.machine()}-{torch.backends.cpu.get_cpu_capability().replace(' ', '-')}-{kind}"
    )
