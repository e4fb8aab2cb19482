"""The demo page of photo retrieval: what is found for a photo, before and after reranking; and duplicates of photos."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gradio as gr

from visionzoo.errors import InputError, VisionZooError
from visionzoo.io.image import list_images
from visionzoo.registry import list_models

from ..pipelines.retrieve.pipeline import RetrievePipeline
from .page import QUIET, Panel, Sample, Work, about, head, saved
from .retrieve_duplicates import MAX_PHOTOS, compare_collection, compare_uploads, save_groups, show_groups
from .retrieve_result import Collection, numbers_in, save_found, show
from .retrieve_samples import sample_copies, samples
from .uploads import IMAGE, checked_path, names_of
from .words import duration, explain, plain, sentence

TITLE = "Retrieve"
MAX_RESULTS = 24
SCORES = (
    "They rank the photos of one search. They are not probabilities, and some photo always comes first, even if nothing matches. "
    "The first stage scores by the cosine of descriptors; reranking reorders with the neighbours' help."
)
SAMPLED = (
    "Public domain and CC0, except temple (danielbuechele) and flower (vultilion), CC BY 2.0, altered: views made from one photo per "
    "subject, so they are easy to find."
)

_STYLE = """<style>
.gradio-container {
#vz-retrieve-region :is(input, textarea) { font-variant-numeric: tabular-nums; }
.vz-summary { display: flex; gap: 1.1rem; align-items: center; padding-bottom: 1.2rem; }
.vz-summary img { max-height: 76px; max-width: 130px; margin: 4px; outline: 2px solid var(--vz-accent);
                  outline-offset: 2px; }
.vz-summary strong { display: block; font-size: 1.05rem; font-weight: 600; }
.vz-groups { display: grid; gap: 1.9rem; margin-top: 1.4rem; }
.vz-groups .vz-grid { grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); }
.vz-summary span { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
}
</style>"""


def page(*, home: Path, index: Path | None = None) -> None:
    """Lay out the page inside the current `gr.Blocks`.

    Args:
        home: folder of the demo, for the sample photos and their index.
        index: the index to search; None searches the sample photos.
    """
    collection = Collection(home, index)
    photos = list_images(samples(home) / "photos")
    queries = list_images(samples(home) / "queries")
    model = RetrievePipeline.default_model if index is None else collection().pipe.name

    def start(work: Work, upload: Any, region: str | None, count: float) -> tuple[Any, ...]:
        if upload is None:
            raise InputError("pick a sample or upload a photo first")
        path = checked_path(upload, IMAGE)
        searcher = collection(work.report)
        work.report("searching", 0, 0)
        found = searcher(path, region or "", int(min(max(count, 1), MAX_RESULTS)))
        work.report("drawing the results", 0, 0)
        return show(found), saved(save_found(found, work.folder() / "found.png"), "Download the contact sheet")

    def search(upload: dict[str, Any] | None, region: str | None, count: float) -> str:
        """Search with a photo; returns both rankings as HTML."""
        try:
            return start(Work(Path(status_home)), upload, region, count)[0]
        except VisionZooError as error:
            raise gr.Error(sentence(explain(error, names_of(upload))), print_exception=False) from error

    def compare(work: Work, uploads: Any) -> tuple[Any, ...]:
        searcher = collection(work.report)
        started = time.perf_counter()
        result, names = compare_uploads(searcher.pipe, uploads, work) if uploads else compare_collection(searcher, work)
        took = duration(time.perf_counter() - started)
        work.report("drawing the results", 0, 0)
        sheet = save_groups(result, names, work.folder() / "duplicates.png") if result.groups else None
        return show_groups(result, names, took), saved(sheet, "Download the contact sheet") if sheet else ""

    def corner(region: str, event: gr.SelectData) -> str:
        x, y = (round(float(value)) for value in event.index)
        waiting = len(numbers_in(region)) == 2
        return f"{region.strip(' ,')}, {x}, {y}" if waiting else f"{x}, {y}"

    which = (
        f"{len(photos)} sample photos"
        if index is None
        else f"{len(collection().index):,} photos of {plain(index.name)}"
    )
    head(
        "Find the photos that show the same thing",
        f"Searches {which} by example, and finds duplicates. {plain(model)} describes each photo by a vector.",
    )
    gr.HTML(_STYLE)
    alike = (
        "Pick a sample or upload photos, then press <b>Run</b> to find those that show the same image. "
        f"Without uploads, the {which} are compared."
    )
    with gr.Tabs():
        pick = "Pick a sample or upload a photo of your own, then press <b>Run</b>."
        with gr.Tab("Search"), Panel("retrieve", pick) as panel:
            with panel.inputs():
                box = panel.upload(IMAGE, "Query photo")
                panel.samples([Sample(path, path.stem, (path,)) for path in queries], [box], "Sample queries")
                count = gr.Slider(1, MAX_RESULTS, value=9, step=1, label="Results", elem_id="vz-retrieve-count")
                region = gr.Textbox(
                    label="Region",
                    info="For a part of the photo: click two opposite corners in it, or type x0, y0, x1, y1 in pixels.",
                    placeholder="the whole photo",
                    max_lines=1,
                    elem_id="vz-retrieve-region",
                )
            with panel.results():
                sheet = panel.download()
        with gr.Tab("Duplicates"), Panel("retrieve-duplicates", alike) as twins:
            with twins.inputs():
                uploads = twins.upload(IMAGE, "Photos", many=MAX_PHOTOS, words=f"At most {MAX_PHOTOS} at once.")
                twins.samples(
                    [
                        Sample(files[0], f"{files[0].stem} and {len(files) - 1} others", (files,))
                        for files in sample_copies(home)
                    ],
                    [uploads],
                    "Samples, each with copies and other views",
                    "vz-few",
                )
            with twins.results():
                groups = twins.download()
    notes = {"Scores": SCORES, **({"Sample photos": SAMPLED} if index is None else {})}
    if model in list_models(task="retrieve"):
        about([model], notes)
    else:
        about([], {"Model": f"{plain(model)} with SuperGlobal's pooling; see its publisher for the licence.", **notes})

    status_home = panel.status.GRADIO_CACHE
    panel.run(start, [box, region, count], [sheet], also=[region.submit])
    twins.run(compare, [uploads], [groups], lane="retrieve")
    box.component.change(lambda: "", None, region, **QUIET)
    box.component.select(corner, region, region, **QUIET)
    api = gr.Button(visible=False)  # the same for programs, without progress and Cancel
    api.click(
        search,
        [box.component, region, count],
        gr.HTML(visible=False),
        preprocess=False,
        api_name="search",
        concurrency_id="retrieve",
        concurrency_limit=1,
    )


__all__ = ["TITLE", "page"]
