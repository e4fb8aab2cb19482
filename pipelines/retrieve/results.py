"""The results of searches and of indexing, and their output files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from visionzoo.console import counted
from visionzoo.errors import InputError
from visionzoo.io.contact_sheet import Row, Tile, save_sheet
from visionzoo.io.extensions import SHEETS_WRITTEN
from visionzoo.io.sheets import short_names
from visionzoo.jobs import check_result, write_sidecar

MISSING = "file is missing"
"""Shown with a photo whose file no longer exists."""


@dataclass(frozen=True)
class Match:
    """A photo found by a search.

    Attributes:
        path: the file.
        score: similarity to the query: the dot product of unit vectors, or the score after reranking.
        rank: place in the result, from 1.
        first_rank: place before reranking.
        missing: the file no longer exists: it was moved or deleted, or its disk is not mounted.
        copy: the copy of the file that was made, if one was.
    """

    path: Path
    score: float
    rank: int
    first_rank: int
    missing: bool = False
    copy: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path), "copy": None if self.copy is None else str(self.copy)}


@dataclass(frozen=True)
class RetrievalResult:
    """The photos found for one query, best first. `first_stage` is the ranking before reranking (the same without it)."""

    query: str
    matches: tuple[Match, ...]
    first_stage: tuple[Match, ...]
    reranked: bool
    box: tuple[float, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        rows = [match.to_dict() for match in self.matches]
        return {"query": self.query, "box": self.box, "reranked": self.reranked, "matches": rows}


@dataclass(frozen=True)
class IndexReport:
    """The result of one run of `index`.

    Attributes:
        photos: number of photos that can now be found.
        added: number of photos that were read in this run.
        unchanged: number of photos that were up to date.
        moved: those of `unchanged` that were listed under a path where they no longer are.
        failed: (path, reason) of files that cannot be read as images, and of folders that cannot be searched.
        vanished: photos of the index whose file no longer exists.
        unsure: those of `vanished` that may lie on a disk that is not mounted; only `prune_empty` removes them.
        removed: how many of `vanished` were removed from the index.
        pruned: whether missing photos were to be removed.
        seconds: time that reading took.
    """

    photos: int
    added: int
    unchanged: int
    moved: int
    failed: tuple[tuple[Path, str], ...]
    vanished: tuple[Path, ...]
    unsure: tuple[Path, ...]
    removed: int
    pruned: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "failed": [{"path": str(path), "reason": reason} for path, reason in self.failed],
            "vanished": [str(path) for path in self.vanished],
            "unsure": [str(path) for path in self.unsure],
        }


def check_sheet(path: str | Path, overwrite: bool) -> Path:
    path = Path(path)
    if path.suffix.lower() not in (*SHEETS_WRITTEN, ".json"):
        raise InputError(
            f"{path}: results are written as {', '.join(SHEETS_WRITTEN)} or .json; give -o one of these extensions"
        )
    return check_result(path, overwrite=overwrite)


def write_results(path: Path, results: Sequence[RetrievalResult], options: Mapping[str, Any]) -> None:
    """Write the contact sheet at `path`, and its sidecar with the results and all settings."""
    if path.suffix.lower() != ".json":
        count = sum(len(result.matches) for result in results)
        how = "reranked" if results[0].reranked else "first stage"
        queries = counted(len(results), "query", "queries")
        subtitle = f"{count} matches for {queries} in {options['index']} · {options['model']} · {how}"
        names = short_names(match.path for result in results for match in result.matches)
        rows = [sheet_row(result, names) for result in results]
        save_sheet(path, rows, heading="Photos found by example", subtitle=subtitle)
    write_sidecar(path, {"results": [result.to_dict() for result in results]}, options)


def missing_note(results: Sequence[RetrievalResult], index: str | Path) -> str | None:
    """One line about photos found whose files no longer exist; None if there are none."""
    gone = {match.path for result in results for match in result.matches if match.missing}
    if not gone:
        return None
    found = "1 of the photos found is missing" if len(gone) == 1 else f"{len(gone)} of the photos found are missing"
    return (
        f"{index}: {found} (moved, deleted, or on a disk that is not mounted); after a move, index the new folder; to remove deleted "
        "photos, run `visionzoo retrieve index` with --prune"
    )


def sheet_row(result: RetrievalResult, names: Mapping[Path, str]) -> Row:
    """A result as a row of a contact sheet, with these names of the files; changes of rank by reranking are next to the score."""
    tiles = []
    for match in result.matches:
        moved = match.first_rank - match.rank
        mark = "" if not result.reranked or moved == 0 else f"{'+' if moved > 0 else '−'}{abs(moved)}"
        mark = MISSING if match.missing else mark
        tiles.append(Tile(match.path, f"{match.rank} · {match.score:.3f}", names[match.path], mark))
    return Row(Tile(result.query, "query", Path(result.query).name, box=result.box), tiles)


__all__ = [
    "MISSING",
    "IndexReport",
    "Match",
    "RetrievalResult",
    "check_sheet",
    "missing_note",
    "sheet_row",
    "write_results",
]
