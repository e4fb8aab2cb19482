"""Write a traced network to a file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from ..errors import VisionZooError
from .tracing import rename

TEXTS = "visionzoo.json"
"""The member of a .pt2 file that describes the network."""


def write_onnx(
    program: ExportedProgram,
    path: Path,
    outputs: list[str],
    opset: int | None,
    symbols: Mapping[str, str],
    texts: dict[str, str],
) -> int:
    """Write an ONNX file; return its opset."""
    import onnx

    try:
        written = torch.onnx.export(
            program,
            (),
            input_names=["images"],
            output_names=outputs,
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:  # torch 2.6 lacks features that free sizes need
        raise VisionZooError(
            f"torch {torch.__version__} cannot write this network as ONNX ({root(error)}); "
            "try a newer torch or a fixed size (--fixed)"
        ) from error
    assert written is not None
    proto = written.model_proto
    graph: Any = proto.graph
    for value in (*graph.input, *graph.output):
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_param = rename(side.dim_param, symbols)
    # names of Python modules and torch's symbols make up an eighth of a small file and are of no use at runtime
    del graph.value_info[:]
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
    onnx.helper.set_model_props(proto, texts)
    onnx.save_model(proto, path)
    return next(entry.version for entry in proto.opset_import if entry.domain == "")


def write_program(program: ExportedProgram, path: Path, texts: Mapping[str, str]) -> None:
    with warnings.catch_warnings():
        # torch warns about channels-last weights; the check of the file shows that they are complete
        warnings.filterwarnings("ignore", message="No complete tensor found")
        torch.export.save(program, path, extra_files={TEXTS: json.dumps(texts)})


def root(error: BaseException) -> str:
    """The first line of the root cause of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:160]
