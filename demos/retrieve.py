"""The demo page of photo retrieval: pick or upload a photo, and see what was found, before and after reranking."""

from __future__ import annotations

import base64
import filecmp
import html
import io
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import gradio as gr
import numpy as np

from visionzoo.console import note
from visionzoo.errors import InputError, VisionZooError, writing
from visionzoo.io.contact_sheet import Tile, thumbnail
from visionzoo.io.files import bundled
from visionzoo.io.image import ImageError, list_images, load_image
from visionzoo.registry import list_models, model_card

from ..models.superglobal.index import PhotoIndex
from ..pipelines.retrieve.pipeline import Picture, RetrievePipeline
from ..pipelines.retrieve.results import Match, RetrievalResult
from .uploads import refuse_addresses

TITLE = "Retrieve"
MAX_RESULTS = 24
PAPER_LINK = "https://arxiv.org/abs/2308.06954"

_SHOW_RESULTS = """() => {
  const results = document.getElementById("vz-results");
  if (results.getBoundingClientRect().top > window.innerHeight / 2) results.scrollIntoView({behavior: "smooth"});
}"""
"""On a narrow screen the results stand below the query."""

EMPTY = '<div class="vz-empty">Pick one of the sample queries, or upload a photo of your own. Then press Search.</div>'


_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")

# Searching


class ClockedPipeline(RetrievePipeline):
    """A pipeline that keeps how long it took to describe the latest query, apart from the search."""

    described_s = 0.0

    def describe(
        self, pictures: Sequence[Picture], boxes: Sequence[Sequence[float] | None] | None = None
    ) -> np.ndarray:
        started = time.perf_counter()
        vectors = super().describe(pictures, boxes)
        self.described_s = time.perf_counter() - started
        return vectors


@dataclass(frozen=True)
class Found:
    """What a search gave: the ranking of both stages, and where the time went."""

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

    def __call__(self, picture: bytes, region: str = "", count: int = 9) -> Found:
        """Search with the bytes of an image file.

        Raises:
            InputError: not an image, or a region that is not one; the message is for the visitor.
        """
        query = load_image(picture)
        box = parse_region(region, query.shape[1], query.shape[0])
        started = time.perf_counter()
        result = self.pipe(query, index=self.index, top=count, rerank=True, box=box)
        total = time.perf_counter() - started
        return Found(query, result, self.pipe.described_s, total - self.pipe.described_s, len(self.index))


def parse_region(text: str, width: int, height: int) -> tuple[float, ...] | None:
    """(x0, y0, x1, y1) from any two opposite corners as text, within a picture of this size; None for an empty text."""
    if not text.strip():
        return None
    numbers = _NUMBER.findall(text)
    if len(numbers) == 2:
        raise InputError(
            "the region has one corner; click the opposite one, or clear the field to use all of the photo"
        )
    if len(numbers) != 4 or re.search(r"[^\d\s.,;-]", text):
        raise InputError(f"the region is x0, y0, x1, y1 in pixels, e.g. 40, 60, 300, 420; got {text!r}")
    xs, ys = sorted(map(float, numbers[0::2])), sorted(map(float, numbers[1::2]))
    box = (max(xs[0], 0.0), max(ys[0], 0.0), min(xs[1], float(width)), min(ys[1], float(height)))
    if box[2] - box[0] < 1 or box[3] - box[1] < 1:
        raise InputError(
            f"the region {text} lies outside the photo, which is {width} x {height} pixels, or has no area"
        )
    return box


# The sample photos


def samples(home: Path) -> Path:
    """The bundled photos and queries, copied to `home`, where their paths stay the same whatever the installation."""
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
    except InputError:  # of another model or version, or damaged: it is ours, so it is made again
        pipe.index(photos, index, rebuild=True)
    return index


