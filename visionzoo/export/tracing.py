"""Trace a network to a graph, with free or fixed sizes. Shapes: B images, C channels, H x W pixels."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

TRACED = 160
"""Minimum side in pixels for tracing: a feature map one pixel wide would be traced as having a fixed width."""


def prepared(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy for inference on the CPU, fused if the network supports it."""
    network = reference(model)
    fuse = getattr(network, "fuse", None)
    if fuse is not None:
        network = fuse()
    return network.to(dtype).requires_grad_(False)


def reference(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to("cpu", torch.float32).eval()


def trace(network: nn.Module, channels: int, size: tuple[int, int], *, dynamic: bool) -> ExportedProgram:
    if dynamic:
        example = torch.zeros(2, channels, max(size[0], TRACED), max(size[1], TRACED))
        shapes = ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    else:
        example, shapes = torch.zeros(1, channels, *size), None
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of the exporting machine are private
    return program


def shapes_of(program: ExportedProgram) -> tuple[list[Any], list[list[Any]]]:
    """The shapes of the input and of the outputs; free dimensions are symbols."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    signature = program.graph_signature
    (image,) = signature.user_inputs
    return list(values[str(image)].shape), [list(values[str(out)].shape) for out in signature.user_outputs]


def named(shape: Sequence[Any], names: Mapping[str, str]) -> tuple[int | str, ...]:
    return tuple(side if isinstance(side, int) else rename(str(side), names) for side in shape)


def rename(expression: str, names: Mapping[str, str]) -> str:
    """Replace torch's symbols ("s77") in an expression by our names ("batch")."""
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), expression)


def smallest_of(program: ExportedProgram, shape: Sequence[Any]) -> tuple[int, int]:
    bounds = {str(symbol): int(bound.lower) for symbol, bound in program.range_constraints.items()}
    return bounds[str(shape[2])], bounds[str(shape[3])]


def output_names(model: nn.Module, count: int) -> list[str]:
    strides = getattr(model, "feature_strides", ())
    if getattr(getattr(model, "config", None), "features_only", False) and len(strides) == count:
        return [f"stride{stride}" for stride in strides]
    if count == 1:
        return ["logits" if getattr(getattr(model, "config", None), "num_classes", 0) else "output"]
    return [f"output{index}" for index in range(count)]
