"""A scene from a folder, whatever published layout it has."""

from __future__ import annotations

from pathlib import Path

from visionzoo.errors import InputError

from .blender import is_blender, read_blender
from .capture import Capture
from .checking import checked
from .colmap import Protocol, find_model, read_colmap
from .dynerf import is_dynerf, read_dynerf
from .nerfies import is_nerfies, read_nerfies


def read_capture(
    folder: str | Path,
    *,
    downscale: int | None = None,
    masks: str | Path | None = None,
    protocol: Protocol = "held-out",
) -> Capture:
    """The scene in a folder of Nerfies, HyperNeRF, DyCheck, COLMAP, Nvidia, D-NeRF or DyNeRF.

    Args:
        folder: the scene; its layout is recognised by the files in it.
        downscale: which size to read, in layouts that hold several (published: 2).
        masks: a folder of masks for a COLMAP model.
        protocol: which frames of a COLMAP model are test views, see `read_colmap`.

    Raises:
        InputError: the layout is not recognised, a file is missing or damaged, or the scene cannot be reconstructed
            (see `checked`).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a scene (images with cameras)")
    if is_nerfies(folder):
        return checked(read_nerfies(folder, downscale=downscale or 2))
    if is_blender(folder):
        return checked(read_blender(folder))
    if is_dynerf(folder):
        return checked(read_dynerf(folder))
    if find_model(folder):
        return checked(read_colmap(folder, protocol=protocol, masks=masks))
    raise InputError(
        f"{folder}: is not a scene in a known layout; expected dataset.json (Nerfies, HyperNeRF, DyCheck), transforms_train.json "
        "(D-NeRF), poses_bounds.npy (DyNeRF) or sparse/ (COLMAP)"
    )
