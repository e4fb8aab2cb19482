"""How the retrieval page searches, and how it shows the results."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.io.contact_sheet import Row, Tile, save_sheet, thumbnail
from visionzoo.io.image import load_image
from visionzoo.jobs import Progress, silent

from ..models.superglobal.index import PhotoIndex
from ..pipelines.retrieve.pipeline import ImageInput, RetrievePipeline
from ..pipelines.retrieve.results import Match, RetrievalResult
from .retrieve_samples import sample_index
from .words import image_tag, plain

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")

# Searching


class ClockedPipeline(RetrievePipeline):
    """A pipeline that records how long describing the latest query took, separately from the search."""

    described_s = 0.0

    def describe(
        self, images: Sequence[ImageInput], boxes: Sequence[Sequence[float] | None] | None = None
    ) -> np.ndarray:
        started = time.perf_counter()
        vectors = super().describe(images, boxes)
        self.described_s = time.perf_counter() - started
        return vectors


@dataclass(frozen=True)
class Found:
    """The result of a search: the rankings of both stages, and the times."""

    query: np.ndarray
    result: RetrievalResult
    described_s: float
    searched_s: float
    photos: int


class Searcher:
    """An open index with the pipeline that made it. One search at a time.

    Args:
        index: the index; the pipeline is the one that made it.
    """

    def __init__(self, index: Path):
        self.pipe = cast(ClockedPipeline, ClockedPipeline.for_index(index))
        self.index = PhotoIndex.open(index)
        if len(self.index) == 0:
            raise InputError(f"{index}: the index holds no photos")

    def __call__(self, image: Path | bytes, region: str = "", count: int = 9) -> Found:
        """Search with an image file, or the bytes of one.

        Raises:
            InputError: not an image, or a region that is not one; the message is for the visitor.
        """
        query = load_image(image)
        box = parse_region(region, query.shape[1], query.shape[0])
        started = time.perf_counter()
        result = self.pipe(query, index=self.index, top=count, rerank=True, box=box)
        total = time.perf_counter() - started
        return Found(query, result, self.pipe.described_s, total - self.pipe.described_s, len(self.index))


class Collection:
    """The index of a page, opened once.

    Args:
        home: folder of the demo.
        index: the index, opened at once; None is that of the sample photos, which is made when it is first needed.
    """

    def __init__(self, home: Path, index: Path | None):
        self._home = home
        self._searcher = None if index is None else Searcher(index)
        self._lock = threading.Lock()

    def __call__(self, progress: Progress = silent) -> Searcher:
        with self._lock:
            if self._searcher is None:
                progress("loading the network", 0, 0)
                self._searcher = Searcher(sample_index(self._home, progress))
            return self._searcher


def parse_region(text: str, width: int, height: int) -> tuple[float, ...] | None:
    """(x0, y0, x1, y1) from any two opposite corners as text, within an image of this size; None for an empty text."""
    if not text.strip():
        return None
    numbers = _NUMBER.findall(text)
    if len(numbers) == 2:
        raise InputError(
            "the region has one corner; click the opposite one, or clear the field to use all of the photo"
        )
    if len(numbers) != 4 or re.search(r"[^\d\s.,;-]", text):
        raise InputError(f"the region must be x0, y0, x1, y1 in pixels, e.g. 40, 60, 300, 420; got {text!r}")
    xs, ys = sorted(map(float, numbers[0::2])), sorted(map(float, numbers[1::2]))
    box = (max(xs[0], 0.0), max(ys[0], 0.0), min(xs[1], float(width)), min(ys[1], float(height)))
    if box[2] - box[0] < 1 or box[3] - box[1] < 1:
        raise InputError(
            f"the region {text} lies outside the photo, which is {width} x {height} pixels, or has no area"
        )
    return box


# Results


def show(found: Found) -> str:
    """Both rankings as HTML, with their images inside."""
    size = f"{found.query.shape[1]} x {found.query.shape[0]} pixels"
    box = found.result.box
    part = "" if box is None else f", region {', '.join(f'{value:.0f}' for value in box)}"
    timing = (
        f"described in {found.described_s:.2f} s, searched {found.photos:,} photos in {found.searched_s * 1000:.0f} ms"
    )
    image = embedded(thumbnail(Tile(found.query, "", box=box), 260), "the query")
    return (
        f'<div class="vz-summary">{image}<div><strong>Query, {size}{part}</strong><span>{timing}</span></div></div>'
        '<div class="vz-stages">'
        + _stage(
            "first",
            "First stage",
            "Nearest descriptors; the score is their cosine.",
            found.result.first_stage,
            moves=False,
        )
        + _stage(
            "reranked",
            "Reranked",
            "Reordered with the neighbours' help.",
            found.result.matches,
            moves=True,
        )
        + "</div>"
    )


def _stage(kind: str, heading: str, about: str, matches: Sequence[Match], *, moves: bool) -> str:
    tiles = "".join(_tile(match, moves) for match in matches)
    head = f"<h2>{heading}</h2><p>{about}</p>"
    return f'<section class="vz-stage vz-{kind}">{head}<ol class="vz-grid">{tiles}</ol></section>'


def _tile(match: Match, moves: bool) -> str:
    name = plain(match.path.name)
    return (
        f'<li><div class="vz-frame">{_match_image(match.path)}</div>'
        f'<div class="vz-line"><span class="vz-rank">{match.rank}</span><span class="vz-score">{match.score:.3f}</span>'
        f'{_moved(match) if moves else ""}</div><div class="vz-name" title="{name}">{name}</div></li>'
    )


def _moved(match: Match) -> str:
    places = match.first_rank - match.rank
    if places == 0:
        return '<span class="vz-moved" title="at the same place before">same</span>'
    way = "up" if places > 0 else "down"
    return (
        f'<span class="vz-moved {way}" title="was {match.first_rank}">{"▲" if places > 0 else "▼"} {abs(places)}</span>'
    )


def _match_image(path: Path) -> str:
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0
    return _cached_image(path, changed)


@lru_cache(maxsize=1024)
def _cached_image(path: Path, changed: int) -> str:
    return embedded(thumbnail(Tile(path, "")), path.name)


def embedded(image: Image.Image | None, label: str) -> str:
    """A thumbnail as HTML, or words in its place."""
    if image is None:
        return "<em>the file no longer exists or cannot be read</em>"
    return image_tag(image, label)


def numbers_in(text: str) -> list[str]:
    """The numbers of a region as typed so far."""
    return _NUMBER.findall(text)


def save_found(found: Found, path: Path) -> Path:
    """The query and its results as one image."""
    tiles = [Tile(match.path, f"{match.rank} · {match.score:.3f}", match.path.name) for match in found.result.matches]
    save_sheet(path, [Row(Tile(found.query, "Query", box=found.result.box), tiles)], heading="Photos found")
    return path


__all__ = ["Collection", "Found", "Searcher", "embedded", "numbers_in", "parse_region", "save_found", "show"]
