"""`export_model`: export any network that takes images."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from ..devices import pick_dtype
from ..errors import InputError, VisionZooError
from ..io.files import atomic_path, check_output
from ..stored import stored_of
from .arguments import file_format, no_bfloat16
from .checking import TOLERANCE, check_shapes, largest_error, runtime
from .exporters import exporter_of_network
from .report import ExportReport, describe
from .tracing import named, output_names, prepared, reference, shapes_of, smallest_of, trace
from .writing import write_onnx, write_program


def export_model(
    model: nn.Module,
    path: str | PathLike[str],
    *,
    image_size: int | tuple[int, int] | None = None,
    dynamic: bool = True,
    opset: int | None = None,
    check: bool = True,
    dtype: str | torch.dtype = "float32",
    name: str | None = None,
    classes: Sequence[str] | None = None,
) -> ExportReport:
    """Write `model` to `path` as ONNX (.onnx) or as a torch.export program (.pt2), in one file.

    The model itself stays unchanged. A copy prepared for inference is written: in eval mode, and fused if the network has a
    `fuse()`. An existing file is replaced after the new one is complete and checked.

    Args:
        model: a network that takes images (B, C, H, W) and returns a tensor or a list of tensors.
        image_size: side, or (height, width), in pixels, for the check; with `dynamic=False` the only size. None for the
            training size of the weights if known, else 224.
        dynamic: whether batch, height and width are free; otherwise they are 1 and `image_size`.
        opset: ONNX opset, 18 or newer; None for torch's default.
        check: run the file (with onnxruntime or torch) and compare it with `model` in float32: on one image of `image_size`
            and, if sizes are free, three of another size.
        dtype: type of the weights and outputs, whatever that of `model`; images are always float32.
        name, classes: model name and class names in order, for the metadata of the file; None for those of the loaded
            weights.

    Raises:
        InputError: a wrong extension, size or opset, or a list of classes that does not fit.
        MissingDependencyError: the packages of the extra `export` are not installed (.onnx only).
        VisionZooError: the file's outputs differ from the model's; nothing is written then.
    """
    path = check_output(Path(path), overwrite=True)
    kind = file_format(path, opset=opset, check=check)
    stored = stored_of(model)
    name = name or stored.model
    if classes is None and len(stored.classes or ()) == getattr(getattr(model, "config", None), "num_classes", None):
        classes = stored.classes
    exporter = exporter_of_network(model)
    usual: int = stored.image_size or (exporter.preprocess(name).size if exporter and name else 224)
    size = usual if image_size is None else image_size
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise InputError(f"image_size must be at least 1 pixel, got {image_size}")
    wanted = pick_dtype(dtype, torch.device("cpu"))
    if kind == "ONNX" and wanted == torch.bfloat16:
        raise no_bfloat16(path)
    channels = getattr(getattr(model, "config", None), "in_chans", 3)
    texts = describe(model, name, classes, (height, width))
    program = trace(prepared(model, wanted), channels, (height, width), dynamic=dynamic)
    shape, out_shapes = shapes_of(program)
    symbols = dict(zip(map(str, shape), ("batch", "channels", "height", "width"), strict=True)) if dynamic else {}
    outputs = output_names(model, len(out_shapes))
    # ONNX files have no such bound; it comes from torch's description of memory layouts
    smallest = smallest_of(program, shape) if dynamic and kind == "torch.export" else None
    if smallest and (height < smallest[0] or width < smallest[1]):
        raise InputError(
            f"{path}: with free sizes, the image must be at least {smallest[0]} x {smallest[1]} in this format, got "
            f"{height} x {width}; write .onnx instead, or fix the size (--fixed)"
        )
    shapes = check_shapes(channels, (height, width), dynamic=dynamic) if check else []
    error = None
    with atomic_path(path) as temporary:
        if kind == "ONNX":
            version = write_onnx(program, temporary, outputs, opset, symbols, texts)
            if opset is not None and version != opset:
                raise InputError(f"torch {torch.__version__} cannot write opset {opset}; omit it for {version}")
        else:
            version = None
            write_program(program, temporary, texts)
        if check:
            error = largest_error(temporary, reference(model), shapes)
            if not error <= TOLERANCE.get(wanted, 1e-4):
                raise VisionZooError(
                    f"{path}: not written, as its outputs differ from the network's (relative error {error:.1e}); "
                    "try another opset or format, or write it anyway with --no-check"
                )
        size = temporary.stat().st_size
    return ExportReport(
        path=str(path),
        format=kind,
        size_mb=size / 1e6,
        opset=version,
        dtype=str(wanted).removeprefix("torch."),
        inputs={"images": named(shape, symbols)},
        outputs=dict(zip(outputs, (named(out, symbols) for out in out_shapes), strict=True)),
        smallest=smallest,
        checked=tuple(shapes),
        error=error,
        checked_with=runtime(kind) if check else None,
        texts=texts,
    )
