"""The demo page of haze removal: a picture before and after, and what a part of the result depends on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import gradio as gr

from visionzoo.errors import InputError, VisionZooError
from visionzoo.registry import model_card, weight_source
from visionzoo.weights import locate, offline

from ..pipelines.dehaze.pipeline import DehazePipeline
from .dehaze_map import MAP_SIDE, WINDOWS, Look, explain
from .dehaze_result import SHOWN_SIDE, read, reduced, remove, save, show
from .dehaze_samples import samples
from .uploads import refuse_addresses
from .words import plain, prose, show_problem

TITLE = "Remove haze"
EMPTY = '<div class="vz-empty">Pick one of the sample images, or upload your own. Then press Remove haze.</div>'
_CLICK = "Click a place in the result: the map shows which pixels of the hazy image it depends on (this takes up to half a minute)."
EMPTY_MAP = f'<div class="vz-empty">First remove the haze from an image. {_CLICK}</div>'
READY_MAP = f'<div class="vz-empty">{_CLICK}</div>'
INTRO = (
    '<div class="vz-head"><h1>Remove haze from an image</h1>'
    "<p>The network processes the image tile by tile and exchanges information among all tiles, so images may be large.</p></div>"
)
NOTE = """<div class="vz-note">
<p><strong>Tiles</strong> have 256 x 256 pixels. They do not overlap, so their borders can be visible; blending also runs a second,
shifted grid of tiles.</p>
<p><strong>Attribution maps</strong> follow the line from the network's own clear result to the hazy image in 8 steps and add up
how much each pixel contributes to the window's mean and variance (integrated gradients).</p>
<p><strong>Method:</strong> DehazeXL, <a href="https://arxiv.org/abs/2504.09621" rel="noreferrer" target="_blank">Tokenize Image
Patches: Global Context Fusion for Effective Haze Removal in Large Images</a>, CVPR 2025.</p>
<p><strong>Sample images.</strong> Clear photos with synthetic haze: temple (danielbuechele) and flower (vultilion),
CC BY 2.0, altered; camera (Lav Varshney), CC0.</p>
<p><strong>Uploads</strong> and results are deleted after an hour. Nothing is sent to other hosts.</p>
</div>"""

_SHOW_RESULTS = """() => {
  const results = document.querySelector("#vz-dehaze-result:has(.vz-done)");
  if (results && results.getBoundingClientRect().top > window.innerHeight / 2) results.scrollIntoView({behavior: "smooth"});
}"""
"""On a narrow screen the results stand below the picture."""

_STYLE = """<style>
.gradio-container {
#vz-dehaze-picture { border: 1px solid var(--border-color-primary); }
#vz-dehaze-samples .gallery { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 5px; }
#vz-dehaze-samples .gallery-item { position: relative; aspect-ratio: 4 / 3; width: auto; border: 0; border-radius: 2px; }
#vz-dehaze-samples .gallery-item .container { display: block; position: absolute; inset: 0; width: 100%; height: 100%;
                                              max-width: none; max-height: none; border: 0; }
