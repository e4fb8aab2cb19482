"""Sample photos, sample queries, and the index that the retrieval page searches by default."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

from visionzoo.console import note
from visionzoo.errors import InputError, writing
from visionzoo.io.files import bundled

from ..pipelines.retrieve.pipeline import RetrievePipeline


def samples(home: Path) -> Path:
    """The bundled photos and queries, copied to `home`, where their paths do not depend on the installation."""
    folder = home / "samples"
    with writing(home):
        for part in ("photos", "queries"):
            mirror(bundled(part), folder / part)
    return folder


def sample_index(home: Path) -> Path:
    """The index of the bundled photos in `home`, brought up to date; the first time this describes all of them."""
    photos, index = samples(home) / "photos", home / "retrieve.index"
    pipe = RetrievePipeline.create()
    if not index.exists():
        note("describing the sample photos; this happens once")
    try:
        pipe.index(photos, index, prune=True)
    except InputError:  # it is of another model or version, or damaged: it is ours, so it is made again
        pipe.index(photos, index, rebuild=True)
    return index


def mirror(source: Path, target: Path) -> None:
    """Make the folder `target` equal to `source`; files with the same content stay unchanged."""
    target.mkdir(parents=True, exist_ok=True)
    names = {file.name for file in source.iterdir() if file.is_file()}
    for file in target.iterdir():
        if file.name not in names:
            file.unlink()
    for name in names:
        if not (target / name).exists() or not filecmp.cmp(source / name, target / name, shallow=False):
            shutil.copy2(source / name, target / name)


__all__ = ["mirror", "sample_index", "samples"]
