"""Networks as files that run without this package: ONNX (`.onnx`) and torch's exported programs (`.pt2`).

Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from . import __version__, registry, weights
from .config import as_dict
from .devices import pick_dtype
from .errors import InputError, VisionZooError, require
from .io.files import atomic_path, check_output
from .labels import imagenet_classes
from .stored import Stored, read_stored

__all__ = ["ExportReport", "export_model", "export_registered"]

FORMATS = {".onnx": "ONNX", ".pt2": "torch.export"}

OLDEST_OPSET = 18
"""torch writes this one; converting to older ones fails without an error."""

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""A file whose relative error is above this is not written. Usual in float32 is 1e-6."""

TEXTS = "visionzoo.json"
"""The member of a .pt2 file that describes the network."""

TRACED = 160
"""Side in pixels at least: a map of one pixel's width would be taken for one that always has that width."""


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from the network.

    Attributes:
        path: the file.
        format: "ONNX" or "torch.export".
        size_mb: of the file, 1 MB = 10^6 bytes.
        opset: of an ONNX file.
        dtype: of the weights and outputs; images are float32.
        inputs, outputs: name -> shape; a text stands for a dimension of any size.
        smallest: (height, width) of the smallest image that a .pt2 file with free sizes takes; None for other files.
        checked: shapes of the random images that went through the file, empty without a check.
        error: the largest relative error ||file - network|| / ||network|| over all checked shapes and outputs.
        checked_with: the program that ran the file, with its version.
        texts: what the file says about itself.
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


# What the file says about itself


def _system_module(model: nn.Module, name: str) -> ModuleType | None:
    """A room of the model's system, e.g. `visionzoo.models.shvit.preprocess`, or None."""
    system = type(model).__module__.rpartition(".")[0]
    if not system.startswith("visionzoo.models."):
        return None
    try:
        return importlib.import_module(f"{system}.{name}")
    except ModuleNotFoundError as error:
        if error.name == f"{system}.{name}":
            return None
        raise


def _describe(
    model: nn.Module, name: str | None, classes: Sequence[str] | None, size: tuple[int, int]
) -> dict[str, str]:
    """Texts for the file; lists and numbers are JSON. "model", "config", "classes", "image_size" are as in our checkpoints."""
    texts = {"software": f"visionzoo {__version__}"}
    if name:
        texts["model"] = name
    config: Any = getattr(model, "config", None)
    if config is not None:
        texts["config"] = json.dumps(as_dict(config))
    if classes is not None:
        count = getattr(config, "num_classes", len(classes))
        if len(classes) != count:
            raise InputError(f"got {len(classes)} names of classes for a network with {count} classes")
        texts["classes"] = json.dumps(list(classes), ensure_ascii=False)
    texts["image_size"] = json.dumps(size[0] if size[0] == size[1] else size)
    preprocess = _system_module(model, "preprocess")
    if preprocess is not None and getattr(config, "in_chans", 3) == 3:
        texts["mean"], texts["std"] = json.dumps(preprocess.MEAN), json.dumps(preprocess.STD)
        texts["crop"] = json.dumps(preprocess.Preprocess().crop)
    return texts


# Tracing


def _prepared(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy for inference on the CPU, in the fast form if the network has one."""
    network = _reference(model)
    fuse = getattr(network, "fuse", None)
    if fuse is not None:
        network = fuse()
    return network.to(dtype).requires_grad_(False)


def _reference(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to("cpu", torch.float32).eval()


def _trace(network: nn.Module, channels: int, size: tuple[int, int], *, dynamic: bool) -> ExportedProgram:
    if dynamic:
        example = torch.zeros(2, channels, max(size[0], TRACED), max(size[1], TRACED))
        shapes = ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    else:
        example, shapes = torch.zeros(1, channels, *size), None
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # folders of the machine that exports are nobody's business
    return program


def _shapes(program: ExportedProgram) -> tuple[list[Any], list[list[Any]]]:
    """The shape of the input and those of the outputs; dimensions of any size are symbols."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    signature = program.graph_signature
    (image,) = signature.user_inputs
    return list(values[str(image)].shape), [list(values[str(out)].shape) for out in signature.user_outputs]


def _named(shape: Sequence[Any], names: Mapping[str, str]) -> tuple[int | str, ...]:
    return tuple(side if isinstance(side, int) else _rename(str(side), names) for side in shape)


def _rename(expression: str, names: Mapping[str, str]) -> str:
    """torch's symbols ("s77") in an expression, by our names ("batch")."""
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), expression)


