"""Checks of export arguments, before torch is loaded, weights are fetched, or anything is written."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from .. import registry
from ..errors import InputError, require
from ..io.head import read_head
from .exporters import exportable_models

FORMATS = {".onnx": "ONNX", ".pt2": "torch.export"}

OLDEST_OPSET = 18
"""The opset that torch writes; conversion to older ones fails silently."""


def check_export(
    name: str,
    path: str | PathLike[str],
    *,
    checkpoint: str | PathLike[str] | None = None,
    random: bool = False,
    image_size: int | None = None,
    opset: int | None = None,
    check: bool = True,
    dtype: str = "float32",
) -> None:
    """Check the arguments of `export_registered`.

    Raises:
        InputError: a model that is unknown or cannot be exported, a file that is not a checkpoint, a wrong extension, size or opset.
        MissingDependencyError: the packages of the extra `export` are not installed (.onnx only).
    """
    card = registry.model_card(name)
    if card.name not in exportable_models():
        known = ", ".join(exportable_models())
        raise InputError(f"{name}: models of the task {card.task!r} cannot be exported yet; those that can: {known}")
    if random and checkpoint is not None:
        raise InputError("give either a checkpoint or random weights, not both")
    if image_size is not None and image_size < 1:
        raise InputError(f"--image-size must be at least 1 pixel, got {image_size}")
    if file_format(Path(path), opset=opset, check=check) == "ONNX" and dtype == "bfloat16":
        raise no_bfloat16(Path(path))
    if checkpoint is not None:
        read_head(checkpoint, "a checkpoint")
    elif not random:
        registry.weight_source(name)


def file_format(path: Path, *, opset: int | None, check: bool) -> str:
    """The format of the extension, after checking that the packages for it are installed."""
    kind = FORMATS.get(path.suffix)
    if kind is None:
        raise InputError(f"{path}: the extension chooses the format and must be one of {', '.join(FORMATS)}")
    if kind != "ONNX":
        if opset is not None:
            raise InputError(f"{path}: opset applies only to .onnx files; omit it")
        return kind
    onnx = require("onnx", extra="export", purpose="writing ONNX")
    require("onnxscript", extra="export", purpose="writing ONNX")
    if check:
        require("onnxruntime", extra="export", purpose="checking the ONNX file")
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not OLDEST_OPSET <= opset <= newest:
        raise InputError(f"opset must be from {OLDEST_OPSET} to {newest}, got {opset}")
    return kind


def no_bfloat16(path: Path) -> InputError:
    """The error for an ONNX file in bfloat16."""
    return InputError(
        f"{path}: onnxruntime does not support bfloat16 convolutions; use float16, float32, or a .pt2 file"
    )


__all__ = ["FORMATS", "OLDEST_OPSET", "check_export", "file_format", "no_bfloat16"]
