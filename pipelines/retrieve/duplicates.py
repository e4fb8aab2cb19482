"""Groups of photos of an index that show the same image: copies, other sizes and qualities, light edits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from visionzoo.errors import InputError
from visionzoo.io.contact_sheet import Row, Tile, save_sheet
from visionzoo.io.sheets import short_names
from visionzoo.jobs import Progress, silent, write_sidecar
from visionzoo.memory import pairs_above
from visionzoo.memory.topk import exact_scores

from ...models.superglobal.identity import is_missing
from ...models.superglobal.index import PhotoIndex
from ...models.superglobal.planning import Photo
from .comparing import Comparison
from .limits import MIN_SCORE, MIN_SCORE_ALONE
from .searching import check_score

SHOWN, SHOWN_EACH = 500, 60
"""Largest number of groups on a sheet, and of photos in each."""


@dataclass(frozen=True)
class Duplicate:
    """A photo of a group.

    Attributes:
        path: the file.
        score: similarity to the first photo of the group: the dot product of unit vectors.
        width, height: size of the photo in pixels, if the index knows it.
        size: size of the file in bytes.
    """

    path: Path
    score: float
    width: int | None
    height: int | None
    size: int

    @property
    def facts(self) -> str:
        """Its size in words, e.g. "640 x 480 · 1.2 MB"."""
        size = f"{self.size / 1e6:.1f} MB" if self.size >= 1e6 else f"{max(1, round(self.size / 1e3))} kB"
        return size if self.width is None else f"{self.width} x {self.height} · {size}"

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "path": str(self.path)}


@dataclass(frozen=True)
class DuplicateResult:
    """The groups of duplicates in an index.

    Attributes:
        groups: of two or more photos, larger groups first. The first photo of a group has the most pixels; the others follow by their
            score.
        min_score: the score that two photos of a group have at least, directly or through others of the group.
        compared: whether the images of photos with such a score were compared, too.
        photos: number of photos of the index.
        missing: photos that were left out, as their files no longer exist.
        failed: photos that were left out, as they cannot be read, and why.
    """

    groups: tuple[tuple[Duplicate, ...], ...]
    min_score: float
    compared: bool
    photos: int
    missing: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...] = ()

    @property
    def rule(self) -> str:
        """Text that says what two photos of a group have in common."""
        images = ", images compared" if self.compared else ""
        return f"score {self.min_score:g} or more{images}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "min_score": self.min_score,
            "compared": self.compared,
            "photos": self.photos,
            "groups": [[photo.to_dict() for photo in group] for group in self.groups],
            "missing": [str(path) for path in self.missing],
            "failed": [{"path": str(path), "error": error} for path, error in self.failed],
        }


def find_duplicates(
    index: str | Path | PhotoIndex,
    min_score: float | None = None,
    *,
    compare: bool = True,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> DuplicateResult:
    """Groups of photos that show the same image.

    The scores of all pairs of photos are computed, in blocks: the time grows with the square of the number of photos, the memory does
    not. Photos with a score of `min_score` or more are then read and compared at low resolution, which keeps copies of every size and
    drops other views of a subject: a small copy can score less than another view.

    Args:
        index: an index, or its path. The network that made it is not needed.
        min_score: between -1 and 1; by default 0.7, or 0.95 without `compare`.
        compare: also compare the images; otherwise all photos with such a score are grouped, directly or through others of the group.
        device: where vectors are compared.
        progress: called with the number of photos that were read.

    Raises:
        InputError: a score out of range, or an index that is missing, damaged or empty.
    """
    check_score(min_score)
    limit = min_score if min_score is not None else MIN_SCORE if compare else MIN_SCORE_ALONE
    with _opened(index) as opened:
        if len(opened) == 0:
            raise InputError(f"{opened.path}: the index holds no photos")
        ids = opened.store.ids()
        labels = np.arange(len(ids))
        comparison = Comparison(progress)
        for a, b in pairs_above(opened.store, limit, device=device):
            if compare:
                a, b = _copies(opened, comparison, a, b)
            labels = _joined(labels, np.searchsorted(ids, a), np.searchsorted(ids, b))
        groups, missing = [], list(comparison.missing.values())
        for members in _groups(labels):
            photos = [photo for id_ in ids[members].tolist() if (photo := opened.photo(id_)) is not None]
            there = [photo for photo in photos if not is_missing(photo.path)]
            missing += [photo.path for photo in photos if photo not in there]
            if len(there) > 1:
                groups.append(_group(opened, there))
        count = len(opened)
    groups.sort(key=lambda group: (-len(group), str(group[0].path)))
    failed = tuple(sorted(comparison.failed.values()))
    return DuplicateResult(tuple(groups), limit, compare, count, tuple(missing), failed)


def _copies(
    index: PhotoIndex, comparison: Comparison, a: NDArray[np.int64], b: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Those of the pairs of ids (N,) and (N,) whose photos show the same image."""
    photos = (index.photo(id_) for id_ in np.unique([a, b]).tolist())
    comparison.read((photo.id, photo.path) for photo in photos if photo is not None)
    same = comparison.same(a, b)
    return a[same], b[same]