def _smallest(program: ExportedProgram, shape: Sequence[Any]) -> tuple[int, int]:
    bounds = {str(symbol): int(bound.lower) for symbol, bound in program.range_constraints.items()}
    return bounds[str(shape[2])], bounds[str(shape[3])]


def _output_names(model: nn.Module, count: int) -> list[str]:
    strides = getattr(model, "feature_strides", ())
    if getattr(getattr(model, "config", None), "features_only", False) and len(strides) == count:
        return [f"stride{stride}" for stride in strides]
    if count == 1:
        return ["logits" if getattr(getattr(model, "config", None), "num_classes", 0) else "output"]
    return [f"output{index}" for index in range(count)]


# Writing


def _write_onnx(
    program: ExportedProgram,
    path: Path,
    outputs: list[str],
    opset: int | None,
    symbols: Mapping[str, str],
    texts: dict[str, str],
) -> int:
    """Returns the opset."""
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
    except torch.onnx.OnnxExporterError as error:  # torch 2.6 lacks parts that free sizes need
        raise VisionZooError(
            f"torch {torch.__version__} cannot write this network as ONNX ({_root(error)}); "
            "a newer torch may, and so may a fixed size (--fixed)"
        ) from error
    assert written is not None
    proto = written.model_proto
    graph: Any = proto.graph
    for value in (*graph.input, *graph.output):
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_param = _rename(side.dim_param, symbols)
    # names of Python modules and torch's symbols: an eighth of a small file, and of no use to who runs it
    del graph.value_info[:]
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
    onnx.helper.set_model_props(proto, texts)
    onnx.save_model(proto, path)
    return next(entry.version for entry in proto.opset_import if entry.domain == "")


def _write_program(program: ExportedProgram, path: Path, texts: Mapping[str, str]) -> None:
    with warnings.catch_warnings():
        # torch asks itself whether channels-last weights are whole; the check of the file says that they are
        warnings.filterwarnings("ignore", message="No complete tensor found")
        torch.export.save(program, path, extra_files={TEXTS: json.dumps(texts)})


