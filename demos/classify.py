"""The demo page of classification: what a picture shows, as bars, beside the part of it that the network sees."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from visionzoo.cards import WeightSource
from visionzoo.errors import InputError, VisionZooError, unknown
from visionzoo.io.extensions import IMAGES
from visionzoo.io.image import list_images
from visionzoo.registry import list_models, model_card
from visionzoo.weights import locate, offline

from ..pipelines.classify.pipeline import ClassifyPipeline
from .classify_result import MAX_PICTURES, see, see_all, show, show_all
from .retrieve import samples
from .uploads import refuse_addresses
from .words import prose, show_problem

TITLE = "Classify"
MAX_RESULTS = 20
EMPTY = '<div class="vz-empty">Pick one of the sample images, or upload your own.</div>'
EMPTY_MANY = (
    '<div class="vz-empty">Upload several images to get the best class of each, and a table of all of them.</div>'
)
INTRO = (
    '<div class="vz-head"><h1>See how a network classifies an image</h1>'
    "<p>The page shows the most probable classes, and the part of the image that the network sees.</p></div>"
)
NOTE = """<div class="vz-note">
<p><strong>Probabilities</strong> add up to 1 over the classes that the network knows. So some class always comes first, even
for an image that shows none of them.</p>
<p><strong>Crop.</strong> As in the published evaluation, the shorter side is resized and the centre is cropped. The parts outside
the frame have no influence.</p>
<p><strong>Method:</strong> SHViT, <a href="https://arxiv.org/abs/2401.16456" rel="noreferrer" target="_blank">Single-Head Vision
Transformer with Memory Efficient Macro Design</a>, CVPR 2024.</p>
<p><strong>Uploads</strong> are deleted after an hour. Nothing is sent to other hosts; only weights that are not in the cache
are downloaded.</p>
</div>"""

_SHOW_RESULTS = """() => {
  const results = document.querySelector("#vz-classify-one:has(.vz-bars)");
  if (results && results.getBoundingClientRect().top > window.innerHeight / 2) results.scrollIntoView({behavior: "smooth"});
}"""
"""On a narrow screen the results stand below the picture."""

_STYLE = """<style>
.gradio-container {
#vz-classify-picture { border: 1px solid var(--border-color-primary); }
#vz-classify-samples .gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(46px, 1fr)); gap: 5px; }
#vz-classify-samples .gallery-item { position: relative; aspect-ratio: 1; width: auto; border: 0; border-radius: 2px; }
#vz-classify-samples .gallery-item .container { position: absolute; inset: 0; width: 100%; height: 100%; max-height: none;
                                                border: 0; }
#vz-classify-samples .gallery-item img { width: 100%; height: 100%; max-width: none; object-fit: cover; }
#vz-classify-samples .gallery-item:is(:hover, :focus-visible) { outline: 2px solid var(--color-accent); outline-offset: 1px; }
#vz-classify-one { scroll-margin-top: 1rem; }
.vz-settings { gap: 1.1rem 2.5rem !important; align-items: flex-start; margin-bottom: .4rem; }
.vz-best { margin-bottom: 1.3rem; }
.vz-best strong { display: block; font-size: 1.7rem; line-height: 1.2; font-weight: 650; letter-spacing: -.015em;
                  overflow-wrap: anywhere; }
