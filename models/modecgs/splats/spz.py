"""Niantic's `.spz`, about a tenth of a `.ply`: fixed-point centres, 8 bits for almost everything else, compressed by gzip.

Centres have 24 bits. With the usual 12 of them behind the point they end at ±2048; packages clamp or wrap what lies beyond without a
word. So a scene that reaches further is moved to the origin first, and the number of bits behind the point fits its size.

Version 3 is written: rotations of version 2 are off by up to 9 degrees, and fewer programs read version 4.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from visionzoo.errors import InputError, VisionZooError, require
from visionzoo.io.files import atomic_path
from visionzoo.io.head import read_head

from .stored import MARGIN, Stored

REACH = 2047.0
"""Scenes within this distance of the origin, along every axis, stay where they are."""

MOST_BITS = 20
"""Bits behind the point of a centre, at most."""

_backend = threading.Lock()


def offset_of(means: np.ndarray) -> np.ndarray:
    """(3,) float64: what to subtract from the centres (N, 3) before they are written; 0 unless they reach too far."""
    if not len(means) or np.abs(means).max() <= REACH:
        return np.zeros(3)
    return (means.min(axis=0).astype(np.float64) + means.max(axis=0)) / 2


def write_spz(path: Path, stored: Stored, offset: np.ndarray | None = None) -> dict[str, Any]:
    """Write an `.spz`, atomically.

    Args:
        offset: (3,), subtracted from the centres; by default that of `offset_of`. Frames of a sequence need the same one.

    Returns:
        "offset", "position_step" (the grid on which centres lie), and "clipped", the share of harmonics beyond ±1.
    """
    gsply = _gsply()
    offset = offset_of(stored.means) if offset is None else offset
    means = (stored.means - offset).astype(np.float32)
    reach = max(float(np.abs(means).max()), 1e-9)
    bits = int(np.clip(math.floor(math.log2(((1 << 23) - 1) / reach)), 1, MOST_BITS))
    rest = stored.harmonics[:, 1:]
    data = gsply.GSData.from_arrays(
        means, stored.scales, stored.quats, stored.opacities, stored.harmonics[:, 0], rest if rest.shape[1] else None,
        format="ply",
    )  # fmt: skip
    with atomic_path(path) as temporary:
        gsply.write_spz(temporary, data, version=3, fractional_bits=bits)
    clipped = float((np.abs(rest) > 1).mean()) if rest.size else 0.0
    return {"offset": offset.tolist(), "position_step": 2.0**-bits, "clipped": round(clipped, 6)}


def read_spz(path: Path) -> Stored:
    """The Gaussians of an `.spz` of any version up to 4.

    Raises:
        InputError: missing, another kind of file, damaged, truncated, or of a newer version.
    """
    read_head(path, "an .spz file")
    gsply = _gsply()
    try:
        with (
            _backend
        ):  # its compiled reader; the other one is compiled when it is first used, which takes half a minute
            chosen = gsply._backend.selected_backend()
            gsply.use_backend("auto")
            try:
                data = gsply.read_spz(path)
            finally:
                gsply.use_backend(chosen)
    except (ValueError, RuntimeError, MemoryError, OSError) as error:
        reason = str(error).split(str(path))[0].rstrip(": ")
        raise InputError(
            f"{path}: is a damaged or truncated .spz file ({reason[:160]}); copy or export it again"
        ) from error
    means, scales, quats, opacities, constant = (
        np.array(value, np.float32) for value in (data.means, data.scales, data.quats, data.opacities, data.sh0)
    )
    rest = [] if data.shN is None or not np.size(data.shN) else [np.asarray(data.shN, np.float32)]
    edge = math.log((1 - MARGIN) / MARGIN)
    return Stored(
        means, scales, quats, np.clip(opacities, -edge, edge), np.concatenate([constant[:, None], *rest], axis=1)
    )


def _gsply() -> ModuleType:
    try:
        return require("gsply", extra="gs", purpose="reading and writing .spz files")
    except RuntimeError as error:  # numba found no place for its cache
        raise VisionZooError(
            f"gsply cannot be imported ({str(error)[:120]}); set NUMBA_CACHE_DIR to a folder that can be written"
        ) from error


__all__ = ["MOST_BITS", "REACH", "offset_of", "read_spz", "write_spz"]
