"""The demo page of haze removal: an image before and after, and what a part of the result depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.weights import WeightsError

from ..pipelines.dehaze.pipeline import DehazePipeline
from .about import weights_missing
from .dehaze_map import MAP_SIDE, WINDOWS, Look, explain
from .dehaze_result import HAZY, MIN_SIDE, SHOWN_SIDE, reduced, remove, save, show
from .dehaze_samples import samples
from .first_use import FirstUse
from .page import QUIET, Panel, Sample, Work, about, head, saved
from .words import problem

TITLE = "Remove haze"
CLICK = (
    "Click a place in the result, or set the window with the sliders, then press Run. This takes up to half a minute."
)
NOTES = {
    "Tiles": "Tiles have 256 x 256 pixels. They do not overlap, so their borders can be visible; blending also runs a second, "
    "shifted grid of tiles.",
    "Dependence maps": "The map follows the line from the network's own clear result to the hazy image in 8 steps and adds up how "
    "much each pixel contributes to the window's mean and variance (integrated gradients).",
    "Sample images": "Clear photos with synthetic haze: temple (danielbuechele) and flower (vultilion), CC BY 2.0, altered; camera "
    "(Lav Varshney), CC0.",
}
_STYLE = "<style>#vz-dehaze-map-place { cursor: crosshair; }</style>"


def missing_weights() -> str | None:
    """Why the default network is not available here, or None if it is (perhaps after a download)."""
    return weights_missing(DehazePipeline.default_model)


class Restorer(FirstUse[DehazePipeline]):
    """The pipeline with the default network, created on first use; `WeightsError` if the weights are not available.

    Args:
        pipe: a pipeline to use instead.
    """

    def __init__(self, pipe: DehazePipeline | None = None):
        super().__init__(self._with_weights, pipe)

    @property
    def missing(self) -> str | None:
        return None if self._pipe is not None else missing_weights()

    @staticmethod
    def _with_weights() -> DehazePipeline:
        missing = missing_weights()
        if missing is not None:
            raise WeightsError(missing)
        return DehazePipeline.create()


def page(*, home: Path, index: Path | None = None, pipe: DehazePipeline | None = None) -> None:
    """Lay out the page inside the current `gr.Blocks`.

    Args:
        home: folder of the demo, for the sample images.
        index: belongs to another page.
        pipe: the pipeline that removes the haze; None uses the default network.
    """
    del index
    restorer = Restorer(pipe)

    def start(work: Work, upload: Any, blend: bool) -> tuple[Any, ...]:
        if upload is None:
            raise InputError("pick a sample or upload an image first")
        used = restorer()
        removed = remove(used, upload, bool(blend), work.report)
        look = Look.of(removed)
        height, width = look.hazy.shape[:2]
        x, y, side = width // 2, height // 2, WINDOWS[0] * 4
        return (
            show(removed, used),
            (reduced(removed.hazy, SHOWN_SIDE), reduced(removed.clear, SHOWN_SIDE)),
            saved(save(removed, work.folder()), "Download the result"),
            look,
            gr.Image(look.framed(x, y, side), visible=True),
            gr.Slider(0, width - 1, value=x),
            gr.Slider(0, height - 1, value=y),
            side,
        )

    def explained(work: Work, look: Look | None, x: float, y: float, side: float) -> tuple[Any, ...]:
        if look is None:
            raise InputError('first remove the haze from an image, on "Before and after"')
        work.report("following the network's gradients", 0, 0)
        text, image = explain(restorer(), look, x, y, side)
        path = work.folder() / "dependence.png"
        Image.fromarray(image).save(path)
        return text, image, saved(path, "Download the map")

    def framed(look: Look | None, x: float, y: float, side: float) -> Any:
        return gr.skip() if look is None else look.framed(x, y, side)

    def pick(look: Look | None, side: float, event: gr.SelectData) -> tuple[Any, ...]:
        if look is None:
            return (gr.skip(),) * 3
        x, y = (int(value) for value in event.index)
        return look.framed(x, y, side), x, y

    head(
        "Remove haze from an image",
        "The network processes the image tile by tile and exchanges information among all tiles, so images may be large.",
        "The bundled network is small: it makes dense haze thinner but does not remove it.",
    )
    if restorer.missing is not None:
        gr.HTML(_STYLE + problem(f"haze cannot be removed yet: {restorer.missing}"), elem_id="vz-dehaze-missing")
    else:
        gr.HTML(_STYLE)
    look = gr.State(None, time_to_live=3600)
    with gr.Tabs():
        with (
            gr.Tab("Before and after"),
            Panel("dehaze", "Pick a sample or upload a hazy image, then press <b>Run</b>.") as panel,
        ):
            with panel.inputs():
                box = panel.upload(HAZY, "Hazy image", words=f"At least {MIN_SIDE} pixels a side.")
                images = [Sample(path, f"{path.stem.split('_')[0]} in haze", (path,)) for path in samples(home)]
                panel.samples(images, [box], "Samples, with synthetic haze", "vz-few")
                blend = gr.Checkbox(
                    value=True,
                    label="Blend tile borders",
                    info="Turn it off to halve the time; borders of tiles can then be visible.",
                    elem_id="vz-dehaze-blend",
                )
            with panel.results():
                slider = gr.ImageSlider(
                    label="Before and after",
                    show_label=False,
                    interactive=False,
                    buttons=["fullscreen"],
                    max_height=720,
                    format="png",  # gradio shows lossy WebP otherwise
                    elem_id="vz-dehaze-slider",
                )
                download = panel.download()
        with (
            gr.Tab("What it depends on"),
            Panel("dehaze-map", f"First remove the haze from an image. {CLICK}", 6) as maps,
        ):
            with maps.inputs():
                place = gr.Image(
                    label="Result, with the window",
                    interactive=False,
                    buttons=[],
                    visible=False,
                    format="png",
                    elem_id="vz-dehaze-map-place",
                )
                x = gr.Slider(0, 1, value=0, step=1, label="Centre, from the left", elem_id="vz-dehaze-map-x")
                y = gr.Slider(0, 1, value=0, step=1, label="Centre, from the top", elem_id="vz-dehaze-map-y")
                side = gr.Slider(*WINDOWS, value=64, step=1, label="Side of the window", elem_id="vz-dehaze-map-side")
                gr.HTML(
                    f'<p class="vz-hint">In pixels. Images of more than {MAP_SIDE} pixels a side are reduced first.</p>'
                )
            with maps.results():
                found = gr.Image(
                    label="What the window depends on",
                    show_label=False,
                    interactive=False,
                    buttons=["fullscreen"],
                    format="png",
                    elem_id="vz-dehaze-map-found",
                )
                map_file = maps.download()
    about([DehazePipeline.default_model], NOTES)

    panel.run(start, [box, blend], [slider, download, look, place, x, y, side])
    window = [look, x, y, side]
    maps.run(explained, window, [found, map_file], raw=False, lane="dehaze")
    gr.on([x.release, y.release, side.release], framed, window, place, **QUIET)
    place.select(pick, [look, side], [place, x, y], **QUIET)


__all__ = ["TITLE", "Restorer", "page"]
