"""The photo files that the sources of an index hold now."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from visionzoo.errors import InputError
from visionzoo.io.extensions import IMAGES
from visionzoo.io.find import find_inputs, is_one_file

from ...models.superglobal.identity import Found, RealPaths
from ...models.superglobal.planning import Photo


@dataclass
class Sources:
    """The files that were found.

    Attributes:
        files: every photo file once, under its real path.
        unreadable: (folder, reason) of folders that could not be searched.
        empty: (real path, error) of sources without a photo.
    """

    files: list[Found] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    empty: list[tuple[Path, InputError]] = field(default_factory=list)


def find_photos(sources: Sequence[str | Path], index: Path) -> Sources:
    """The photos that folders, files and glob patterns name; those in the folder `index` are excluded.

    Raises:
        InputError: there is no source.
    """
    if not sources:
        raise InputError("the list of inputs is empty")
    real, found, files = RealPaths(), Sources(), dict[Path, Found]()
    inside = Path(index).resolve()
    for source in map(Path, sources):
        problems: list[OSError] = []
        home = _home(source)
        try:
            listed = find_inputs(source, IMAGES, unreadable=problems.append)
        except InputError as error:
            listed = []
            found.empty.append((source.resolve(), _explained(source, error, problems)))
        for path, _ in listed:
            place = real(path)
            if inside in place.parents:
                continue
            folder = place.parent if home is None else home
            known = files.get(place)
            if known is None or known.source.is_relative_to(folder):
                files[place] = Found(place, folder)
        found.unreadable += [
            (Path(problem.filename), f"{problem.filename}: cannot be read ({problem.strerror})") for problem in problems
        ]
    found.files = list(files.values())
    return found


def _home(source: Path) -> Path | None:
    """Real path of a folder, or of the one above the first wildcard of a pattern; None for a file."""
    if source.is_dir() and not is_one_file(source, IMAGES):
        return source.resolve()
    if source.exists():
        return None
    parts = source.parts
    fixed = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:fixed]).resolve()


def _explained(source: Path, error: InputError, problems: list[OSError]) -> InputError:
    if problems:
        return InputError(f"{source}: cannot be read ({problems[0].strerror}); check its permissions")
    return error


def check_emptied(sources: Sources, photos: Sequence[Photo], prune_empty: bool) -> None:
    """Raise `InputError` for a source without photos, unless photos of it are to be removed from the index."""
    for place, error in sources.empty:
        held = sum(
            photo.error is None and (photo.home.is_relative_to(place) or photo.path.is_relative_to(place))
            for photo in photos
        )
        if not held:
            raise error
        if not prune_empty:
            what = "is not there" if not place.exists() else "holds no photos now"
            raise InputError(
                f"{place}: {what}, but the index lists {held} photo{'s' if held > 1 else ''} in it; if it is on a disk that is "
                "not mounted, mount the disk and run the command again; to remove them from the index, add --prune-empty"
            )


__all__ = ["Sources", "check_emptied", "find_photos"]