#vz-dehaze-samples .gallery-item img { width: 100%; height: 100%; max-width: none; object-fit: cover; }
#vz-dehaze-samples .gallery-item:is(:hover, :focus-visible) { outline: 2px solid var(--color-accent); outline-offset: 1px; }
#vz-dehaze-result { scroll-margin-top: 1rem; }
.vz-done { border-top: 2px solid var(--body-text-color); padding: .6rem 0 .2rem; }
.vz-done span, .vz-done p { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.vz-done p { margin: .2rem 0 0; font-size: var(--text-sm); }
#vz-dehaze-place { cursor: crosshair; }
}
</style>"""
"""Of this page alone. Nested, so that it weighs more than the rules that Gradio has for text."""


# The network


def what_is_missing() -> str | None:
    """Why the default network is not available here, or None if it can (perhaps by a download)."""
    try:
        source = weight_source(DehazePipeline.default_model)
    except InputError as error:
        return str(error)
    path = locate(source)
    if (path is not None and path.is_file()) or ((source.url or source.hub) and not offline()):
        return None
    return (
        f"the weights of {DehazePipeline.default_model} are not in the cache: put {source.file} into the folder `weights` of "
        "visionzoo's cache (VISIONZOO_HOME), or install visionzoo again"
    )


class Restorer:
    """The pipeline with the default network, made when it is first asked for.

    Args:
        pipe: use this one instead.
    """

    def __init__(self, pipe: DehazePipeline | None = None):
        self._pipe = pipe
        self._lock = threading.Lock()

    @property
    def missing(self) -> str | None:
        return None if self._pipe is not None else what_is_missing()

    def __call__(self) -> DehazePipeline:
        """Raises `VisionZooError` if the weights are not available."""
        with self._lock:
            if self._pipe is None:
                missing = what_is_missing()
                if missing is not None:
                    raise InputError(missing)
                self._pipe = DehazePipeline.create()
            return self._pipe


def about() -> str:
    """The network and its limits in a few lines of HTML."""
    card = model_card(DehazePipeline.default_model)
    cautions = "".join(f" <b>{prose(source.caution)}</b>" for source in card.weights[:1])
    return (
        f'<p class="vz-hint"><strong>{plain(card.name)}</strong>, {card.params / 1e6:.1f} M parameters. '
        f"{prose(card.summary)} <strong>Its quality is limited.</strong> {prose(card.limits)}{cautions}</p>"
    )


# The page


def page(*, home: Path, index: Path | None = None, pipe: DehazePipeline | None = None) -> None:
    """Lay out the page inside the current `gr.Blocks`.

    Args:
        home: folder of the demo, for the sample pictures.
        index: belongs to another page.
        pipe: what removes the haze; the default network if None.
    """
    del index
    restorer = Restorer(pipe)
    pictures = samples(home)

    # `preprocess=False` below hands over uploads as they are: they are decoded here, with our limits and messages

    def check(upload: dict[str, Any] | None) -> tuple[Any, ...]:
        if upload is None:
            return (gr.skip(),) * 4
        try:
            read(upload)
        except InputError as error:
            return None, show_problem(f"This file cannot be used: {error}", EMPTY), *hidden()
        return gr.skip(), EMPTY, *hidden()

    def hidden() -> tuple[Any, Any]:
        return gr.ImageSlider(None, visible=False), gr.DownloadButton(visible=False)

    def start(
        upload: dict[str, Any] | None,
        blend: bool,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        nothing = *hidden(), *(gr.skip(),) * 8
        if upload is None:
            return show_problem("pick a sample image or upload one first", EMPTY), *nothing
        try:
            used = restorer()
            removed = remove(
                used, upload, bool(blend), lambda done, of, what: progress((done, of), desc=what, unit="tiles")
            )
            file = save(removed, download.GRADIO_CACHE)
        except VisionZooError as error:
            return show_problem(str(error), EMPTY), *nothing
        look = Look.of(removed)
        height, width = look.hazy.shape[:2]
        x, y = width // 2, height // 2
        size = file.stat().st_size / 1e6
        pair = reduced(removed.hazy, SHOWN_SIDE), reduced(removed.clear, SHOWN_SIDE)
        return (
            show(removed, used),
            gr.ImageSlider(pair, visible=True),
            gr.DownloadButton(f"Download the result (PNG, {size:.1f} MB)", value=file, visible=True),
            look,
            gr.Image(look.framed(x, y, WINDOWS[0] * 4), visible=True),
            gr.Slider(0, width - 1, value=x, interactive=True),
            gr.Slider(0, height - 1, value=y, interactive=True),
            WINDOWS[0] * 4,
            f'<p class="vz-hint">Click a place in the result. {look.size_text()}</p>',
            READY_MAP,
            gr.Image(None, visible=False),
        )

    def frame(look: Look | None, x: float, y: float, side: float) -> Any:
        return gr.skip() if look is None else look.framed(x, y, side)

    def pick(look: Look | None, side: float, event: gr.SelectData) -> tuple[Any, ...]:
        if look is None:
            return (gr.skip(),) * 3
        x, y = (int(value) for value in event.index)
        return look.framed(x, y, side), x, y

    def map_of(look: Look | None, x: float, y: float, side: float) -> tuple[Any, Any]:
        if look is None:
            return EMPTY_MAP, gr.skip()
        try:
            text, picture = explain(restorer(), look, x, y, side)
        except VisionZooError as error:
            return show_problem(str(error)), gr.Image(None, visible=False)
        return text, gr.Image(picture, visible=True)

    gr.HTML(_STYLE + INTRO)
    if restorer.missing is not None:
        gr.HTML(show_problem(f"Haze cannot be removed yet: {restorer.missing}"), elem_id="vz-dehaze-missing")
    gr.HTML(about())
    state = gr.State(None, time_to_live=3600)
    with gr.Tabs():
        with gr.Tab("Before and after"), gr.Row(elem_classes="vz-columns", equal_height=False):
            with gr.Column(scale=3, min_width=300, elem_classes="vz-query"):
                picture = gr.Image(
                    label="Hazy image",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    height=270,
                    buttons=["fullscreen"],
                    placeholder="Drop a hazy image here\nor click to choose one",
                    elem_id="vz-dehaze-picture",
                )
                gr.Examples(
                    [[str(path)] for path in pictures],
                    picture,
                    label="Sample images with synthetic haze",
                    examples_per_page=len(pictures),
                    elem_id="vz-dehaze-samples",
                )
                blend = gr.Checkbox(
                    value=True,
                    label="Blend tile borders",
                    info="Turn it off to halve the time; borders of tiles can then be visible.",
                    elem_id="vz-dehaze-blend",
                )
                button = gr.Button("Remove haze", variant="primary", size="lg", elem_id="vz-dehaze-remove")
            with gr.Column(scale=8, min_width=300):
                result = gr.HTML(EMPTY, elem_id="vz-dehaze-result")
                slider = gr.ImageSlider(
                    show_label=False,
                    interactive=False,
                    buttons=["fullscreen"],
                    max_height=720,
                    format="png",  # gradio shows lossy WebP otherwise
                    visible=False,
                    elem_id="vz-dehaze-slider",
                )
                download = gr.DownloadButton("Download the result", visible=False, elem_id="vz-dehaze-download")
        with gr.Tab("Attribution"), gr.Row(elem_classes="vz-columns", equal_height=False):
            with gr.Column(scale=5, min_width=300, elem_classes="vz-query"):
                place = gr.Image(
                    show_label=False,
                    interactive=False,
                    buttons=[],
                    visible=False,
                    format="png",
                    elem_id="vz-dehaze-place",
                )
                hint = gr.HTML(
                    f'<p class="vz-hint">Pictures of more than {MAP_SIDE} pixels a side are reduced first.</p>'
                )
                x = gr.Slider(0, 1, value=0, step=1, label="Centre, from the left", elem_id="vz-dehaze-x")
                y = gr.Slider(0, 1, value=0, step=1, label="Centre, from the top", elem_id="vz-dehaze-y")
                side = gr.Slider(*WINDOWS, value=64, step=1, label="Side of the window", elem_id="vz-dehaze-side")
                map_button = gr.Button("Show the map", variant="primary", size="lg", elem_id="vz-dehaze-explain")
            with gr.Column(scale=6, min_width=300):
                reading = gr.HTML(EMPTY_MAP, elem_id="vz-dehaze-reading")
                found = gr.Image(
                    show_label=False,
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    format="png",
                    visible=False,
                    elem_id="vz-dehaze-map",
                )
    gr.HTML(NOTE)

    refuse_addresses(picture, "image")
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    run: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "dehaze", "concurrency_limit": 1}
    picture.clear(lambda: (EMPTY, *hidden()), None, [result, slider, download], **quiet)
    picture.change(check, picture, [picture, result, slider, download], preprocess=False, **quiet)
    button.click(lambda: (EMPTY, *hidden()), None, [result, slider, download], **quiet).then(
        start,
        [picture, blend],
        [result, slider, download, state, place, x, y, side, hint, reading, found],
        preprocess=False,
        show_progress_on=result,
        **run,
    ).success(None, js=_SHOW_RESULTS)
    window = [state, x, y, side]
    gr.on([x.release, y.release, side.release], frame, window, place, **quiet)
    mapped: dict[str, Any] = {"fn": map_of, "inputs": window, "outputs": [reading, found], **run}
    place.select(pick, [state, side], [place, x, y], **quiet).then(
        **mapped, show_progress_on=reading, trigger_mode="always_last"
    )
    map_button.click(**mapped, show_progress_on=reading)


__all__ = ["TITLE", "Restorer", "page"]
