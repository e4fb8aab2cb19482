"""The report of an export, and the metadata of the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from .. import __version__
from ..config import as_dict
from ..errors import InputError
from .exporters import exporter_of_network


@dataclass(frozen=True)
class ExportReport:
    """The exported file, and how much its outputs differ from those of the network.

    Attributes:
        path: the file.
        format: "ONNX" or "torch.export".
        size_mb: size of the file; 1 MB = 10^6 bytes.
        opset: opset of an ONNX file, else None.
        dtype: type of the weights and outputs; images are float32.
        inputs, outputs: name -> shape; a text names a dimension of any size.
        smallest: (height, width) of the smallest image that a .pt2 file with free sizes accepts; None for other files.
        checked: shapes of the random images used in the check; empty without a check.
        error: the largest relative error ||file - network|| / ||network|| over all checked shapes and outputs.
        checked_with: program that ran the file, with its version.
        texts: metadata of the file.
    """

    path: str
    format: str
    size_mb: float
    opset: int | None
    dtype: str
    inputs: dict[str, tuple[int | str, ...]]
    outputs: dict[str, tuple[int | str, ...]]
    smallest: tuple[int, int] | None
    checked: tuple[tuple[int, ...], ...] = ()
    error: float | None = None
    checked_with: str | None = None
    texts: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        opset = f", opset {self.opset}" if self.opset else ""
        lines = [f"{self.path}: {self.format}{opset}, {self.dtype}, {self.size_mb:.1f} MB"]
        bound = f", height from {self.smallest[0]} and width from {self.smallest[1]}" if self.smallest else ""
        lines += [f"input   {name} {_shape(shape)}{bound}" for name, shape in self.inputs.items()]
        lines += [f"output  {name} {_shape(shape)}" for name, shape in self.outputs.items()]
        if self.error is None:
            lines.append("not checked")
        else:
            shapes = " and ".join("x".join(map(str, shape)) for shape in self.checked)
            lines.append(f"checked with {self.checked_with} on {shapes}: relative error {self.error:.1e}")
        return "\n".join(lines)


def _shape(shape: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, shape))})"


def describe(
    model: nn.Module, name: str | None, classes: Sequence[str] | None, size: tuple[int, int]
) -> dict[str, str]:
    """Metadata for the file, with lists and numbers as JSON. "model", "config", "classes", "image_size" are as in our checkpoints."""
    texts = {"software": f"visionzoo {__version__}"}
    if name:
        texts["model"] = name
    config: Any = getattr(model, "config", None)
    if config is not None:
        texts["config"] = json.dumps(as_dict(config))
    if classes is not None:
        count = getattr(config, "num_classes", len(classes))
        if len(classes) != count:
            raise InputError(f"got {len(classes)} class names for a network with {count} classes")
        texts["classes"] = json.dumps(list(classes), ensure_ascii=False)
    texts["image_size"] = json.dumps(size[0] if size[0] == size[1] else size)
    exporter = exporter_of_network(model)
    if exporter is not None:
        texts |= {key: json.dumps(value) for key, value in exporter.texts(model).items()}
    return texts
