"""A moving scene to reconstruct."""

from __future__ import annotations

from pathlib import Path

from visionzoo.io.files import bundled, copy_bundled

PARTS = ("", "train", "test")


def write_samples(folder: str | Path, overwrite: bool = False) -> list[Path]:
    """A copy of the bundled scene: a running fox, as images with cameras and times in D-NeRF's layout, and its licence.

    Raises:
        InputError: the folder or a file cannot be written, or a file exists and `overwrite` is off.
    """
    folder, paths = Path(folder), []
    for part in PARTS:
        names = sorted(path.name for path in bundled("fox", part).iterdir() if path.is_file())
        paths += copy_bundled(f"fox/{part}", folder / part, names, overwrite=overwrite)
    return paths


__all__ = ["write_samples"]
