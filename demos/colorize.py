"""The demo page of colouring: line art and a reference image become a video in colour, segment by segment."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import gradio as gr

from visionzoo.errors import InputError
from visionzoo.io.video import probe
from visionzoo.jobs import Progress, silent

from ..pipelines.colorize.file_options import ColorizeFileOptions
from ..pipelines.colorize.files import ColorizeJob
from ..pipelines.colorize.options import ColorizeOptions
from ..pipelines.colorize.pipeline import LongAnimationPipeline
from ..pipelines.colorize.samples import SAMPLES, write_samples
from .colorize_course import STYLE, Course
from .first_use import FirstUse
from .page import Panel, Sample, Work, about, head, saved, summary
from .uploads import IMAGE, VIDEO, checked_path, name_of
from .words import duration, file_stem
from .work import RESULTS

TITLE = "Colour line art"
MAX_FRAMES = 1000
"""Largest number of frames of a clip."""
NOTES = {
    "How it works": "A video network makes a segment of frames at a time from the drawings, the reference and the text. Segments "
    "overlap, and late steps blend the frames that two of them share.",
    "Memory": "What has been coloured is watched by a second network. The next segment looks at what that one keeps of all frames and "
    "of the last ones, so that a character who returns after a minute has the same colours.",
    "Cancel": "Finished segments are kept for an hour. Press Run again with the same files and settings to resume after the last of "
    "them.",
    "Marks": "Every frame carries an invisible mark as synthetic.",
}


def colorize_upload(
    pipe: LongAnimationPipeline,
    clip: Any,
    reference: Any,
    options: ColorizeOptions,
    place: Path,
    *,
    preview: bool = False,
    course: Course | None = None,
    report: Progress = silent,
    show: Any = lambda html: None,
) -> tuple[Path, str]:
    """The coloured clip, and what was done as HTML.

    Args:
        clip, reference: uploads.
        place: folder of unfinished work, which is continued if it is there, and of the result.
        preview: colour only the first segment.
        course: the segments are added to it as they arrive.
        report: of the progress.
        show: called with the HTML of the course after each segment.

    Raises:
        InputError: an upload cannot be used.
    """
    path, image = checked_path(clip, VIDEO), checked_path(reference, IMAGE)
    if not preview and (count := probe(path).frames) > MAX_FRAMES:
        raise InputError(f"{path}: has {count:,} frames; this page takes up to {MAX_FRAMES:,}. Cut it first")
    started, course = time.perf_counter(), course or Course()

    def arrived(segment: Any) -> None:
        course.add(segment)
        show(course.html())

    place.mkdir(parents=True, exist_ok=True)
    target = place / f"{file_stem(name_of(clip), 'clip')}_coloured.mp4"
    job = ColorizeJob(pipe, image, options, ColorizeFileOptions(preview=preview), on_segment=arrived)
    result = job.convert(path, target, report)
    target.with_name(f"{target.name}.json").unlink(missing_ok=True)  # it contains paths of this machine
    text = summary(
        f"{result.frames} frames of {result.width} x {result.height} pixels",
        f"in {duration(time.perf_counter() - started)}",
        f"by {pipe.name}",
        below="Marked as synthetic.",
    )
    return target, text


def samples(home: Path) -> list[Sample]:
    """The sample clips with their references, created once in `home`."""
    folder = home / "colorize"
    files = [sample.files(folder) for sample in SAMPLES]
    if not all(path.is_file() for found in files for path in found.values()):
        write_samples(folder, overwrite=True)
    return [
        Sample(
            found["reference"], f"two characters: {sample.name}", (found["lines"], found["reference"], sample.prompt)
        )
        for found, sample in zip(files, SAMPLES, strict=True)
    ]


def page(*, home: Path, index: Path | None = None, pipe: LongAnimationPipeline | None = None) -> None:
    """Lay out the page inside the current `gr.Blocks`.

    Args:
        home: folder of the demo, for the sample clips.
        index: belongs to another page.
        pipe: the pipeline that colours; None uses the default model.
    """
    del index
    painter = FirstUse(LongAnimationPipeline.create, pipe)
    own = LongAnimationPipeline.model_settings() if pipe is None else dict(pipe.config)

    def start(
        work: Work,
        clip: Any,
        reference: Any,
        prompt: str,
        length: str,
        memory: str,
        every: bool,
        steps: int,
        guidance: float,
    ) -> tuple[Any, ...]:
        if clip is None or reference is None:
            raise InputError("pick a sample, or upload a video of line art and a reference image first")
        options = ColorizeOptions(
            prompt=prompt,
            memory=memory,  # pyright: ignore[reportArgumentType]
            drop_remainder=not every,
            steps=int(steps),
            guidance=guidance,
        )
        course, preview = Course(), length == "preview"
        facts = [str(checked_path(clip, VIDEO)), str(checked_path(reference, IMAGE)), preview, options.to_dict()]
        key = hashlib.sha256(repr(facts).encode()).hexdigest()[:20]
        video, text = colorize_upload(
            painter(),
            clip,
            reference,
            options,
            work.home / RESULTS / f"colorize-{key}",
            preview=preview,
            course=course,
            report=work.report,
            show=work.show,
        )
        return text, str(video), course.html(), saved(video, "Download the video")

    head(
        "Colour line art from one image",
        "Upload drawings and a reference in the colours that they should get. Segments arrive one after another, and a memory keeps "
        "the colours.",
        "Every frame of the result is marked invisibly as synthetic.",
    )
    gr.HTML(STYLE)
    with Panel("colorize", "Pick a sample or upload line art and a reference, then press <b>Run</b>.", 6) as panel:
        with panel.inputs():
            box = panel.upload(
                VIDEO, "Line art, or a video in colour", height=200, words=f"At most {MAX_FRAMES:,} frames."
            )
            image = panel.upload(IMAGE, "Reference", "reference", height=200)
            prompt = gr.Textbox(label="What the clip shows", lines=2, elem_id="vz-colorize-prompt")
            panel.samples(samples(home), [box, image, prompt], "Samples of the toy world", "vz-few")
            length = gr.Radio(
                [("the first segment", "preview"), ("the whole clip", "whole")],
                value="preview",
                label="How much",
                elem_id="vz-colorize-length",
            )
            memory = gr.Radio(
                [
                    ("of all and of the last frames", "both"),
                    ("of all", "global"),
                    ("of the last", "local"),
                    ("none", "none"),
                ],
                value=own["memory"],
                label="Memory",
                elem_id="vz-colorize-memory",
            )
            every = gr.Checkbox(True, label="Colour the last frames, too", elem_id="vz-colorize-every")
            steps = gr.Slider(
                1, max(50, own["steps"]), value=own["steps"], step=1, label="Steps", elem_id="vz-colorize-steps"
            )
            guidance = gr.Slider(
                1,
                max(12, own["guidance"]),
                value=own["guidance"],
                step=0.1,
                label="Follow the text",
                elem_id="vz-colorize-guidance",
            )
        with panel.results(live=True):
            result = gr.Video(
                label="The coloured clip",
                interactive=False,
                autoplay=True,
                loop=True,
                height=360,
                elem_id="vz-colorize-video",
            )
            download = panel.download()
            course = gr.HTML(elem_id="vz-colorize-course")
    about([LongAnimationPipeline.default_model], NOTES)

    panel.run(start, [box, image, prompt, length, memory, every, steps, guidance], [result, course, download])


__all__ = ["TITLE", "colorize_upload", "page", "samples"]
