"""What searches and indexing give, and what is written of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from visionzoo.console import counted
from visionzoo.errors import InputError
from visionzoo.io.contact_sheet import Row, Tile, save_sheet
from visionzoo.io.extensions import SHEETS_WRITTEN
from visionzoo.jobs import check_result, write_sidecar


@dataclass(frozen=True)
class Match:
    """A photo that was found.

    Attributes:
        path: the file.
        score: similarity to the query: the dot product of unit vectors, or the score after reranking.
        rank: place in the result, from 1.
        first_rank: place before reranking.
    """

    path: Path
    score: float
    rank: int
    first_rank: int


@dataclass(frozen=True)
class RetrievalResult:
    """What was found for one query, best first. `first_stage` is the ranking before reranking (the same without it)."""

    query: str
    matches: tuple[Match, ...]
    first_stage: tuple[Match, ...]
    reranked: bool
    box: tuple[float, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        rows = [{**asdict(match), "path": str(match.path)} for match in self.matches]
        return {"query": self.query, "box": self.box, "reranked": self.reranked, "matches": rows}


@dataclass(frozen=True)
class IndexReport:
    """What one run of `index` did.

    Attributes:
        photos: number that can now be found.
        added: read in this run.
        unchanged: up to date already, not read again.
        failed: (path, reason) of files that cannot be read as pictures.
        vanished: files of the indexed folders that are gone.
        pruned: whether the vanished ones were taken out.
        seconds: time that reading took.
    """

    photos: int
    added: int
    unchanged: int
    failed: tuple[tuple[Path, str], ...]
    vanished: tuple[Path, ...]
    pruned: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "failed": [{"path": str(path), "reason": reason} for path, reason in self.failed],
            "vanished": [str(path) for path in self.vanished],
        }


def check_sheet(path: str | Path, overwrite: bool) -> Path:
    path = Path(path)
    if path.suffix.lower() not in (*SHEETS_WRITTEN, ".json"):
        raise InputError(f"{path}: results are written as {', '.join(SHEETS_WRITTEN)} or .json; give -o such a name")
    return check_result(path, overwrite=overwrite)


def write_results(path: Path, results: Sequence[RetrievalResult], options: Mapping[str, Any]) -> None:
    """The contact sheet at `path`, and its sidecar with the results and everything that made them."""
    if path.suffix.lower() != ".json":
        count = sum(len(result.matches) for result in results)
        how = "reranked" if results[0].reranked else "first stage"
        queries = counted(len(results), "query", "queries")
        subtitle = f"{count} matches for {queries} in {options['index']} · {options['model']} · {how}"
        save_sheet(
            path, [sheet_row(result) for result in results], heading="Photos found by example", subtitle=subtitle
        )
    write_sidecar(path, {"results": [result.to_dict() for result in results]}, options)


def sheet_row(result: RetrievalResult) -> Row:
    """A result as a row of a contact sheet; a place won or lost by reranking stands beside the score."""
    tiles = []
    for match in result.matches:
        moved = match.first_rank - match.rank
        mark = "" if not result.reranked or moved == 0 else f"{'+' if moved > 0 else '−'}{abs(moved)}"
        tiles.append(Tile(match.path, f"{match.rank} · {match.score:.3f}", match.path.name, mark))
    return Row(Tile(result.query, "query", Path(result.query).name, box=result.box), tiles)


__all__ = ["IndexReport", "Match", "RetrievalResult", "check_sheet", "sheet_row", "write_results"]
