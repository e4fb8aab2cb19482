"""The demo page of frame interpolation: a video with more frames, at the same speed or in slow motion."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.io.video import probe, read_frames
from visionzoo.jobs import Progress, silent

from ..pipelines.interpolate.files import InterpolateJob
from ..pipelines.interpolate.pipeline import InterpolatePipeline
from ..pipelines.interpolate.samples import write_samples
from .about import weights_missing
from .first_use import FirstUse
from .page import Panel, Sample, Work, about, head, saved, summary
from .uploads import VIDEO, checked_path, name_of
from .words import duration, file_stem, problem

TITLE = "Add frames"
MAX_PIXELS = 600_000_000
"""Largest number of pixels of all frames of the result: five minutes of 320 x 240 at 25 frames per second."""
NOTES = {
    "How it works": "The network estimates where each point of the frame halfway between two frames lies in both, and how much of "
    "each is visible. For more than twice as many frames, it halves again.",
    "Cuts": "Where the scene changes, the last frame before the cut is repeated instead.",
    "Sample videos": "A cartoon character of the toy world, and a view that moves over a photo: temple (danielbuechele), CC BY 2.0, "
    "altered.",
}


def add_frames(
    pipe: InterpolatePipeline, upload: Any, factor: int, slow: bool, folder: Path, report: Progress = silent
) -> tuple[Path, str]:
    """The video with new frames, and what was done as HTML.

    Args:
        slow: keep the frame rate, so that the video is in slow motion.

    Raises:
        InputError: the upload cannot be used.
    """
    path = checked_path(upload, VIDEO)
    info = probe(path)
    if info.frames * info.width * info.height * factor > MAX_PIXELS:
        raise InputError(
            f"{path}: {info.frames:,} frames of {info.width} x {info.height} pixels, {factor} times as many, are too much for this "
            "page. Cut or shrink the video first"
        )
    started = time.perf_counter()
    target = folder / f"{file_stem(name_of(upload), 'video')}_{factor}x.mp4"
    job = InterpolateJob(pipe, factor, float(info.fps) if slow else None)
    result = job.convert(path, target, report)
    target.with_name(f"{target.name}.json").unlink(missing_ok=True)  # it contains paths of this machine
    seconds = time.perf_counter() - started
    text = summary(
        f"{result.frames} frames instead of {info.frames}",
        f"{result.width} x {result.height} pixels",
        f"in {duration(seconds)} ({duration(seconds / max(result.frames - info.frames, 1))} per new frame)",
        f"by {pipe.name}",
    )
    return target, text


def samples(home: Path) -> list[Sample]:
    """The sample videos, created once in `home`, each with its first frame."""
    folder = home / "interpolate"
    paths = [folder / "walk.mp4", folder / "temple.mp4"]
    if not all(path.is_file() for path in paths):
        paths = write_samples(folder, overwrite=True)
    found = []
    for path, label in zip(paths, ("a character who walks", "a view of a temple"), strict=True):
        image = path.with_suffix(".png")
        if not image.is_file():
            Image.fromarray(next(read_frames(path)).pixels).save(image)
        found.append(Sample(image, label, (path,)))
    return found


def page(*, home: Path, index: Path | None = None, pipe: InterpolatePipeline | None = None) -> None:
    """Lay out the page inside the current `gr.Blocks`.

    Args:
        home: folder of the demo, for the sample videos.
        index: belongs to another page.
        pipe: the pipeline that makes the frames; None uses the default network.
    """
    del index
    interpolator = FirstUse(InterpolatePipeline.create, pipe)
    missing = None if pipe is not None else weights_missing(InterpolatePipeline.default_model)

    def start(work: Work, upload: Any, factor: int, speed: str) -> tuple[Any, ...]:
        if upload is None:
            raise InputError("pick a sample or upload a video first")
        video, text = add_frames(interpolator(), upload, int(factor), speed == "slow", work.folder(), work.report)
        return text, str(video), saved(video, "Download the video")

    head(
        "Add frames to a video",
        "A network makes the frames between the frames, for smoother motion or slow motion.",
        "Fast movements and thin moving things leave ghosts.",
    )
    if missing is not None:
        gr.HTML(problem(f"frames cannot be added yet: {missing}"), elem_id="vz-interpolate-missing")
    with Panel("interpolate", "Pick a sample or upload a video, then press <b>Run</b>.", 6) as panel:
        with panel.inputs():
            box = panel.upload(VIDEO, "Video", height=260)
            panel.samples(samples(home), [box], "Samples, with 6 frames a second", "vz-few")
            factor = gr.Radio(
                [("2 times", 2), ("4 times", 4), ("8 times", 8)],
                value=4,
                label="As many frames",
                elem_id="vz-interpolate-factor",
            )
            speed = gr.Radio(
                [("unchanged, with sound", "same"), ("slow motion", "slow")],
                value="same",
                label="Speed",
                elem_id="vz-interpolate-speed",
            )
        with panel.results():
            result = gr.Video(
                label="The video with new frames",
                show_label=False,
                interactive=False,
                autoplay=True,
                height=420,
                elem_id="vz-interpolate-video",
            )
            download = panel.download()
    about([InterpolatePipeline.default_model], NOTES)

    panel.run(start, [box, factor, speed], [result, download])


__all__ = ["TITLE", "add_frames", "page", "samples"]