def _root(error: BaseException) -> str:
    """The first line of what went wrong first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:160]


# Checking


def _check_shapes(channels: int, size: tuple[int, int], *, dynamic: bool) -> list[tuple[int, ...]]:
    """One image of the size; if sizes are free, also three of another, odd and oblong."""
    shapes = [(1, channels, *size)]
    if dynamic:
        shapes.append((3, channels, size[0] + 13, (size[1] * 5 // 4) | 1))
    return shapes


def _load(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """What runs a written file."""
    if path.suffix == ".pt2":
        network = torch.export.load(path).module()
        return lambda images: _as_list(network(images))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no other base
        raise VisionZooError(
            f"onnxruntime {onnxruntime.__version__} cannot load what was written ({_root(error)}); try an older opset"
        ) from error
    return lambda images: [torch.from_numpy(out) for out in session.run(None, {"images": images.numpy()})]


def _as_list(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else list(out)


def _largest_error(path: Path, reference: nn.Module, shapes: Sequence[tuple[int, ...]]) -> float:
    run = _load(path)
    draw = torch.Generator().manual_seed(0)
    errors = []
    for shape in shapes:
        images = torch.randn(shape, generator=draw)
        with torch.no_grad():
            wanted, got = _as_list(reference(images)), run(images)
        for ours, theirs in zip(wanted, got, strict=True):
            scale = ours.double().norm().clamp_min(1e-12)
            errors.append(float((theirs.double() - ours.double()).norm() / scale))
    return float(torch.tensor(errors, dtype=torch.float64).max())  # a NaN stays one


# The public way in


def export_model(
    model: nn.Module,
    path: str | PathLike[str],
    *,
    image_size: int | tuple[int, int] = 224,
    dynamic: bool = True,
    opset: int | None = None,
    check: bool = True,
    dtype: str | torch.dtype = "float32",
    name: str | None = None,
    classes: Sequence[str] | None = None,
) -> ExportReport:
    """Write `model` to `path` as ONNX (a name in .onnx) or as torch's exported program (.pt2), in one file.

    The model itself stays as it is. A copy is written in its form for inference: in eval mode, and fused where the
    network has a `fuse()`. A file that is there is replaced, once the new one is whole and right.

    Args:
        model: a network that takes images (B, C, H, W) and gives a tensor or a list of them.
        image_size: side, or (height, width), in pixels: what the check uses, and the only size with `dynamic=False`.
        dynamic: batch, height and width are free; otherwise they are 1 and `image_size`.
        opset: of ONNX, 18 or newer; None for what torch writes by itself.
        check: run the file (by onnxruntime or by torch) and compare with `model` in float32: with one image of
            `image_size` and, if sizes are free, three of another size.
        dtype: of the weights and outputs, whatever `model` has; images are float32 in any case.
        name, classes: for the texts in the file: the model's name, and those of its classes in order.

    Raises:
        InputError: another ending, a size, opset or list of classes that does not fit.
        MissingDependencyError: the packages of the extra `export` are not there (.onnx only).
        VisionZooError: the written file computes something else than the model; nothing is written then.
    """
    path = check_output(Path(path), overwrite=True)
    kind = _format(path, opset=opset, check=check)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 1:
        raise InputError(f"image_size is at least 1 pixel, got {image_size}")
    wanted = pick_dtype(dtype, torch.device("cpu"))
    if kind == "ONNX" and wanted == torch.bfloat16:
        raise InputError(f"{path}: onnxruntime has no convolutions in bfloat16; use float16, float32, or a .pt2 file")
    channels = getattr(getattr(model, "config", None), "in_chans", 3)
    texts = _describe(model, name, classes, (height, width))
    program = _trace(_prepared(model, wanted), channels, (height, width), dynamic=dynamic)
    shape, out_shapes = _shapes(program)
    symbols = dict(zip(map(str, shape), ("batch", "channels", "height", "width"), strict=True)) if dynamic else {}
    outputs = _output_names(model, len(out_shapes))
    # an ONNX file has no such bound: it comes from how torch describes memory
    smallest = _smallest(program, shape) if dynamic and kind == "torch.export" else None
    if smallest and (height < smallest[0] or width < smallest[1]):
        raise InputError(
            f"{path}: with free sizes the smallest image in this format is {smallest[0]} x {smallest[1]}, asked for "
            f"{height} x {width}; write .onnx instead, or fix the size (--fixed)"
        )
    shapes = _check_shapes(channels, (height, width), dynamic=dynamic) if check else []
    error = None
    with atomic_path(path) as temporary:
        if kind == "ONNX":
            version = _write_onnx(program, temporary, outputs, opset, symbols, texts)
            if opset is not None and version != opset:
                raise InputError(f"torch {torch.__version__} cannot write opset {opset}; leave it out for {version}")
        else:
            version = None
            _write_program(program, temporary, texts)
        if check:
            error = _largest_error(temporary, _reference(model), shapes)
            if not error <= TOLERANCE.get(wanted, 1e-4):
                raise VisionZooError(
                    f"{path}: not written, as it computes something else than the network (relative error {error:.1e}); "
                    "try another opset or format, or --no-check to have the file all the same"
                )
        size = temporary.stat().st_size
    return ExportReport(
        path=str(path),
        format=kind,
        size_mb=size / 1e6,
        opset=version,
        dtype=str(wanted).removeprefix("torch."),
        inputs={"images": _named(shape, symbols)},
        outputs=dict(zip(outputs, (_named(out, symbols) for out in out_shapes), strict=True)),
        smallest=smallest,
        checked=tuple(shapes),
        error=error,
        checked_with=_runtime(kind) if check else None,
        texts=texts,
    )


def _format(path: Path, *, opset: int | None, check: bool) -> str:
    """The format that the name asks for, if what writes it is installed."""
    kind = FORMATS.get(path.suffix)
    if kind is None:
        raise InputError(f"{path}: the ending says the format, and is one of {', '.join(FORMATS)}")
    if kind != "ONNX":
        if opset is not None:
            raise InputError(f"{path}: opset is for .onnx files only; leave it out")
        return kind
    onnx = require("onnx", extra="export", purpose="writing ONNX")
    require("onnxscript", extra="export", purpose="writing ONNX")
    if check:
        require("onnxruntime", extra="export", purpose="checking the ONNX file")
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not OLDEST_OPSET <= opset <= newest:
        raise InputError(f"opset is {OLDEST_OPSET} to {newest}, got {opset}")
    return kind


def _runtime(kind: str) -> str:
    if kind != "ONNX":
        return f"torch {torch.__version__}"
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def export_registered(
    name: str,
    path: str | PathLike[str],
    *,
    checkpoint: str | PathLike[str] | None = None,
    random: bool = False,
    image_size: int | None = None,
    **options: Any,
) -> ExportReport:
    """`export_model` for a registered name: builds the network and says in the file what it is.

    Args:
        name: with or without the tag of published weights, which are loaded unless another source is given.
        checkpoint: load this file instead. One of our own training says its classes, image size and configuration.
        random: random weights, to try a deployment out.
        image_size: side in pixels; None for what the weights were trained at.
        **options: of `export_model`.

    Raises:
        InputError: a model that cannot be exported, or a checkpoint of another one; and as `export_model`.
    """
    card = registry.model_card(name)
    if not _can_load(card.name):
        known = ", ".join(name for name in registry.list_models() if _can_load(name))
        raise InputError(f"{name}: models of the task {card.task!r} cannot be exported yet; those that can: {known}")
    if random and checkpoint is not None:
        raise InputError("give either a checkpoint or random weights, not both")
    _format(Path(path), opset=options.get("opset"), check=options.get("check", True))  # before weights are downloaded
    published = None if random or checkpoint is not None else registry.weight_source(name)
    file = weights.fetch(published) if published else checkpoint
    stored = read_stored(file) if file is not None else Stored()
    if stored.model not in (None, card.name):
        raise InputError(f"{file}: holds weights of {stored.model}, not of {card.name}; export {stored.model}")
    model = registry.create_model(card.name) if file is None else _load_classifier(file, card.name, stored.config)
    classes = stored.classes
    if classes is None and published and model.config.num_classes == 1000:  # pyright: ignore[reportAttributeAccessIssue]
        classes = imagenet_classes()
    preprocess = _system_module(model, "preprocess")
    usual = stored.image_size or (preprocess.Preprocess.of(card.name).size if preprocess else 224)
    return export_model(
        model,
        path,
        image_size=usual if image_size is None else image_size,
        name=published.name if published else card.name,
        classes=classes,
        **options,
    )


def _load_classifier(file: str | PathLike[str], name: str, config: Mapping[str, Any]) -> nn.Module:
    """By the system's own `loading.py`, found through the registry: the ground floor imports no system."""
    return importlib.import_module(_loading(name)).load_classifier(file, name, config)


def _can_load(name: str) -> bool:
    """Whether the model's system has a `loading.py`: those are the classifiers, which can be exported."""
    return importlib.util.find_spec(_loading(name)) is not None


def _loading(name: str) -> str:
    return registry.model_entry(name).builder.partition(":")[0].rpartition(".")[0] + ".loading"
