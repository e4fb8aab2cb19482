"""Images and videos of faces to try reenactment with."""

from __future__ import annotations

from pathlib import Path

from visionzoo.io.files import copy_bundled


def write_samples(folder: str | Path, overwrite: bool = False) -> list[Path]:
    """Copies of the bundled images and videos, in a folder that is made if it does not exist.

    Raises:
        InputError: the folder or a file cannot be written, or a file exists.
    """
    return copy_bundled("talking", folder, ["woman.jpg", "woman.mp4", "man.jpg", "man.mp4"], overwrite=overwrite)


__all__ = ["write_samples"]
