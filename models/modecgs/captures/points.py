"""Point clouds in files: .ply by property name, whatever else the file holds, and the arrays of Nerfies."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from visionzoo.errors import InputError, require
from visionzoo.io.files import atomic_path
from visionzoo.io.head import read_head

from .capture import Points

_GREY = 0.5


def read_points(path: str | Path) -> Points:
    """Positions and colours of a .ply (text or binary) or an array .npy (N, 3) or (N, 6).

    Colours are `red`, `green`, `blue` of the file (bytes, or floats in [0, 1]); without them, all points are grey.

    Raises:
        InputError: the file is missing, damaged, or has no positions.
    """
    path = Path(path)
    read_head(path, "a point cloud")
    return _from_array(path) if path.suffix == ".npy" else _from_ply(path)


def _from_array(path: Path) -> Points:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as an array of points ({error}); copy it again") from error
    if array.ndim != 2 or array.shape[1] not in (3, 6) or not np.issubdtype(array.dtype, np.number):
        raise InputError(f"{path}: must be an array of points (N, 3) or (N, 6), got {array.shape}")
    positions = array[:, :3].astype(np.float64)
    return Points(positions, _unit(array[:, 3:]) if array.shape[1] == 6 else np.full_like(positions, _GREY))


def _from_ply(path: Path) -> Points:
    plyfile = require("plyfile", extra="gs", purpose=f"reading {path.name}")
    try:
        vertices = plyfile.PlyData.read(str(path))["vertex"].data
    except (plyfile.PlyParseError, KeyError, ValueError, UnicodeDecodeError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as a .ply point cloud ({error}); copy it again") from error
    names = vertices.dtype.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise InputError(f"{path}: its vertices have no x, y and z (found {', '.join(names) or 'nothing'})")
    positions = np.stack([np.asarray(vertices[axis], np.float64) for axis in "xyz"], axis=1)
    if not {"red", "green", "blue"} <= set(names):
        return Points(positions, np.full_like(positions, _GREY))
    return Points(positions, _unit(np.stack([np.asarray(vertices[name]) for name in ("red", "green", "blue")], axis=1)))


def _unit(colours: np.ndarray) -> np.ndarray:
    scale = 255.0 if np.issubdtype(colours.dtype, np.integer) else 1.0
    return np.clip(colours.astype(np.float64) / scale, 0, 1)


def write_points(path: str | Path, points: Points) -> None:
    """Write a binary .ply with 8-bit colours, as the readers of other packages expect it."""
    plyfile = require("plyfile", extra="gs", purpose="writing point clouds")
    kinds = [(axis, "f4") for axis in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    vertices = np.empty(len(points), dtype=kinds)
    for axis, values in zip("xyz", points.positions.T, strict=True):
        vertices[axis] = values
    for name, values in zip(("red", "green", "blue"), points.colours.T, strict=True):
        vertices[name] = np.rint(np.clip(values, 0, 1) * 255)
    with atomic_path(Path(path)) as temporary:
        plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")], byte_order="<").write(str(temporary))
