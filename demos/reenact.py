"""The demo page of reenactment: a face picture moves like a video, or like the one before the webcam."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from visionzoo.errors import InputError, VisionZooError, writing
from visionzoo.io.extensions import ANIMATIONS, VIDEOS
from visionzoo.io.files import bundled
from visionzoo.io.image import ImageError, load_image
from visionzoo.io.video import probe
from visionzoo.jobs import silent
from visionzoo.registry import model_card, weight_source
from visionzoo.watermark import add_watermark
from visionzoo.weights import locate

from ..pipelines.reenact.files import ReenactJob
from ..pipelines.reenact.options import ReenactOptions
from ..pipelines.reenact.pipeline import SMALL_MODEL, Live, ReenactPipeline
from .uploads import path_of, refuse_addresses, without_path
from .words import duration, plain, prose, show_problem

TITLE = "Animate a face"
MAX_FRAMES = 1500
"""Of a driving video: a minute at 25 frames a second. The command takes any number."""
EMPTY = (
    '<div class="vz-empty">Click a sample, or upload an image of a face and a video of a '
    "person who talks. Then press Animate.</div>"
)
EMPTY_LIVE = (
    '<div class="vz-hint">The image of the first tab is animated. The pose of the first frame '
    "is taken to be the image's.</div>"
)
INTRO = (
    '<div class="vz-head"><h1>Make a face move like the one in a video</h1>'
    "<p>One image is enough. <strong>Use it only with people who agreed to it</strong>: every frame gets an invisible mark as "
    "synthetic, and if you show the result, say that it is synthetic.</p></div>"
)
NOTE = """<div class="vz-note">
<p><strong>Good input.</strong> Faces from the front, upright, with space around the head, in both the image
and the video, and a video that begins
in a pose similar to the image's.</p>
<p><strong>Relative</strong> motion keeps the shape and place of the face; absolute motion takes those of the
driving video. <strong>Method:</strong>
MCNet, <a href="https://arxiv.org/abs/2307.09906" rel="noreferrer" target="_blank">Implicit Identity Representation Conditioned
Memory Compensation Network for Talking Head Video Generation</a>, ICCV 2023.</p>
<p><strong>Uploads</strong> and results are deleted after an hour. Nothing is sent to other hosts.</p>
</div>"""

_STYLE = """<style>
.gradio-container {
#vz-reenact-source, #vz-reenact-driving { border: 1px solid var(--border-color-primary); }
.vz-reenact-small { border-left: 3px solid var(--color-accent); padding-left: 10px; }
#vz-reenact-samples thead { display: none; }
#vz-reenact-samples td { padding: 4px 8px; }
#vz-reenact-live img { width: 100%; height: 100%; object-fit: contain; }
}
</style>"""


class Animator:
    """The pipeline, made when it is first asked for: with the published network if its weights are here, else with the small one.

    Args:
        pipe: use this one instead.
    """

    def __init__(self, pipe: ReenactPipeline | None = None):
        self._pipe = pipe
        self._lock = threading.Lock()
        path = locate(weight_source(ReenactPipeline.default_model))
        here = pipe is not None or (path is not None and path.is_file())
        self.model = ReenactPipeline.default_model if here else SMALL_MODEL

    def notice(self) -> str | None:
        """What a visitor must know of the small network, or None."""
        if self.model != SMALL_MODEL:
            return None
        source = weight_source(ReenactPipeline.default_model)
        return (
            "This page uses the small network, which was trained only on the two people of the samples. For other faces, put "
            f"{source.file} into the folder `weights` of visionzoo's cache (`visionzoo doctor` prints its path) and restart the demo; "
            f"the file is linked at {model_card(ReenactPipeline.default_model).code}"
        )

    def __call__(self) -> ReenactPipeline:
        """Raises `VisionZooError` if the weights are not available."""
        with self._lock:
            if self._pipe is None:
                self._pipe = ReenactPipeline.create(self.model)
            return self._pipe


def about(model: str) -> str:
    """The network and its limits in a few lines of HTML."""
    card = model_card(model)
    return (
        f'<p class="vz-hint"><strong>{plain(card.name)}</strong>, {card.params / 1e6:.0f} M parameters. {prose(card.summary)} '
        f"{prose(card.limits)}</p>"
    )


def face_of(upload: dict[str, Any] | None) -> np.ndarray:
    """(H, W, 3) uint8 of an uploaded picture. Raises `InputError`, without a path, if it cannot be used."""
    if upload is None:
        raise InputError("upload an image of a face first")
    path = path_of(upload)
    try:
        return load_image(path)
    except ImageError as error:
        raise ImageError(without_path(str(error), str(path))) from error


def animate(
    pipe: ReenactPipeline,
    upload: dict[str, Any] | None,
    driving: str | None,
    folder: Path,
    *,
    mode: str,
    view: str,
    smooth: float,
    progress: Any = None,
) -> tuple[Path, Path, str]:
    """The video of an uploaded face, the driver's motion template, and what was done as HTML.

    Raises:
        InputError: an upload is missing or cannot be used; the message names no path.
    """
    picture = face_of(upload)
    if not driving:
        raise InputError("upload a video of a person who talks first")
    try:
        count = probe(driving).frames
        if count > MAX_FRAMES and Path(driving).suffix != ".safetensors":
            raise InputError(
                f"the video has {count} frames; this page accepts up to {MAX_FRAMES}; the command accepts any number"
            )
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            place = Path(tempfile.mkdtemp(dir=folder))
        started = time.perf_counter()
        options = ReenactOptions(mode=mode, view=view, smooth=smooth)  # pyright: ignore[reportArgumentType]
        job = ReenactJob(pipe, driving, options, save_motion=place / "motion.safetensors")
        target = place / "animated.mp4"
        result = job.convert(picture, target, progress or silent)
    except InputError as error:
        raise InputError(without_path(str(error), driving)) from error
    seconds = time.perf_counter() - started
    text = (
        f'<div class="vz-done"><strong>{result.frames} frames</strong> <span>of {result.width} x {result.height} pixels in '
        f"{duration(seconds)} ({duration(seconds / max(result.frames, 1))} per frame) by {plain(pipe.name)}</span>"
        "<p>Marked as synthetic.</p></div>"
    )
    return target, place / "motion.safetensors", text


# The page


def page(*, home: Path, index: Path | None = None, pipe: ReenactPipeline | None = None) -> None:
    """Lay out the page inside the current `gr.Blocks`.

    Args:
        home, index: belong to other pages.
        pipe: what animates; the default network if None.
    """
    del home, index
    animator = Animator(pipe)

    def start(
        source: dict[str, Any] | None,
        driving: Any,
        mode: str,
        view: str,
        smooth: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        path = driving["path"] if isinstance(driving, dict) else driving
        try:
            video, motion, text = animate(
                animator(),
                source,
                path,
                Path(result.GRADIO_CACHE),
                mode=mode,
                view=view,
                smooth=smooth,
                progress=lambda what, done, of: progress((done, of), desc=what, unit="frames"),
            )
        except VisionZooError as error:
            return show_problem(str(error), EMPTY), gr.Video(None, visible=False), gr.DownloadButton(visible=False)
        shown = gr.Video(video, visible=True, autoplay=True)
        return text, shown, gr.DownloadButton("Download the motion template", value=motion, visible=True)

    def live_frame(
        frame: np.ndarray | None, source: dict[str, Any] | None, live: Live | None
    ) -> tuple[Any, Live | None, Any]:
        if frame is None:
            return gr.skip(), live, gr.skip()
        try:
            if live is None:
                live = animator().live(face_of(source))
            return add_watermark(live(frame)), live, EMPTY_LIVE
        except VisionZooError as error:
            return gr.skip(), None, show_problem(str(error))

    def calibrate(live: Live | None) -> Live | None:
        if live is not None:
            live.reset()
        return live

    gr.HTML(_STYLE + INTRO)
    if (notice := animator.notice()) is not None:
        gr.HTML(f'<p class="vz-hint vz-reenact-small">{prose(notice)}</p>', elem_id="vz-reenact-notice")
    gr.HTML(about(animator.model))
    state = gr.State(None, time_to_live=3600)
    with gr.Row(elem_classes="vz-columns", equal_height=False):
        with gr.Column(scale=3, min_width=300, elem_classes="vz-query"):
            source = gr.Image(
                label="Image of a face",
                type="filepath",
                sources=["upload", "clipboard"],
                height=270,
                buttons=["fullscreen"],
                elem_id="vz-reenact-source",
            )
            samples = gr.Column(elem_id="vz-reenact-samples")
        with gr.Column(scale=8, min_width=300), gr.Tabs():
            with gr.Tab("Video"), gr.Row(equal_height=False):
                with gr.Column(scale=4, min_width=260):
                    driving = gr.File(
                        label="Driving video",
                        file_types=sorted(VIDEOS | ANIMATIONS),
                        type="filepath",
                        height=150,
                        elem_id="vz-reenact-driving",
                    )
                    mode = gr.Radio(
                        ["relative", "absolute"], value="relative", label="Motion", elem_id="vz-reenact-mode"
                    )
                    view = gr.Radio(
                        [("the face", "face"), ("the whole image", "whole"), ("side by side", "side-by-side")],
                        value="face",
                        label="Show",
                        elem_id="vz-reenact-view",
                    )
                    smooth = gr.Slider(
                        0, 0.9, value=0, step=0.1, label="Smooth the motion", elem_id="vz-reenact-smooth"
                    )
                    button = gr.Button("Animate", variant="primary", size="lg", elem_id="vz-reenact-start")
                with gr.Column(scale=6, min_width=300):
                    reading = gr.HTML(EMPTY, elem_id="vz-reenact-reading")
                    result = gr.Video(
                        show_label=False, interactive=False, visible=False, elem_id="vz-reenact-result", height=420
                    )
                    template = gr.DownloadButton(
                        "Download the motion template", visible=False, elem_id="vz-reenact-motion"
                    )
            with gr.Tab("Webcam"), gr.Row(equal_height=False):
                with gr.Column(min_width=260):
                    camera = gr.Image(
                        sources=["webcam"],
                        streaming=True,
                        type="numpy",
                        label="Webcam",
                        height=320,
                        elem_id="vz-reenact-camera",
                    )
                    again = gr.Button("Start from this pose", elem_id="vz-reenact-calibrate")
                with gr.Column(min_width=260):
                    shown = gr.Image(
                        show_label=False, interactive=False, height=320, elem_id="vz-reenact-live", format="jpeg"
                    )
                    live_text = gr.HTML(EMPTY_LIVE)
    with samples:
        pairs = [("woman.jpg", "woman.mp4"), ("man.jpg", "man.mp4"), ("woman.jpg", "man.mp4")]
        gr.Examples(
            [[str(bundled("talking", name)) for name in pair] for pair in pairs],
            [source, driving],
            label="Samples",
            api_visibility="private",
        )
    gr.HTML(NOTE)

    refuse_addresses(source, "image")
    refuse_addresses(driving, "video")
    run: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "reenact", "concurrency_limit": 1}
    button.click(
        lambda: (EMPTY, gr.Video(None, visible=False), gr.DownloadButton(visible=False)),
        None,
        [reading, result, template],
        api_visibility="private",
        show_progress="hidden",
    ).then(
        start,
        [source, driving, mode, view, smooth],
        [reading, result, template],
        preprocess=False,
        show_progress_on=reading,
        **run,
    )
    source.change(lambda: None, None, state, api_visibility="private", show_progress="hidden")
    camera.stream(
        _with_source(live_frame),
        [camera, source, state],
        [shown, state, live_text],
        stream_every=0.1,
        time_limit=600,
        **run,
    )
    again.click(calibrate, state, state, api_visibility="private", show_progress="hidden")


def _with_source(function: Any) -> Any:
    """The streamed picture arrives decoded, the source as its path."""

    def call(frame: np.ndarray | None, source: str | None, live: Live | None) -> Any:
        return function(frame, None if source is None else {"path": source, "orig_name": Path(source).name}, live)

    return call


__all__ = ["TITLE", "Animator", "animate", "page"]
