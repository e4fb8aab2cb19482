"""Kernels of the optional package xformers."""

from __future__ import annotations

import functools
import importlib
import logging
import re
import warnings
from importlib import metadata, util
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..call import AttentionCall
from .base import Backend

__all__ = ["XformersBackend"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class XformersBackend(Backend):
    """Attention without a mask on CUDA, if xformers is installed. The backward pass is ours (`gradient.py`)."""

    name: ClassVar[str] = "xformers"
    autograd: ClassVar[Literal["none", "output", "both"]] = "none"

    def unavailable(self) -> str | None:
        return _problem()

    def supports(self, call: AttentionCall) -> str | None:
        if call.q.device.type != "cuda":
            return f"its kernels run on CUDA, not on {call.q.device.type}"
        if call.q.dtype not in _DTYPES:
            return f"it computes in float32, float16 and bfloat16, not {str(call.q.dtype).removeprefix('torch.')}"
        if call.mask is not None:
            return "for masks, sdpa and flex have the same or faster kernels"
        multiple = 16 // call.q.element_size()
        if call.q.shape[3] % multiple or call.v.shape[3] % multiple:
            return (
                f"widths must be multiples of {multiple} in this dtype, got {call.q.shape[3]} and {call.v.shape[3]}: "
                "its kernels read 16 bytes at a time"
            )
        return None

    def forward(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        # theirs is (batch, length, heads, width)
        q, k, v = (_readable(tensor).transpose(1, 2) for tensor in (call.q, call.k, call.v))
        if not call.needs_lse:
            out = _ops().memory_efficient_attention_forward(q, k, v, scale=call.scale)
            return out.transpose(1, 2), None
        out, lse = _ops().memory_efficient_attention_forward_requires_grad(q, k, v, scale=call.scale)
        # some kernels pad the rows of the log-sum-exp to a multiple of 32
        return out.transpose(1, 2), lse[..., : call.q.shape[2]].float()


def _readable(tensor: Tensor) -> Tensor:
    """The tensor itself if its rows are contiguous and start at multiples of 16 bytes, else a copy."""
    multiple = 16 // tensor.element_size()
    aligned = tensor.data_ptr() % 16 == 0 and all(stride % multiple == 0 for stride in tensor.stride()[:3])
    return tensor if aligned and tensor.stride(3) == 1 else tensor.contiguous()


@functools.cache
def _ops() -> Any:
    return _quietly("xformers.ops")


@functools.cache
def _problem() -> str | None:
    if util.find_spec("xformers") is None:
        return "the package xformers is not installed"
    name = f"xformers {_version('xformers')}"
    try:
        library = _quietly("xformers._cpp_lib")
        _ops()
    except Exception as error:  # a package built for another torch can raise anything on import
        return f"{name} does not import ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    failure = getattr(library, "_cpp_library_load_exception", None)
    if failure is None:
        return None
    built = re.search(r"PyTorch (\S+)", str(failure))
    return f"the extension of {name} does not load with torch {torch.__version__}" + (
        f": it was built for torch {built[1]}; install that torch, or the release of xformers for yours"
        if built
        else ""
    )


def _quietly(module: str) -> Any:
    """Import without the package's own messages; this backend reports the problem when it is requested."""
    logger = logging.getLogger("xformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    finally:
        logger.setLevel(level)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"
