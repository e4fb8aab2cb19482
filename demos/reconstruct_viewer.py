"""The part of the page that shows a scene: an image of the moment and camera that the sliders choose, and a video to download."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from visionzoo.errors import VisionZooError

from ..pipelines.reconstruct.scene import Pixels, Scene
from .page import QUIET, Work, saved
from .reconstruct_look import FILM_S, SIZES, Look, film, image_of
from .words import duration, explain, plain, problem

GONE = problem("this scene is no longer kept; press Run again")
STYLE = """<style>
.gradio-container #vz-reconstruct-image img { width: 100%; height: 100%; object-fit: contain; }
.gradio-container #vz-reconstruct-video { max-width: 34rem; }
@media (max-width: 640px) { .gradio-container #vz-reconstruct-image { height: 22rem !important; } }
</style>"""


class Viewer:
    """Sliders, buttons and an image, laid out where this is called; the scene itself stays on the server.

    Attributes:
        download: a place for links.
        outputs: the components that `values` fills.
    """

    def __init__(self) -> None:
        gr.HTML(STYLE)
        self._scene = gr.State(None, time_to_live=3600)
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=280):
                self._image = gr.Image(
                    label="The scene", show_label=False, interactive=False, format="png", height=420,
                    buttons=["fullscreen", "download"], elem_id="vz-reconstruct-image",
                )  # fmt: skip
                self._line = gr.HTML()
            with gr.Column(scale=4, min_width=260):
                self._time = gr.Slider(0, 1, value=0, step=0.01, label="Time", elem_id="vz-reconstruct-time")
                self._from = gr.Radio(
                    [("on an orbit", "orbit"), ("of the video", "recording")], value="orbit", label="Camera",
                    elem_id="vz-reconstruct-camera",
                )  # fmt: skip
                self._place = gr.Slider(
                    0, 1, value=0, step=0.01, label="Place on the orbit", elem_id="vz-reconstruct-place"
                )
                self._number = gr.Slider(
                    0, 1, value=0, step=1, label="View of the video", visible=False, elem_id="vz-reconstruct-number"
                )
                self._show = gr.Radio(
                    ["color", "depth", "opacity"], value="color", label="Show", elem_id="vz-reconstruct-show"
                )
                self._size = gr.Radio(
                    [(str(size), size) for size in SIZES], value=SIZES[1], label="Longer side in pixels",
                    elem_id="vz-reconstruct-size",
                )  # fmt: skip
                self._make_film = gr.Button(f"Make a video of {FILM_S:g} s on the orbit", elem_id="vz-reconstruct-film")
        self.download = gr.HTML(elem_id="vz-reconstruct-download", elem_classes="vz-downloads")
        self._film_status = gr.HTML(elem_id="vz-reconstruct-film-status")
        self._film = gr.Video(
            label="The scene on its orbit", show_label=False, interactive=False, autoplay=True, loop=True, height=420,
            visible=False, elem_id="vz-reconstruct-video",
        )  # fmt: skip
        self._film_link = gr.HTML(elem_id="vz-reconstruct-video-link", elem_classes="vz-downloads")
        self.outputs = [
            self._scene, self._image, self._line, self._time, self._from, self._place, self._number, self._show, self._size,
            self._film_status, self._film, self._film_link,
        ]  # fmt: skip
        self._connect()

    def values(self, scene: Scene) -> list[Any]:
        """What `outputs` are for another scene."""
        recorded = len(scene.facts.cameras)
        return [
            scene, *rendered(scene, Look()),
            gr.Slider(value=0, interactive=not scene.is_static),
            gr.Radio(value="orbit", visible=recorded > 1),
            gr.Slider(value=0, visible=True),
            gr.Slider(0, max(1, recorded - 1), value=0, visible=False),
            "color", SIZES[1], "", gr.Video(value=None, visible=False), "",
        ]  # fmt: skip

    def _connect(self) -> None:
        """Another image whenever a slider moves; while one is rendered, only the latest position waits."""
        look = [self._scene, self._from, self._place, self._number, self._time, self._show, self._size]
        shown = [self._image, self._line]
        latest: dict[str, Any] = {
            **QUIET, "trigger_mode": "always_last", "concurrency_id": "reconstruct-look", "concurrency_limit": 2
        }  # fmt: skip
        for part in (self._time, self._place, self._show, self._size):
            part.input(look_at, look, shown, **latest)
        self._number.input(turn_to, look, [self._time, *shown], **latest)
        self._from.input(come_from, look, [self._place, self._number, *shown], **latest)
        self._make_film.click(
            self._filmed, look, [self._film_status, self._film, self._film_link, self._make_film],
            concurrency_id="reconstruct-film", concurrency_limit=1, **QUIET,
        )  # fmt: skip

    def _filmed(self, scene: Scene | None, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Progress, and at the end the video and its link."""
        ready, hidden = gr.Button(interactive=True), gr.Video(value=None, visible=False)
        if scene is None:
            yield GONE, hidden, "", ready
            return
        work = Work(Path(self._film.GRADIO_CACHE))
        path, told = work.folder() / "orbit.mp4", 0.0
        try:
            for done, of in film(scene, path, _look(*values)):
                work.report("rendering", done, of)
                if (now := time.monotonic()) - told > 0.3:
                    told = now
                    yield work.shown(), hidden, "", gr.Button(interactive=False)
        except VisionZooError as error:
            work.drop()
            yield problem(explain(error)), hidden, "", ready
            return
        yield "", gr.Video(value=str(path), visible=True), saved(path, "Download the video"), ready


def rendered(scene: Scene, look: Look) -> tuple[Pixels, str]:
    """An image of a scene, and a line about it as HTML."""
    started = time.perf_counter()
    pixels = image_of(scene, look)
    seconds = time.perf_counter() - started
    text = f"{pixels.shape[1]} x {pixels.shape[0]} pixels, rendered in {duration(seconds)}."
    return pixels, f'<p class="vz-hint">{plain(text)}</p>'


def look_at(scene: Scene | None, *values: Any) -> tuple[Any, Any]:
    """The image and its line."""
    if scene is None:
        return gr.skip(), GONE
    try:
        return rendered(scene, _look(*values))
    except VisionZooError as error:
        return gr.skip(), problem(explain(error))


def turn_to(scene: Scene | None, come_from: Any, place: float, number: float, *values: Any) -> tuple[Any, ...]:
    """The view of a camera of the video: its time, the image and its line."""
    if scene is None:
        return gr.skip(), gr.skip(), GONE
    moment = scene.cameras[min(int(number), len(scene.cameras) - 1)].time
    return moment, *look_at(scene, come_from, place, number, moment, *values[1:])


def come_from(scene: Scene | None, *values: Any) -> tuple[Any, ...]:
    """The slider that belongs to the choice of cameras, the image and its line."""
    recorded = _look(*values).come_from == "recording"
    return gr.Slider(visible=not recorded), gr.Slider(visible=recorded), *look_at(scene, *values)


def _look(come_from: Any, place: float, number: float, moment: float, show: Any, size: float) -> Look:
    return Look(come_from, float(place), int(number), float(moment), show, int(size))


__all__ = ["GONE", "Viewer", "come_from", "look_at", "rendered", "turn_to"]
