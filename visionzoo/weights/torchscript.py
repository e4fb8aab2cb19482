"""Open TorchScript networks in the user's files. Such a file is a program: it runs the code of its author."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from ..errors import WeightsError
from ..io.head import read_head


def check_file(path: str | PathLike[str], what: str) -> Path:
    """Return `path` if it is a file that can hold a network; see `read_head`.

    Args:
        what: the expected network, for the error message.

    Raises:
        WeightsError: the file cannot hold a network, or is still packed.
    """
    path = Path(path)
    expected = f"the file with {what}"
    head = read_head(
        path, f"{expected} (a .zip as downloaded, not unpacked)" if path.is_dir() else expected, WeightsError
    )
    if head.startswith(b"BZh"):
        raise WeightsError(f"{path}: is still packed; unpack it with bunzip2")
    return path


def short(error: BaseException) -> str:
    """An error's message in at most 120 characters: its first line, or for TorchScript errors the last, after the trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if "TorchScript" in lines[0] else 0].removeprefix("RuntimeError: ")[:120]


def load_torchscript(path: str | PathLike[str], what: str, device: torch.device | str = "cpu") -> Any:
    """Open the TorchScript network in a file for inference. Such a file is a program: open only files whose author you trust.

    Raises:
        WeightsError: the file is missing, truncated, or not TorchScript.
    """
    path = check_file(path, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch recommends a newer format; this file exists already
            return torch.jit.load(str(path), map_location=torch.device(device)).eval()
    except (RuntimeError, ValueError) as error:
        if "constants.pkl" in str(error):
            raise WeightsError(
                f"{path}: is not a TorchScript file (perhaps only weights, or a torch.export program), expected {what}; "
                "write the whole network with torch.jit.trace(network, image).save(FILE)"
            ) from error
        raise WeightsError(
            f"{path}: not a TorchScript file, or truncated ({short(error)}), expected {what}; download it again"
        ) from error


__all__ = ["check_file", "load_torchscript", "short"]
