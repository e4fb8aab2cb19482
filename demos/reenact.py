"""The demo page of reenactment: a face image moves like a face in a video or in front of the webcam."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from visionzoo.errors import InputError, VisionZooError
from visionzoo.io.files import bundled
from visionzoo.io.image import load_image
from visionzoo.io.video import probe
from visionzoo.jobs import Progress, silent
from visionzoo.registry import model_card, weight_source
from visionzoo.watermark import add_watermark
from visionzoo.weights import locate

from ..pipelines.reenact.files import ReenactJob
from ..pipelines.reenact.options import ReenactOptions
from ..pipelines.reenact.pipeline import SMALL_MODEL, Live, ReenactPipeline
from .first_use import FirstUse
from .page import QUIET, Panel, Sample, Work, about, head, saved, summary
from .uploads import IMAGE, VIDEO, checked_path, name_of, names_of, upload_box
from .words import duration, explain, file_stem, plain, problem

TITLE = "Animate a face"
MAX_FRAMES = 1500
"""Largest number of frames of a driving video: a minute at 25 frames per second."""
NOTES = {
    "Good input": "Faces from the front, upright, with space around the head, in both the image and the video, and a video that "
    "begins in a pose similar to the image's.",
    "Motion": "Relative motion keeps the shape and place of the face; absolute motion takes those of the driving video.",
    "Marks": "Every frame carries an invisible mark as synthetic.",
    "Motion template": "The keypoints of the driving video as a file. It drives faces in the Python interface without the video.",
}
LIVE = (
    '<p class="vz-hint">Upload an image, then start the camera. The pose of the first frame is taken to be the image\'s; '
    "<b>Start from this pose</b> takes the current one.</p>"
)
_STYLE = "<style>.gradio-container #vz-reenact-live img { width: 100%; height: 100%; object-fit: contain; }</style>"


class Animator(FirstUse[ReenactPipeline]):
    """The pipeline, created on first use: with the published network if its weights are available, else with the small one.

    Args:
        pipe: a pipeline to use instead.
    """

    def __init__(self, pipe: ReenactPipeline | None = None):
        super().__init__(lambda: ReenactPipeline.create(self.model), pipe)
        path = locate(weight_source(ReenactPipeline.default_model))
        here = pipe is not None or (path is not None and path.is_file())
        self.model = ReenactPipeline.default_model if here else SMALL_MODEL

    def notice(self) -> str:
        """A note about the limits of the small network, as HTML; empty with another network."""
        if self.model != SMALL_MODEL:
            return ""
        code = plain(model_card(ReenactPipeline.default_model).code)
        return (
            " This server has only the small network, which was trained on rendered heads: other faces follow roughly. "
            f'The <a href="{code}" rel="noreferrer" target="_blank">published network</a> takes any face.'
        )


def face_of(upload: Any) -> np.ndarray:
    """(H, W, 3) uint8 of an uploaded image. Raises `InputError` if there is none or it cannot be used."""
    if upload is None:
        raise InputError("upload an image of a face first")
    return load_image(checked_path(upload, IMAGE))


def animate(
    pipe: ReenactPipeline, source: Any, driving: Any, folder: Path, options: ReenactOptions, report: Progress = silent
) -> tuple[Path, Path, str]:
    """The video of an uploaded face, the driver's motion template, and what was done as HTML.

    Raises:
        InputError: an upload is missing or cannot be used.
    """
    image = face_of(source)
    if driving is None:
        raise InputError("upload a driving video first: a video of a person who talks")
    path = checked_path(driving, VIDEO)
    if (count := probe(path).frames) > MAX_FRAMES:
        raise InputError(f"{path}: has {count:,} frames; this page takes up to {MAX_FRAMES:,}. Cut it first")
    started = time.perf_counter()
    target = folder / f"{file_stem(name_of(source), 'face')}_animated.mp4"
    template = folder / "motion.safetensors"
    result = ReenactJob(pipe, path, options, save_motion=template).convert(image, target, report)
    target.with_name(f"{target.name}.json").unlink(missing_ok=True)  # it contains paths of this machine
    seconds = time.perf_counter() - started
    text = summary(
        f"{result.frames} frames of {result.width} x {result.height} pixels",
        f"in {duration(seconds)} ({duration(seconds / max(result.frames, 1))} per frame)",
        f"by {pipe.name}",
        below="Marked as synthetic.",
    )
    return target, template, text


def page(*, home: Path, index: Path | None = None, pipe: ReenactPipeline | None = None) -> None:
    """Lay out the page inside the current `gr.Blocks`.

    Args:
        home, index: belong to other pages.
        pipe: the pipeline that animates; None uses the default network.
    """
    del home, index
    animator = Animator(pipe)

    def start(work: Work, source: Any, driving: Any, mode: str, view: str, smooth: float) -> tuple[Any, ...]:
        options = ReenactOptions(mode=mode, view=view, smooth=smooth)  # pyright: ignore[reportArgumentType]
        video, motion, text = animate(animator(), source, driving, work.folder(), options, work.report)
        return text, str(video), saved(video, "Download the video") + saved(motion, "Download the motion template")

    def live_frame(frame: np.ndarray | None, source: str | None, live: Live | None) -> tuple[Any, Live | None, Any]:
        if frame is None:
            return gr.skip(), live, gr.skip()
        try:
            if live is None:
                live = animator().live(face_of(source))
            return add_watermark(live(frame)), live, LIVE
        except VisionZooError as error:
            return gr.skip(), None, problem(explain(error, names_of(source))) + LIVE

    def calibrate(live: Live | None) -> Live | None:
        if live is not None:
            live.reset()
        return live

    head(
        "Make a face move like the one in a video",
        "One image is enough. Every frame of the result is marked invisibly as synthetic.",
        "<b>Use it only with people who agreed to it</b>, and if you show the result, say that it is synthetic."
        + animator.notice(),
    )
    gr.HTML(_STYLE)
    with gr.Tabs():
        empty = "Pick a sample, or upload an image of a face and a video of a person who talks. Then press <b>Run</b>."
        with gr.Tab("From a video"), Panel("reenact", empty, 6) as panel:
            with panel.inputs():
                with gr.Row(equal_height=False):
                    source = panel.upload(IMAGE, "Image of a face", "source", height=200)
                    driving = panel.upload(
                        VIDEO, "Driving video", "driving", height=200, words=f"At most {MAX_FRAMES:,} frames."
                    )
                people = [("woman", "woman"), ("man", "man"), ("woman", "man")]
                panel.samples(
                    [
                        Sample(
                            bundled("talking", f"{face}.jpg"),
                            f"the {face}, moved like the {video}",
                            (bundled("talking", f"{face}.jpg"), bundled("talking", f"{video}.mp4")),
                        )
                        for face, video in people
                    ],
                    [source, driving],
                    "Samples, each with a video",
                    "vz-few",
                )
                mode = gr.Radio(["relative", "absolute"], value="relative", label="Motion", elem_id="vz-reenact-mode")
                view = gr.Radio(
                    [("the face", "face"), ("the whole image", "whole"), ("side by side", "side-by-side")],
                    value="face",
                    label="Show",
                    elem_id="vz-reenact-view",
                )
                smooth = gr.Slider(0, 0.9, value=0, step=0.1, label="Smooth the motion", elem_id="vz-reenact-smooth")
            with panel.results():
                result = gr.Video(
                    label="The animated face",
                    show_label=False,
                    interactive=False,
                    autoplay=True,
                    height=420,
                    elem_id="vz-reenact-video",
                )
                files = panel.download()
        with gr.Tab("From the webcam"), gr.Row(elem_classes="vz-columns", equal_height=False):
            with gr.Column(scale=4, min_width=300, elem_classes="vz-inputs"):
                live_source = upload_box(IMAGE, "Image of a face", "vz-reenact-live-source")
                camera = gr.Image(
                    sources=["webcam"],
                    streaming=True,
                    type="numpy",
                    label="Webcam",
                    height=280,
                    elem_id="vz-reenact-camera",
                )
                again = gr.Button("Start from this pose", elem_id="vz-reenact-calibrate")
            with gr.Column(scale=7, min_width=300, elem_classes="vz-results"):
                live_text = gr.HTML(LIVE)
                shown = gr.Image(
                    label="The animated face", interactive=False, height=420, elem_id="vz-reenact-live", format="jpeg"
                )
    about([animator.model], NOTES)

    state = gr.State(None, time_to_live=3600)
    panel.run(start, [source, driving, mode, view, smooth], [result, files])
    live_source.component.change(lambda: None, None, state, **QUIET)
    camera.stream(
        live_frame,
        [camera, live_source.component, state],
        [shown, state, live_text],
        stream_every=0.1,
        time_limit=600,
        api_visibility="private",
        concurrency_id="reenact",
        concurrency_limit=1,
    )
    again.click(calibrate, state, state, **QUIET)


__all__ = ["TITLE", "Animator", "animate", "page"]
