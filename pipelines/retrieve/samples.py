"""Photos to index and queries to search with."""

from __future__ import annotations

from pathlib import Path

from visionzoo.io.files import bundled, copy_bundled
from visionzoo.io.image import list_images

PARTS = ("photos", "queries")


def write_samples(folder: str | Path, overwrite: bool = False) -> list[Path]:
    """Copies of the bundled photos and queries, in the subfolders `photos` and `queries`, and of the file that states their licences.

    Raises:
        InputError: the folder or a file cannot be written, or a file exists and `overwrite` is off.
    """
    folder = Path(folder)
    paths = []
    for part in PARTS:
        names = [path.name for path in list_images(bundled(part))]
        paths += copy_bundled(part, folder / part, names, overwrite=overwrite)
    return [*paths, *copy_bundled("", folder, ["README.md"], overwrite=overwrite)]


__all__ = ["write_samples"]