@contextmanager
def _opened(index: str | Path | PhotoIndex) -> Iterator[PhotoIndex]:
    if isinstance(index, PhotoIndex):
        yield index
        return
    with PhotoIndex.open(index) as opened:
        yield opened


def _joined(labels: NDArray[np.intp], a: NDArray[np.intp], b: NDArray[np.intp]) -> NDArray[np.intp]:
    """Group labels (N,), each the lowest place of its group, after joining the groups of `a` and `b` (n,)."""
    labels = labels.copy()
    while True:
        one, other = labels[a], labels[b]
        apart = one != other
        if not apart.any():
            return labels
        np.minimum.at(labels, np.maximum(one, other)[apart], np.minimum(one, other)[apart])
        while (labels[labels] != labels).any():
            labels = labels[labels]


def _groups(labels: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Places of the members of each group that has more than one."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    for members in np.split(order, starts[1:]):
        if len(members) > 1:
            yield members


def _group(index: PhotoIndex, photos: Sequence[Photo]) -> tuple[Duplicate, ...]:
    def rank(photo: Photo) -> tuple[int, int, int, str]:
        """Most pixels, then most bytes, then the shortest name: the copies have names like "x (1).jpg"."""
        return -(photo.width or 0) * (photo.height or 0), -photo.size, len(photo.path.name), str(photo.path)

    best = min(photos, key=rank)
    vectors = index.store.fetch(np.array([photo.id for photo in photos]))
    scores = exact_scores(index.store.fetch(np.array([best.id]))[0], vectors).tolist()
    order = sorted(range(len(photos)), key=lambda n: (photos[n] is not best, -scores[n], str(photos[n].path)))
    return tuple(
        Duplicate(photos[n].path, round(scores[n], 6), photos[n].width, photos[n].height, photos[n].size) for n in order
    )


def write_duplicates(path: Path, result: DuplicateResult, options: Mapping[str, Any]) -> None:
    """Write a contact sheet with a row for each group at `path`, and its sidecar; only the latter for `.json`."""
    if path.suffix.lower() != ".json":
        count = sum(map(len, result.groups))
        shown = f", the first {SHOWN} are shown" if len(result.groups) > SHOWN else ""
        subtitle = (
            f"{count} of {result.photos} photos in {len(result.groups)} groups{shown}, in {options['index']} · "
            f"{result.rule}"
        )
        groups = result.groups[:SHOWN]
        names = short_names(photo.path for group in groups for photo in group)
        save_sheet(path, group_rows(groups, names), heading="Duplicate photos", subtitle=subtitle)
    write_sidecar(path, result.to_dict(), options)


def group_rows(groups: Sequence[Sequence[Duplicate]], names: Mapping[Path, str]) -> list[Row]:
    """The rows of a contact sheet, one for each group; `names` are those below the photos."""
    rows = []
    for first, *others in groups:
        more = f"and {len(others) - SHOWN_EACH} more" if len(others) > SHOWN_EACH else ""
        tiles = [
            Tile(photo.path, f"{photo.score:.3f}", names[photo.path], photo.facts) for photo in others[:SHOWN_EACH]
        ]
        rows.append(Row(Tile(first.path, f"{1 + len(others)} photos", names[first.path], more or first.facts), tiles))
    return rows


__all__ = ["Duplicate", "DuplicateResult", "find_duplicates", "group_rows", "write_duplicates"]
