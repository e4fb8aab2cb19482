"""Sample photos, sample queries, copies of some, and the index that the retrieval page searches by default."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from visionzoo.console import note
from visionzoo.errors import InputError, writing
from visionzoo.io.files import bundled
from visionzoo.jobs import Progress

from ..pipelines.retrieve.pipeline import RetrievePipeline

CHUNK = 8
"""Photos that are described again, at most, after an interruption."""


def samples(home: Path) -> Path:
    """The bundled photos and queries, copied to `home`, where their paths do not depend on the installation."""
    folder = home / "samples"
    with writing(home):
        for part in ("photos", "queries"):
            mirror(bundled(part), folder / part)
    return folder


def sample_index(home: Path, progress: bool | Progress = True) -> Path:
    """The index of the bundled photos in `home`, brought up to date; the first time this describes all of them."""
    photos, index = samples(home) / "photos", home / "retrieve.index"
    pipe = RetrievePipeline.create()
    if not index.exists():
        note("describing the sample photos; this happens once")
    try:
        pipe.index(photos, index, prune=True, chunk=CHUNK, progress=progress)
    except InputError:  # it is of another model or version, or damaged: it is ours, so it is made again
        pipe.index(photos, index, rebuild=True, chunk=CHUNK, progress=progress)
    return index


def sample_copies(home: Path) -> list[list[Path]]:
    """Sets of photos to find duplicates among: a sample photo, copies of it, a crop, and other views of the same subject."""
    sets = []
    for subject in ("temple", "coffee", "cat"):
        folder = home / "samples" / "copies" / subject
        with writing(home):
            folder.mkdir(parents=True, exist_ok=True)
            files = [folder / f"{subject}{part}" for part in _VARIANTS]
            if not all(file.exists() for file in files):
                original = Image.open(bundled("photos", f"{subject}_1.jpg")).convert("RGB")
                for file, (change, settings) in zip(files, _VARIANTS.values(), strict=True):
                    change(original).save(file, **settings)
        sets.append([*files, *(samples(home) / "photos" / f"{subject}_{number}.jpg" for number in (2, 3))])
    return sets


def _shrunk(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2))


def _cropped(image: Image.Image) -> Image.Image:
    return image.crop((image.width // 8, image.height // 8, image.width * 7 // 8, image.height * 7 // 8))


_VARIANTS: dict[str, tuple[Callable[[Image.Image], Image.Image], dict[str, Any]]] = {
    ".jpg": (lambda image: image, {"quality": 95}),
    " at half the size.jpg": (_shrunk, {"quality": 90}),
    " at low quality.jpg": (lambda image: image, {"quality": 10}),
    " in grey.jpg": (lambda image: image.convert("L"), {"quality": 90}),
    " cropped.jpg": (_cropped, {"quality": 90}),
}
"""End of a file's name -> how the photo is changed, and how the file is saved."""


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


__all__ = ["mirror", "sample_copies", "sample_index", "samples"]
