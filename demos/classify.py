"""The demo page of classification: the classes of images and videos as bars, next to the part of an image that the network sees."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from visionzoo.cards import WeightSource
from visionzoo.errors import InputError, unknown
from visionzoo.io.files import bundled
from visionzoo.io.image import list_images
from visionzoo.registry import list_models, model_card
from visionzoo.weights import locate, offline

from ..pipelines.classify.pipeline import ClassifyPipeline
from .classify_result import MAX_FRAMES, MAX_IMAGES, see, see_all, show, show_all, show_video, table, watch
from .page import QUIET, Panel, Sample, Work, about_html, head, saved
from .retrieve_samples import samples
from .uploads import IMAGE, VIDEO
from .words import sentence, told

TITLE = "Classify"
MAX_RESULTS = 20
SHORTEST_S, LONGEST_S = 0.1, 10.0
NOTES = {
    "Probabilities": "They add up to 1 over the classes that the network knows. So some class always comes first, even for an image "
    "that shows none of them.",
    "Crop": "As in the published evaluation, the shorter side is resized and the centre is cropped. The parts outside the frame have "
    "no influence.",
    "Downloads": "Only weights that are not on this server yet are downloaded; nothing is sent to other hosts.",
}

_STYLE = """<style>
.gradio-container {
.vz-settings { gap: 1.1rem 2.5rem !important; align-items: flex-start; margin-bottom: .4rem; }
.vz-best { margin-bottom: 1.3rem; border-top: 2px solid var(--body-text-color); padding-top: .6rem; }
.vz-best strong { display: block; font-size: 1.7rem; line-height: 1.2; font-weight: 650; letter-spacing: -.015em;
                  overflow-wrap: anywhere; }
.vz-best b { color: var(--vz-accent); font-variant-numeric: tabular-nums; font-weight: 600; }
.vz-best span { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.vz-bars { list-style: none; margin: 0; padding: 0 !important; }
.vz-bars li { display: grid; grid-template-columns: 1fr auto; column-gap: 1rem; margin: 0 0 .6rem; }
.vz-bars .vz-label { overflow-wrap: anywhere; min-width: 0; }
.vz-bars .vz-share { font-variant-numeric: tabular-nums; color: var(--body-text-color-subdued); }
.vz-track { display: block; grid-column: 1 / -1; height: 6px; margin-top: .15rem; background: var(--vz-wash); }
.vz-track i { display: block; height: 100%; min-width: 1px;
              background: color-mix(in srgb, var(--body-text-color) 40%, transparent); }
.vz-first .vz-label, .vz-first .vz-share { font-weight: 600; color: var(--body-text-color); }
.vz-first .vz-track i, .vz-grid .vz-track i { background: var(--vz-accent); }
.vz-views { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1rem; align-items: start; }
.vz-views figure { margin: 0; min-width: 0; }
.vz-views img { width: 100%; display: block; max-height: 22rem; object-fit: contain; object-position: left top; }
.vz-views figcaption { padding-top: .4rem; font-size: var(--text-sm); color: var(--body-text-color-subdued); }
.vz-known { margin-top: 1.4rem; font-size: var(--text-sm); color: var(--body-text-color-subdued); }
.vz-known :is(summary, p) { color: inherit; }
.vz-known summary { cursor: pointer; }
.vz-known p { margin: .5rem 0 0; max-height: 11rem; overflow-y: auto; }
:is(#vz-classify-many-status, #vz-classify-video-status) .vz-grid {
    grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); gap: 1.4rem 1.1rem; margin-top: 1.2rem; }
:is(#vz-classify-many-status, #vz-classify-video-status) .vz-grid .vz-label { font-weight: 600; overflow-wrap: anywhere; }
:is(#vz-classify-many-status, #vz-classify-video-status) .vz-score { margin-left: auto; }
:is(#vz-classify-many-status, #vz-classify-video-status) .vz-grid .vz-track { height: 4px; margin: .25rem 0 .2rem; }
}
</style>"""
"""Styles of this page alone; nested, so that they take precedence over Gradio's rules for text."""


# Models


def choices() -> list[WeightSource]:
    """Weights of classifiers that are available or can be downloaded; if there are none, all, whose errors say what to do."""
    sources = [source for model in list_models(task="classify") for source in model_card(model).weights]
    usable = [source for source in sources if is_here(source) or ((source.url or source.hub) and not offline())]
    return usable or sources


def is_here(source: WeightSource) -> bool:
    """Whether nothing needs to be downloaded."""
    path = locate(source)
    return path is not None and path.is_file()


def default_choice(sources: Sequence[WeightSource]) -> str:
    """The weights in order: the pipeline's default first, unless only others are available; those with a caution come last."""
    here = [source for source in sources if is_here(source)]
    usual = [source for source in sources if source.name.partition(".")[0] == ClassifyPipeline.default_model]
    sound = [source for source in here if not source.caution]
    return next(iter([*(s for s in usual if s in here), *sound, *usual, *here, *sources])).name


def _title(source: WeightSource) -> str:
    """The text in the list: the name, and the size of the download if one is needed."""
    if is_here(source):
        return source.name
    return f"{source.name} ({f'{source.size_mb:g} MB ' if source.size_mb else ''}to download)"


class Classifiers:
    """Pipelines by the name of their weights, each created once, on first use.

    Args:
        names: the weights that can be chosen.
    """

    def __init__(self, names: Collection[str]):
        self.names = names
        self._pipelines: dict[str, ClassifyPipeline] = {}
        self._lock = threading.Lock()

    def __call__(self, name: str) -> ClassifyPipeline:
        """The pipeline of the weights `name`. Raises `VisionZooError` if they are not available."""
        if name not in self.names:
            raise unknown("model", name, self.names)
        if name not in self._pipelines:
            with self._lock:
                if name not in self._pipelines:
                    self._pipelines[name] = ClassifyPipeline.create(name)
        return self._pipelines[name]


# The page


def page(*, home: Path, index: Path | None = None) -> None:
    """Lay out the page inside the current `gr.Blocks`.

    Args:
        home: folder of the demo, for the sample images.
        index: belongs to another page.
    """
    del index
    sources = {source.name: source for source in choices()}
    classifiers = Classifiers(sources)
    images = list_images(samples(home) / "queries")
    clips = [(bundled("talking", f"{name}.jpg"), bundled("talking", f"{name}.mp4")) for name in ("woman", "man")]

    def classify_one(work: Work, upload: Any, model: str, count: float) -> tuple[Any, ...]:
        if upload is None:
            raise InputError("pick a sample or upload an image first")
        pipe = _open(work, model)
        seen = see(pipe, upload, _within(count))
        return show(seen, pipe), _csv(work, table([seen.result]))

    def classify_many(work: Work, uploads: Any, model: str, count: float) -> tuple[Any, ...]:
        if not uploads:
            raise InputError("upload one or more images first")
        pipe = _open(work, model)
        started = time.perf_counter()
        found = []
        for one in see_all(pipe, uploads, _within(count)):
            found.append(one)
            work.report("classifying images", len(found), len(uploads))
        results = [result for *_, result in found]
        usable = any(result.error is None for result in results)
        file = _csv(work, table(results)) if usable else ""
        return show_all(found, pipe, time.perf_counter() - started), file

    def classify_video(work: Work, upload: Any, model: str, count: float, every: float) -> tuple[Any, ...]:
        if upload is None:
            raise InputError("pick a sample or upload a video first")
        pipe = _open(work, model)
        started = time.perf_counter()
        result = watch(pipe, upload, _within(count), min(max(every, SHORTEST_S), LONGEST_S), work)
        return show_video(result, pipe, time.perf_counter() - started), _csv(work, table([result]))

    def _open(work: Work, model: str) -> ClassifyPipeline:
        work.report("loading the network", 0, 0)
        return classifiers(model)

    first = default_choice(list(sources.values()))
    head(
        "See how a network classifies images and videos",
        "The page shows the most probable classes, and the part of an image that the network sees.",
    )
    gr.HTML(_STYLE)
    with gr.Row(elem_classes="vz-settings", equal_height=False):
        with gr.Column(scale=3, min_width=300):
            model = gr.Dropdown(
                [(_title(source), name) for name, source in sources.items()],
                value=first,
                label="Model",
                elem_id="vz-classify-model",
            )
        with gr.Column(scale=3, min_width=300):
            count = gr.Slider(1, MAX_RESULTS, value=5, step=1, label="Classes", elem_id="vz-classify-count")
        with gr.Column(scale=5, min_width=300):
            caution = gr.HTML(_caution(sources[first]), elem_id="vz-classify-caution")
    with gr.Tabs():
        with gr.Tab("One image"), Panel("classify", "Pick a sample or upload an image, then press <b>Run</b>.") as one:
            with one.inputs():
                image = one.upload(IMAGE, "Image")
                one.samples([Sample(path, path.stem, (path,)) for path in images], [image])
            with one.results():
                one_table = one.download()
        several = (
            "Upload several images, then press <b>Run</b> to get the best class of each, and a table of all of them."
        )
        with gr.Tab("Several images"), Panel("classify-many", several) as many:
            with many.inputs():
                files = many.upload(IMAGE, "Images", many=MAX_IMAGES, words=f"At most {MAX_IMAGES} at once.")
            with many.results():
                many_table = many.download()
        with (
            gr.Tab("Video"),
            Panel("classify-video", "Pick a sample or upload a video, then press <b>Run</b>.") as clip,
        ):
            with clip.inputs():
                video = clip.upload(VIDEO, "Video", words=f"At most {MAX_FRAMES} frames are classified.")
                clip.samples([Sample(still, f"a {still.stem} who talks", (film,)) for still, film in clips], [video])
                every = gr.Slider(
                    SHORTEST_S,
                    LONGEST_S,
                    value=1,
                    step=0.1,
                    label="Seconds between frames",
                    elem_id="vz-classify-every",
                )
            with clip.results():
                video_table = clip.download()
    fold = gr.HTML(about_html([first.partition(".")[0]], NOTES), elem_classes="vz-fold")

    one.run(classify_one, [image, model, count], [one_table], lane="classify")
    many.run(classify_many, [files, model, count], [many_table], lane="classify")
    clip.run(classify_video, [video, model, count, every], [video_table], lane="classify")
    model.change(
        lambda name: (_caution(sources[name]), about_html([name.partition(".")[0]], NOTES)),
        model,
        [caution, fold],
        **QUIET,
    )


def _caution(source: WeightSource) -> str:
    """Cautions about these weights, as HTML."""
    caution = f" <b>{told(sentence(source.caution))}</b>" if source.caution else ""
    return f'<p class="vz-hint">{told(sentence(source.note))}{caution}</p>'


def _csv(work: Work, text: str) -> str:
    path = work.folder() / "classes.csv"
    path.write_text(text, encoding="utf-8")
    return saved(path, "Download the table")


def _within(count: float) -> int:
    return int(min(max(count, 1), MAX_RESULTS))


__all__ = ["TITLE", "Classifiers", "page"]
