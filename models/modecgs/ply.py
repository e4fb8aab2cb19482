"""Columns of `.ply` files by name: point clouds of Gaussians or anchors in any order of properties, text or binary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionzoo.errors import InputError, require
from visionzoo.io.files import atomic_path
from visionzoo.io.head import read_head

Values = NDArray[np.float32]
Columns = dict[str, Values]

GAUSSIAN_COLUMNS = [
    "x", "y", "z", "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4)),
    *(f"f_dc_{i}" for i in range(3)),
]  # fmt: skip


def read_elements(path: Path) -> dict[str, Any]:
    """The elements of a file by name, as structured arrays. Large files are mapped, not loaded.

    Raises:
        InputError: missing, another kind of file, damaged, or truncated.
    """
    ply = require("plyfile", extra="gs", purpose="reading .ply files")
    head = read_head(path, "a .ply file")
    if not head.startswith(b"ply"):
        raise InputError(f"{path}: is not a .ply file")
    try:
        return {element.name: element.data for element in ply.PlyData.read(str(path)).elements}
    except Exception as error:  # plyfile raises its own errors, and any other for a damaged header
        raise InputError(f"{path}: is a damaged or truncated .ply file ({str(error)[:160]}); copy it again") from error


def read_columns(path: Path) -> Columns:
    """The columns of a file's vertices. Errors are those of `read_elements`."""
    elements = read_elements(path)
    if "vertex" not in elements:
        raise InputError(f"{path}: has no vertices; expected the Gaussians or anchors of a scene")
    return columns_of(elements["vertex"], path)


def columns_of(vertices: Any, path: Path) -> Columns:
    """The columns of a structured array, as float32."""
    names = vertices.dtype.names or ()
    if any(vertices.dtype[name].kind not in "fiu" for name in names):
        raise InputError(f"{path}: has lists among its vertices; they must be the numbers of Gaussians or anchors")
    with np.errstate(over="ignore"):  # infinity is found later
        return {name: np.ascontiguousarray(vertices[name], dtype=np.float32) for name in names}


def write_columns(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write the columns of vertices as float32, little endian, atomically."""
    ply = require("plyfile", extra="gs", purpose="writing .ply files")
    count = len(next(iter(columns.values())))
    vertices = np.empty(count, dtype=[(name, "<f4") for name in columns])
    for name, value in columns.items():
        vertices[name] = value
    with atomic_path(path) as temporary:
        ply.PlyData([ply.PlyElement.describe(vertices, "vertex")], byte_order="<").write(str(temporary))


def require_columns(cloud: Mapping[str, Values], names: Sequence[str], path: Path, expected: str) -> None:
    """Raise `InputError` if a column is missing."""
    missing = [name for name in names if name not in cloud]
    if missing:
        raise InputError(f"{path}: has no columns {', '.join(missing)}, expected {expected}")


def side_by_side(cloud: Mapping[str, Values], prefix: str, path: Path) -> Values:
    """The columns prefix_0, prefix_1, … (N, count)."""
    numbers = sorted(int(name.removeprefix(prefix)) for name in cloud if re.fullmatch(re.escape(prefix) + r"\d+", name))
    if numbers != list(range(len(numbers))):
        raise InputError(f"{path}: lacks some of the columns {prefix}0 to {prefix}{numbers[-1]}")
    count = len(next(iter(cloud.values())))
    return np.stack([cloud[f"{prefix}{n}"] for n in numbers], axis=1) if numbers else np.zeros((count, 0), np.float32)


def harmonics_of(cloud: Mapping[str, Values], path: Path) -> Values:
    """Spherical harmonics (N, K, 3) of columns f_dc and f_rest; those of f_rest are stored by channel."""
    rest = side_by_side(cloud, "f_rest_", path)
    if rest.shape[1] not in (0, 9, 24, 45):
        raise InputError(f"{path}: the number of columns f_rest must be 0, 9, 24 or 45, got {rest.shape[1]}")
    constant = np.stack([cloud[f"f_dc_{i}"] for i in range(3)], axis=1)[:, None]
    return np.concatenate([constant, rest.reshape(len(rest), 3, rest.shape[1] // 3).transpose(0, 2, 1)], axis=1)


def gaussian_columns(means: Values, scales: Values, quats: Values, opacities: Values, harmonics: Values) -> Columns:
    """The columns of a 3D Gaussian Splatting file, in its usual order.

    Args:
        means: (N, 3).
        scales: (N, 3), logarithms.
        quats: (N, 4), w first.
        opacities: (N,), logits.
        harmonics: (N, K, 3).
    """
    zeros = np.zeros(len(means), np.float32)
    rest = harmonics[:, 1:].transpose(0, 2, 1).reshape(len(means), -1)
    columns = {axis: means[:, i] for i, axis in enumerate("xyz")}
    columns |= dict.fromkeys(("nx", "ny", "nz"), zeros)
    columns |= {f"f_dc_{i}": harmonics[:, 0, i] for i in range(3)}
    columns |= {f"f_rest_{i}": rest[:, i] for i in range(rest.shape[1])}
    columns["opacity"] = opacities
    columns |= {f"scale_{i}": scales[:, i] for i in range(3)}
    return columns | {f"rot_{i}": quats[:, i] for i in range(4)}


__all__ = [
    "GAUSSIAN_COLUMNS",
    "columns_of",
    "gaussian_columns",
    "harmonics_of",
    "read_columns",
    "read_elements",
    "require_columns",
    "side_by_side",
    "write_columns",
]
