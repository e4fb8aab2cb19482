"""Files of static Gaussians: 3DGS `.ply`, PlayCanvas's `.compressed.ply`, Niantic's `.spz` and antimatter15's `.splat`.

All of them keep the scene's coordinates (x right, y down, z forward for a camera at rest). Of a file that is read, the content
decides about the format.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from visionzoo.errors import InputError
from visionzoo.io.head import read_head

from ..gaussians import Gaussians
from ..ply import (
    GAUSSIAN_COLUMNS,
    columns_of,
    gaussian_columns,
    harmonics_of,
    read_elements,
    require_columns,
    write_columns,
)
from .compressed import is_compressed, read_compressed, write_compressed
from .formats import FORMATS, splat_format
from .splat import read_splat, write_splat
from .spz import read_spz, write_spz
from .stored import Stored, restore, store

_SPZ_MAGIC = (b"\x1f\x8b", b"NGSP")


def write_splats(gaussians: Gaussians, path: str | Path, *, offset: np.ndarray | None = None) -> dict[str, Any]:
    """Write static Gaussians, atomically, in the format of the extension.

    Gaussians whose opacity is at most 1 / 255, which nothing draws, and those that are not finite are left out.

    Args:
        gaussians: with RGB colours or harmonics (`bake`).
        path: ends with one of `FORMATS`; an existing file is replaced.
        offset: (3,), what is subtracted from the centres of an `.spz`; see `write_spz`.

    Returns:
        Facts for a record: "format", "gaussians", "sh_degree", "bytes", and for `.spz` those of `write_spz`.

    Raises:
        InputError: another extension, or no Gaussian is left.
        MissingDependencyError: the package of the format is not installed.
    """
    path, ending = Path(path), splat_format(path)
    stored = store(gaussians)
    if not len(stored):
        raise InputError(f"{path}: not written, because none of the {len(gaussians)} Gaussians is visible")
    facts: dict[str, Any] = {
        "format": ending,
        "gaussians": len(stored),
        "sh_degree": 0 if ending == ".splat" else stored.sh_degree,
    }
    if ending == ".ply":
        write_columns(path, gaussian_columns(*vars(stored).values()))
    elif ending == ".compressed.ply":
        write_compressed(path, stored)
    elif ending == ".spz":
        facts |= write_spz(path, stored, offset)
    else:
        write_splat(path, stored)
    return {**facts, "bytes": path.stat().st_size}


def read_splats(path: str | Path) -> Gaussians:
    """Read static Gaussians. Those that are not finite are left out with a warning.

    Returns:
        Gaussians with harmonics of the file's degree (0 to 3), on the CPU.

    Raises:
        InputError: missing, empty, truncated, damaged, or another kind of file, such as a mesh or a point cloud.
        MissingDependencyError: the package of the format is not installed.
    """
    path = Path(path)
    head = read_head(path, f"a file of Gaussians ({', '.join(FORMATS)})")
    if head.startswith(b"ply"):
        stored = _read_ply(path)
    elif head.startswith(_SPZ_MAGIC):
        stored = read_spz(path)
    elif path.name.lower().endswith(".splat"):
        stored = read_splat(path)
    else:
        raise InputError(f"{path}: is not a file of Gaussians; expected {', '.join(FORMATS)}")
    if not len(stored):
        raise InputError(f"{path}: holds no Gaussians; export it again")
    gaussians, left_out = restore(stored)
    if not len(gaussians):
        raise InputError(f"{path}: none of its {len(stored)} Gaussians is finite; export it again")
    if left_out:
        warnings.warn(f"{path}: {left_out} of {len(stored)} Gaussians are not finite and were left out", stacklevel=2)
    return gaussians


def _read_ply(path: Path) -> Stored:
    elements = read_elements(path)
    if is_compressed(elements):
        return read_compressed(path, elements)
    if "face" in elements and len(elements["face"]):
        raise InputError(f"{path}: is a mesh, expected Gaussians (a .ply with opacity, scale_0, rot_0, f_dc_0, …)")
    if "vertex" not in elements:
        raise InputError(f"{path}: has no vertices, expected Gaussians")
    cloud = columns_of(elements["vertex"], path)
    if "f_anchor_feat_0" in cloud:
        raise InputError(
            f"{path}: holds anchors of MoDec-GS or Scaffold-GS, which are no Gaussians by themselves; "
            "give the whole output folder of the training"
        )
    if "opacity" not in cloud and "scale_0" not in cloud:
        raise InputError(f"{path}: is a point cloud, expected Gaussians (columns opacity, scale_0, rot_0, f_dc_0, …)")
    require_columns(cloud, GAUSSIAN_COLUMNS, path, "Gaussians")
    return Stored(
        np.stack([cloud[axis] for axis in "xyz"], axis=1),
        np.stack([cloud[f"scale_{i}"] for i in range(3)], axis=1),
        np.stack([cloud[f"rot_{i}"] for i in range(4)], axis=1),
        cloud["opacity"],
        harmonics_of(cloud, path),
    )


__all__ = ["read_splats", "write_splats"]