def mirror(source: Path, target: Path) -> None:
    """Make the folder `target` hold what `source` holds; files of the same content stay as they are."""
    target.mkdir(parents=True, exist_ok=True)
    names = {file.name for file in source.iterdir() if file.is_file()}
    for file in target.iterdir():
        if file.name not in names:
            file.unlink()
    for name in names:
        if not (target / name).exists() or not filecmp.cmp(source / name, target / name, shallow=False):
            shutil.copy2(source / name, target / name)


# What is shown


def show(found: Found) -> str:
    """Both rankings as HTML, with their pictures inside."""
    size = f"{found.query.shape[1]} x {found.query.shape[0]} pixels"
    box = found.result.box
    part = "" if box is None else f", region {', '.join(f'{value:.0f}' for value in box)}"
    timing = (
        f"described in {found.described_s:.2f} s, searched {found.photos:,} photos in {found.searched_s * 1000:.0f} ms"
    )
    picture = _image(thumbnail(Tile(found.query, "", box=box), 260), "the query")
    return (
        f'<div class="vz-summary">{picture}<div><strong>Query, {size}{part}</strong><span>{timing}</span></div></div>'
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


def show_problem(reason: str) -> str:
    return f'<div class="vz-problem" role="alert">{html.escape(reason)}</div>{EMPTY}'


def _stage(kind: str, heading: str, about: str, matches: Sequence[Match], *, moves: bool) -> str:
    tiles = "".join(_tile(match, moves) for match in matches)
    head = f"<h2>{heading}</h2><p>{about}</p>"
    return f'<section class="vz-stage vz-{kind}">{head}<ol class="vz-grid">{tiles}</ol></section>'


def _tile(match: Match, moves: bool) -> str:
    name = _text(match.path.name)
    return (
        f'<li><div class="vz-frame">{_picture(match.path)}</div>'
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


def _picture(path: Path) -> str:
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0
    return _cached_picture(path, changed)


@lru_cache(maxsize=1024)
def _cached_picture(path: Path, changed: int) -> str:
    return _image(thumbnail(Tile(path, "")), path.name)


def _image(picture: Any, label: str) -> str:
    if picture is None:
        return "<em>the file no longer exists or cannot be read</em>"
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=84)
    return f'<img alt="{_text(label)}" src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'


def _about(pipe: RetrievePipeline, *, sampled: bool) -> str:
    lines = []
    if pipe.name in list_models(task="retrieve"):
        card = model_card(pipe.name)
        lines.append(f"<strong>{card.name}</strong>, {card.params / 1e6:.1f} M parameters. {_prose(card.summary)}")
        lines.append(f"<strong>Limits.</strong> {_prose(card.limits)}")
        lines += [
            f"<strong>Weights.</strong> {_prose(source.note)}. Licence: {_prose(source.license)}."
            for source in card.weights[:1]
        ]
    else:
        lines.append(
            f"<strong>{_text(pipe.name)}</strong> with SuperGlobal's pooling; see its publisher for the licence."
        )
    lines.append(
        "<strong>Scores</strong> rank the photos of one search. They are not probabilities, and some photo always comes "
        f'first, even if nothing matches. Method: <a href="{PAPER_LINK}" rel="noreferrer" target="_blank">Global '
        "Features are All You Need for Image Retrieval and Reranking</a>, ICCV 2023."
    )
    if sampled:
        lines.append(
            "<strong>Sample photos.</strong> Public domain and CC0, except temple (danielbuechele) and flower "
            "(vultilion), CC BY 2.0, altered: views made from one photo a subject, so they are easy to find."
        )
    return "".join(f"<p>{line}</p>" for line in lines)


def _text(value: str) -> str:
    """As HTML. File names may hold bytes that are no text."""
    return html.escape(value.encode("utf-8", "replace").decode("utf-8"))


def _prose(value: str) -> str:
    """As HTML, with what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(value))


# The page


def page(*, home: Path, index: Path | None = None) -> None:
    """Lay out the page inside the current `gr.Blocks`.

    Args:
        home: folder of the demo, for the sample photos and their index.
        index: the index to search; that of the sample photos if None.
    """
    searcher = Searcher(index or sample_index(home))
    pipe, photos = searcher.pipe, len(searcher.index)
    queries = list_images(samples(home) / "queries")

    # `preprocess=False` below hands over uploads as they are: `load_image` decodes them, with its limits and messages

    def check(upload: dict[str, Any] | None) -> tuple[str | None, str]:
        if upload is None:
            return None, EMPTY
        try:
            load_image(_read(upload))
        except ImageError as error:
            gr.Warning(str(error), title="This file cannot be used")
            return None, show_problem(str(error))
        return upload["path"], EMPTY

    def corner(region: str, event: gr.SelectData) -> str:
        x, y = (round(float(value)) for value in event.index)
        waiting = len(_NUMBER.findall(region)) == 2
        return f"{region.strip(' ,')}, {x}, {y}" if waiting else f"{x}, {y}"

    def search(upload: dict[str, Any] | None, region: str | None, count: float) -> str:
        """Search with a photo; returns both rankings as HTML."""
        if upload is None:
            raise gr.Error("pick a sample query or upload a photo first", title="No photo", print_exception=False)
        try:
            return show(searcher(_read(upload), region or "", int(min(max(count, 1), MAX_RESULTS))))
        except VisionZooError as error:
            raise gr.Error(str(error), title="This search cannot be done", print_exception=False) from error

    gr.HTML(
        '<div class="vz-head"><h1>Find the photos that show the same thing</h1>'
        f"<p>Searches {photos:,} {'sample photos' if index is None else 'photos of ' + _text(index.name)} "
        f"by example, with {_text(pipe.name)}: one vector of {pipe.model.dim:,} numbers per photo.</p></div>"
    )
    with gr.Row(elem_classes="vz-columns", equal_height=False):
        with gr.Column(scale=3, min_width=300, elem_classes="vz-query"):
            picture = gr.Image(
                label="Query photo",
                type="filepath",
                sources=["upload", "clipboard"],
                height=270,
                buttons=["fullscreen"],
                placeholder="Drop a photo here\nor click to choose one",
                elem_id="vz-picture",
            )
            gr.Examples(
                [[str(path)] for path in queries],
                picture,
                label="Sample queries",
                examples_per_page=len(queries),
                elem_id="vz-samples",
            )
            button = gr.Button("Search", variant="primary", size="lg", elem_id="vz-search")
            count = gr.Slider(1, MAX_RESULTS, value=9, step=1, label="Results", elem_id="vz-count")
            region = gr.Textbox(
                label="Region",
                info="For a part of the photo: click two opposite corners in it, or type x0, y0, x1, y1 in pixels.",
                placeholder="the whole photo",
                max_lines=1,
                elem_id="vz-region",
            )
        with gr.Column(scale=8, min_width=300):
            results = gr.HTML(EMPTY, elem_id="vz-results")
    gr.HTML(f'<div class="vz-note">{_about(pipe, sampled=index is None)}</div>')

    refuse_addresses(picture, "photo")
    picture.upload(
        check, picture, [picture, results], preprocess=False, api_visibility="private", show_progress="hidden"
    )
    picture.change(lambda: "", None, region, api_visibility="private", show_progress="hidden")
    picture.select(corner, region, region, api_visibility="private", show_progress="hidden")
    gr.on(
        [button.click, region.submit],
        search,
        [picture, region, count],
        results,
        preprocess=False,
        api_name="search",
        concurrency_id="retrieve",
        concurrency_limit=1,
        show_progress_on=results,
    ).success(None, js=_SHOW_RESULTS)


def _read(upload: dict[str, Any]) -> bytes:
    try:
        return Path(upload["path"]).read_bytes()
    except (OSError, KeyError, TypeError) as error:
        raise ImageError("the uploaded photo no longer exists; upload it again") from error


__all__ = ["TITLE", "Found", "Searcher", "page"]
