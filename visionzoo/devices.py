"""Choice of device and dtype, seeds, and a record of the environment."""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .console import counted
from .errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_AUTOCAST = ("cpu", "cuda", "mps", "xpu")  # torch raises for others


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device to use: "auto" is CUDA, then MPS, then CPU. Raises `InputError` for a device that this machine lacks."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"unknown device {device!r}; use auto, cpu, cuda, cuda:1 or mps") from error
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise InputError(
            f"device {device!r} is not available: torch sees {counted(torch.cuda.device_count(), 'CUDA device')}; use --device cpu"
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"device {device!r} is not available on this machine; use --device cpu")
    return chosen


def pick_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to use: "auto" is bfloat16 on a CUDA device that supports it, else float32. Raises `InputError` for others."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported(False) else torch.float32
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; use auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 instructions; a CPU without them (AMX, AVX512-BF16) is slower in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(False)
    checks = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return device.type == "cpu" and any(check() for check in checks if check is not None)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype of autocast on this device; None if it is off."""
    if device.type not in _AUTOCAST or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context without autocast, for positions, angles and inverses, which need full precision. The caller casts the inputs."""
    return nullcontext() if autocast_dtype(device) is None else torch.autocast(device.type, enabled=False)


def free_memory(device: torch.device) -> int:
    """Free memory of a device in bytes; for main memory, what the system and its container allow.

    If it cannot be determined, 2 GiB.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(1024 * int(line.split()[1]))
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # another operating system, or no limit ("max")
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    return max(0, min(found, default=2 << 30))


def environment() -> dict[str, Any]:
    """The environment of a measurement or result: versions, processor, device names."""
    versions = {}
    for package in (
        "visionzoo",
        "torch",
        "torchvision",
        "numpy",
        "pillow",
        "timm",
        "lightning",
        "diffusers",
        "peft",
        "faiss-cpu",
    ):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "versions": versions,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: `platform` knows less
    return platform.processor() or platform.machine()
