"""The second half of the retrieval page: photos that show the same image, among uploads or in the index."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visionzoo.errors import InputError
from visionzoo.io.contact_sheet import Tile, save_sheet, thumbnail
from visionzoo.io.sheets import short_names

from ..pipelines.retrieve.duplicates import Duplicate, DuplicateResult, find_duplicates, group_rows
from ..pipelines.retrieve.pipeline import RetrievePipeline
from .retrieve_result import Searcher, embedded
from .uploads import name_of, names_of, path_of
from .words import explain, plain
from .work import Work, summary

MAX_PHOTOS = 60
"""Largest number of uploads that are compared; the command has no limit."""
MAX_GROUPS, MAX_EACH = 50, 24
"""Largest number of groups that are shown, and of photos in each."""


def compare_uploads(
    pipe: RetrievePipeline, uploads: Sequence[Any], work: Work
) -> tuple[DuplicateResult, dict[Path, str]]:
    """The groups among uploaded photos, and the names that their owner gave them.

    Raises:
        InputError: fewer than two photos, or too many, or none that can be read.
    """
    if len(uploads) < 2:
        raise InputError("upload two or more photos, or none to compare those of the collection")
    if len(uploads) > MAX_PHOTOS:
        raise InputError(f"at most {MAX_PHOTOS} photos at once, got {len(uploads)}; choose fewer")
    paths = [path_of(upload).resolve() for upload in uploads]
    names = dict(zip(paths, map(name_of, uploads), strict=True))
    with tempfile.TemporaryDirectory(dir=work.home) as folder:
        index = Path(folder) / "uploads.index"
        report = pipe.index(paths, index, progress=work.report)
        result = find_duplicates(index, device=pipe.device, progress=work.report)
    reasons = names_of(*uploads) | {str(path): name for path, name in names.items()}
    failed = tuple((path, explain(InputError(reason), reasons)) for path, reason in (*report.failed, *result.failed))
    return DuplicateResult(result.groups, result.min_score, True, result.photos, result.missing, failed), names


def compare_collection(searcher: Searcher, work: Work) -> tuple[DuplicateResult, dict[Path, str]]:
    """The groups among all photos of an index, and what the page calls them."""
    result = find_duplicates(searcher.index, device=searcher.pipe.device, progress=work.report)
    return result, short_names(photo.path for group in result.groups for photo in group)


def show_groups(result: DuplicateResult, names: Mapping[Path, str], took: str) -> str:
    """The groups as HTML, with their images inside."""
    count = sum(map(len, result.groups))
    failed, missing = len(result.failed), len(result.missing)
    trouble = [f"{failed} cannot be read" if failed else "", f"{missing} no longer exist" if missing else ""]
    found = f"{count} of {result.photos:,} photos in {len(result.groups)} group{'s' if len(result.groups) != 1 else ''}"
    head = summary(
        found if count else f"No duplicates among {result.photos:,} photos",
        f"compared in {took}",
        *trouble,
        below=f"The first {MAX_GROUPS} groups are shown." if len(result.groups) > MAX_GROUPS else "",
    )
    problems = "".join(
        f'<div class="vz-problem vz-calm">{plain(reason)}</div>' for _, reason in result.failed[:MAX_EACH]
    )
    groups = "".join(_group(group, names) for group in result.groups[:MAX_GROUPS])
    return f'{head}{problems}<div class="vz-groups">{groups}</div>'


def save_groups(result: DuplicateResult, names: Mapping[Path, str], path: Path) -> Path:
    """The groups as one image."""
    save_sheet(path, group_rows(result.groups[:MAX_GROUPS], names), heading="Duplicate photos")
    return path


def _group(group: Sequence[Duplicate], names: Mapping[Path, str]) -> str:
    more = f" {len(group) - MAX_EACH} more are not shown." if len(group) > MAX_EACH else ""
    tiles = "".join(_tile(photo, names[photo.path], first=photo is group[0]) for photo in group[:MAX_EACH])
    return (
        f'<section class="vz-stage"><h2>{len(group)} photos</h2>'
        f"<p>The first has the most pixels; the others are scored by their similarity to it.{more}</p>"
        f'<ol class="vz-grid">{tiles}</ol></section>'
    )


def _tile(photo: Duplicate, name: str, *, first: bool) -> str:
    place = '<span class="vz-rank">first</span>'
    score = f'<span class="vz-score" title="similarity to the first">{photo.score:.3f}</span>'
    return (
        f'<li><div class="vz-frame">{embedded(thumbnail(Tile(photo.path, "")), name)}</div>'
        f'<div class="vz-line">{place if first else score}</div>'
        f'<div class="vz-name" title="{plain(name)}">{plain(name)}</div><div class="vz-name">{plain(photo.facts)}</div></li>'
    )


__all__ = ["MAX_PHOTOS", "compare_collection", "compare_uploads", "save_groups", "show_groups"]
