"""antimatter15's `.splat`: 32 bytes per Gaussian, no header, one colour for all views.

Centre and scale are three floats each; colour and opacity are 4 bytes; the rotation is 4 bytes, 128 + 128 q. The most visible
Gaussians come first, since viewers show a file while it is loading.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from visionzoo.errors import InputError
from visionzoo.io.files import atomic_path

from ..fourdgs import SH_ZERO
from .stored import Stored, logit

RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("color", "u1", 4), ("rotation", "u1", 4)])


def write_splat(path: Path, stored: Stored) -> None:
    """Write a `.splat`, atomically; only the constant harmonic of the colours is kept."""
    records = np.empty(len(stored), RECORD)
    records["mean"], records["scale"] = stored.means, np.exp(stored.scales)
    colors = np.concatenate([stored.harmonics[:, 0] * SH_ZERO + 0.5, stored.alphas[:, None]], axis=1)
    records["color"] = np.clip(np.round(colors * 255), 0, 255)
    records["rotation"] = np.clip(np.round(stored.quats * 128 + 128), 0, 255)
    visible = stored.scales.sum(axis=1) + np.log(stored.alphas)
    with atomic_path(path) as temporary:
        records[np.argsort(-visible, kind="stable")].tofile(temporary)


def read_splat(path: Path) -> Stored:
    """The Gaussians of a `.splat`.

    Raises:
        InputError: truncated, or not a `.splat`.
    """
    size = path.stat().st_size
    if size % RECORD.itemsize:
        raise InputError(
            f"{path}: is truncated, or is not a .splat file: its size must be a multiple of {RECORD.itemsize} bytes, got {size}"
        )
    records = np.fromfile(path, RECORD)
    usable = np.isfinite(records["mean"]).all(1) & np.isfinite(records["scale"]).all(1) & (records["scale"] >= 0).all(1)
    if usable.mean() < 0.5:
        raise InputError(f"{path}: is not a .splat file, as most of its scales are not positive numbers")
    colors = records["color"].astype(np.float32) / 255
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.log(records["scale"])
    return Stored(
        records["mean"].astype(np.float32),
        scales.astype(np.float32),
        ((records["rotation"].astype(np.float32) - 128) / 128).astype(np.float32),
        logit(colors[:, 3]),
        ((colors[:, None, :3] - 0.5) / SH_ZERO).astype(np.float32),
    )


__all__ = ["read_splat", "write_splat"]
