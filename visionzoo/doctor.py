"""Facts about this installation: versions, devices, attention backends, optional packages, folders."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from .registry import Need, pipeline_entries

OWN = (
    Need("lightning", "train", "visionzoo fit, validate, test, predict"),
    Need("omegaconf", "train", "configuration files"),
    Need("gradio", "demo", "visionzoo demo"),
    Need("onnx", "export", "visionzoo export to .onnx"),
    Need("onnxscript", "export", "visionzoo export to .onnx"),
    Need("onnxruntime", "export", "checking and running .onnx files"),
    Need("faiss", "retrieval", "half-precision and approximate vector indexes"),
    Need("qdrant_client", "qdrant", "vector indexes in a database"),
    Need("tifffile", "raster", "TIFF files, of any size and type"),
    Need("imagecodecs", "raster", "TIFF files with LZW, ZSTD, JPEG and other compressions"),
    Need("zarr", "raster", "zarr arrays"),
    Need("pyvips", "raster", "PNG and JPEG files of more than 64 million pixels, 16-bit colour PNG"),
    Need("av", "video", "reading and writing videos"),
    Need("ray", "ray", "--engine ray: many files on several processes or machines"),
    Need("diffusers", "diffusion", "diffusion models and pipelines"),
    Need("peft", "diffusion", "LoRA on diffusion models"),
    Need("numba", "gs", "Gaussian splatting on a CPU"),
    Need("gsplat", "gs", "Gaussian splatting on CUDA"),
    Need("xformers", "xformers", "an attention backend on CUDA"),
)
"""Optional packages of the base package; tasks register their own."""


def needs() -> list[Need]:
    """All optional packages, each once."""
    found = {need.module: need for entry in pipeline_entries() for need in entry.needs}
    return list({**found, **{need.module: need for need in OWN}}.values())


def examine(*, deep: bool = False) -> dict[str, dict[str, Any]]:
    """Collect the facts: section -> name -> finding, as JSON values.

    Args:
        deep: also run every attention backend, which compiles some of them and takes about 15 seconds.
    """
    import torch

    from . import registry, weights
    from .attention import report, select
    from .devices import environment, pick_device, pick_dtype
    from .faces import detector_reasons

    facts = environment()
    device = pick_device("auto")
    devices: dict[str, Any] = {
        "auto": f"{device} in {str(pick_dtype('auto', device)).removeprefix('torch.')}",
        "cpu": facts["processor"],
    }
    for number, name in enumerate(facts["gpus"]):
        free, total = torch.cuda.mem_get_info(number)
        devices[f"cuda:{number}"] = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    if not facts["gpus"]:
        devices["cuda"] = f"none: {_cuda_problem()}"
    devices["threads"] = facts["threads"]
    return {
        "versions": {"python": facts["python"], **facts["versions"]},
        "devices": devices,
        "attention backends": report.backends(device),
        **({"attention backends, run": report.trials(device)} if deep else {}),
        f"attention, auto on {device.type}": {
            **report.rules(device),
            "override": _override(os.environ.get(select.VARIABLE)),
        },
        "optional packages": {need.module: _optional(need) for need in needs()},
        "face detectors": {name: reason or "works" for name, reason in detector_reasons().items()},
        "compiling": {"C++ compiler": _compiler()},
        "weights": {
            "folder": str(weights.weights_dir()),
            "offline": weights.offline(),
            "here": ", ".join(source.name for source in registry.all_sources() if weights.locate(source)) or "none",
        },
    }


def _override(variable: str | None) -> str:
    how = "VISIONZOO_ATTENTION=NAME[,NAME…], or `with visionzoo.attention.attention_backend(NAME):`"
    return f"VISIONZOO_ATTENTION={variable} is set" if variable else f"none; {how}"


def _compiler() -> str:
    purpose = "torch.compile, and commands with --compile"
    found = shutil.which(os.environ.get("CXX") or "g++")
    return f"{found}: {purpose}" if found else f"missing: {purpose}; Debian: apt install g++"


def _optional(need: Need) -> str:
    if importlib.util.find_spec(need.module) is None:
        return f"missing: {need.purpose}; pip install 'visionzoo[{need.extra}]'"
    if need.module == "xformers":  # it imports with any torch, but may lack its kernels
        from .attention.select import backend_named

        if (reason := backend_named("xformers").unavailable()) is not None:
            return f"does not work: {reason}"
    version = _version(need.module)
    return f"{version}: {need.purpose}" if version else f"here: {need.purpose}"


def _version(module: str) -> str | None:
    """The version of the package that provides a module; most have the same name."""
    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        others = _distributions().get(module)
        return metadata.version(others[0]) if others else None


@functools.cache
def _distributions() -> Mapping[str, Sequence[str]]:
    """Module -> packages that provide it. Reads the file list of every installed package, which takes a second."""
    return metadata.packages_distributions()


def _cuda_problem() -> str:
    import torch

    if torch.version.cuda is None:
        return "this build of torch has no CUDA"
    return f"torch is built for CUDA {torch.version.cuda}, but no driver or device answers"