.vz-best b { color: var(--color-accent); font-variant-numeric: tabular-nums; font-weight: 600; }
.vz-best span { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.vz-bars { list-style: none; margin: 0; padding: 0 !important; }
.vz-bars li { display: grid; grid-template-columns: 1fr auto; column-gap: 1rem; margin: 0 0 .6rem; }
.vz-bars .vz-label { overflow-wrap: anywhere; min-width: 0; }
.vz-bars .vz-share { font-variant-numeric: tabular-nums; color: var(--body-text-color-subdued); }
.vz-track { display: block; grid-column: 1 / -1; height: 6px; margin-top: .15rem;
            background: color-mix(in srgb, var(--body-text-color) 9%, transparent); }
.vz-track i { display: block; height: 100%; min-width: 1px;
              background: color-mix(in srgb, var(--body-text-color) 32%, transparent); }
.vz-first .vz-label, .vz-first .vz-share { font-weight: 600; color: var(--body-text-color); }
.vz-first .vz-track i, .vz-grid .vz-track i { background: var(--color-accent); }
.vz-views { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1rem; align-items: start; }
.vz-views figure { margin: 0; min-width: 0; }
.vz-views img { width: 100%; display: block; max-height: 22rem; object-fit: contain; object-position: left top; }
.vz-views figcaption { padding-top: .4rem; font-size: var(--text-sm); color: var(--body-text-color-subdued); }
.vz-known { margin-top: 1.4rem; font-size: var(--text-sm); color: var(--body-text-color-subdued); }
.vz-known :is(summary, p) { color: inherit; }
.vz-known summary { cursor: pointer; }
.vz-known p { margin: .5rem 0 0; max-height: 11rem; overflow-y: auto; }
#vz-classify-many .vz-grid { grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); gap: 1.4rem 1.1rem; }
#vz-classify-many .vz-grid .vz-label { font-weight: 600; overflow-wrap: anywhere; }
#vz-classify-many .vz-score { margin-left: auto; }
#vz-classify-many .vz-grid .vz-track { height: 4px; margin: .25rem 0 .2rem; }
.vz-total { display: flex; flex-wrap: wrap; gap: .6rem 1.5rem; align-items: baseline; justify-content: space-between;
            border-top: 2px solid var(--body-text-color); padding: .6rem 0 1.1rem; }
.vz-total span { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.vz-total a { color: var(--color-accent); font-weight: 600; padding: 0; margin: 0; }
}
</style>"""
"""Of this page alone. Nested, so that it weighs more than the rules that Gradio has for text."""


# Models


def choices() -> list[WeightSource]:
    """Weights of classifiers that are here or can be fetched; if there are none, all of them, whose errors say what to do."""
    sources = [source for model in list_models(task="classify") for source in model_card(model).weights]
    usable = [source for source in sources if is_here(source) or ((source.url or source.hub) and not offline())]
    return usable or sources


def is_here(source: WeightSource) -> bool:
    """Nothing needs to be downloaded."""
    path = locate(source)
    return path is not None and path.is_file()


def default_choice(sources: Sequence[WeightSource]) -> str:
    """The pipeline's default, unless it is not here and others are; those that a caution stands beside come last."""
    here = [source for source in sources if is_here(source)]
    usual = [source for source in sources if source.name.partition(".")[0] == ClassifyPipeline.default_model]
    sound = [source for source in here if not source.caution]
    return next(iter([*(s for s in usual if s in here), *sound, *usual, *here, *sources])).name


def _title(source: WeightSource) -> str:
    """Of the list: the name, and what it takes to use it."""
    if is_here(source):
        return source.name
    return f"{source.name} ({f'{source.size_mb:g} MB ' if source.size_mb else ''}to download)"


class Classifiers:
    """Pipelines by the name of their weights, each made once, when it is first asked for.

    Args:
        names: the weights that may be asked for.
    """

    def __init__(self, names: Collection[str]):
        self.names = names
        self._made: dict[str, ClassifyPipeline] = {}
        self._lock = threading.Lock()

    def __call__(self, name: str) -> ClassifyPipeline:
        """The pipeline of the weights `name`. Raises `VisionZooError` if they are not available."""
        if name not in self.names:
            raise unknown("model", name, self.names)
        if name not in self._made:
            with self._lock:
                if name not in self._made:
                    self._made[name] = ClassifyPipeline.create(name)
        return self._made[name]


def about(source: WeightSource) -> str:
    """A model and its weights in a few lines of HTML."""
    card = model_card(source.name.partition(".")[0])
    return (
        f'<p class="vz-hint">{prose(card.summary)} {card.params / 1e6:.1f} M parameters. '
        f"Weights: {prose(source.note)}; licence: {prose(source.license)}. <b>{prose(source.caution)}</b></p>"
    )


# The page


def page(*, home: Path, index: Path | None = None) -> None:
    """Lay out the page inside the current `gr.Blocks`.

    Args:
        home: folder of the demo, for the sample pictures.
        index: belongs to another page.
    """
    del index
    sources = {source.name: source for source in choices()}
    classifiers = Classifiers(sources)
    pictures = list_images(samples(home) / "queries")

    # `preprocess=False` below hands over uploads as they are: they are decoded here, with our limits and messages

    def classify_one(upload: dict[str, Any] | None, model: str, count: float) -> tuple[Any, Any]:
        if upload is None:
            return gr.skip(), gr.skip()
        try:
            pipe = classifiers(model)
        except VisionZooError as error:
            return gr.skip(), show_problem(str(error))
        try:
            return gr.skip(), show(see(pipe, upload, _within(count)), pipe)
        except InputError as error:
            return None, show_problem(f"This file cannot be used: {error}", EMPTY)

    def classify_many(
        uploads: list[dict[str, Any]] | None,
        model: str,
        count: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> str:
        if not uploads:
            return EMPTY_MANY
        try:
            pipe = classifiers(model)
            started = time.perf_counter()
            found = list(progress.tqdm(see_all(pipe, uploads, _within(count)), total=len(uploads), desc="classifying"))
            return show_all(found, pipe, time.perf_counter() - started)
        except VisionZooError as error:
            return show_problem(str(error), EMPTY_MANY)

    def describe(model: str) -> str:
        return about(sources[model])

    gr.HTML(_STYLE + INTRO)
    with gr.Row(elem_classes="vz-settings", equal_height=False):
        first = default_choice(list(sources.values()))
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
            described = gr.HTML(describe(first))
    with gr.Tabs():
        with gr.Tab("One image"), gr.Row(elem_classes="vz-columns", equal_height=False):
            with gr.Column(scale=3, min_width=300, elem_classes="vz-query"):
                picture = gr.Image(
                    label="Image",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    height=270,
                    buttons=["fullscreen"],
                    placeholder="Drop an image here\nor click to choose one",
                    elem_id="vz-classify-picture",
                )
                gr.Examples(
                    [[str(path)] for path in pictures],
                    picture,
                    label="Sample images",
                    examples_per_page=len(pictures),
                    elem_id="vz-classify-samples",
                )
            with gr.Column(scale=8, min_width=300):
                one = gr.HTML(EMPTY, elem_id="vz-classify-one")
        with gr.Tab("Several"), gr.Row(elem_classes="vz-columns", equal_height=False):
            with gr.Column(scale=3, min_width=300, elem_classes="vz-query"):
                files = gr.File(
                    label=f"Up to {MAX_PICTURES} images",
                    file_count="multiple",
                    file_types=["image", *sorted(IMAGES)],
                    height=270,
                    elem_id="vz-classify-files",
                )
            with gr.Column(scale=8, min_width=300):
                many = gr.HTML(EMPTY_MANY, elem_id="vz-classify-many")
    gr.HTML(NOTE)

    refuse_addresses(picture, "image")
    refuse_addresses(files, "image")
    model.change(describe, model, described, api_visibility="private", show_progress="hidden")
    run: dict[str, Any] = {
        "preprocess": False,
        "api_visibility": "private",
        "concurrency_id": "classify",
        "concurrency_limit": 2,
    }
    picture.clear(lambda: EMPTY, None, one, api_visibility="private", show_progress="hidden")
    picture.change(classify_one, [picture, model, count], [picture, one], show_progress_on=one, **run).success(
        None, js=_SHOW_RESULTS
    )
    gr.on(
        [model.change, count.release],
        classify_one,
        [picture, model, count],
        [picture, one],
        show_progress_on=one,
        **run,
    )
    gr.on(
        [files.change, model.change, count.release],
        classify_many,
        [files, model, count],
        many,
        show_progress_on=many,
        **run,
    )


def _within(count: float) -> int:
    return int(min(max(count, 1), MAX_RESULTS))


__all__ = ["TITLE", "Classifiers", "page"]
