"""The demo page of editing: a video changes as a text asks for, beside its control frames and its mask."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from visionzoo.errors import InputError
from visionzoo.io.video import probe, read_frames
from visionzoo.jobs import Progress, silent

from ..pipelines.edit.file_options import EditFileOptions
from ..pipelines.edit.files import EditJob
from ..pipelines.edit.options import EditOptions
from ..pipelines.edit.pipeline import LOVEConPipeline
from ..pipelines.edit.samples import SAMPLES, write_samples
from .first_use import FirstUse
from .page import Panel, Sample, Work, about, head, saved, summary
from .uploads import VIDEO, checked_path, name_of
from .words import duration, file_stem

TITLE = "Edit a video"
MAX_FRAMES = 400
"""Largest number of frames of a video."""
NOTES = {
    "How it works": "The source is turned into noise step by step and back, while the text asks for another. Windows of 8 frames "
    "look at each other, and outside of the mask the source is put back.",
    "Mask": "It covers what the words that you replace refer to: describe the video first, then change a word or two.",
    "This network": "It is small, and knows a drawn toy world only: girls, boys, women and men with coloured hair, shirts, trousers, "
    "skirts, shoes, hats and bags, in rooms, parks, streets, beaches, forests and harbours.",
    "Marks": "Every frame carries an invisible mark as synthetic.",
}


def edit_upload(
    pipe: LOVEConPipeline,
    upload: Any,
    options: EditOptions,
    folder: Path,
    *,
    preview: bool = False,
    report: Progress = silent,
) -> tuple[dict[str, Path | None], str]:
    """The edited video of an upload with its control frames and its mask, and what was done as HTML.

    Args:
        options: how to edit.
        folder: where the files are written.
        preview: edit only the first window.
        report: of the progress.

    Returns:
        "result", "control" and "mask" -> the videos; no mask is None.

    Raises:
        InputError: the upload cannot be used, or the texts cannot.
    """
    path = checked_path(upload, VIDEO)
    if not preview and (count := probe(path).frames) > MAX_FRAMES:
        raise InputError(f"{path}: has {count:,} frames; this page takes up to {MAX_FRAMES:,}. Cut it first")
    started = time.perf_counter()
    stem = file_stem(name_of(upload), "video")
    places = {name: folder / f"{stem}_{name}.mp4" for name in ("result", "control", "mask")}
    files = EditFileOptions(preview=preview, save_control=places["control"], save_mask=places["mask"])
    result = EditJob(pipe, options, files).convert(path, places["result"], report)
    for place in places.values():
        place.with_name(f"{place.name}.json").unlink(missing_ok=True)  # it contains paths of this machine
    seconds = time.perf_counter() - started
    text = summary(
        f"{result.frames} frames of {result.width} x {result.height} pixels",
        f"in {duration(seconds)} ({duration(seconds / max(result.frames, 1))} per frame)",
        f"by {pipe.name}",
        below="Marked as synthetic.",
    )
    return {name: place if place.is_file() else None for name, place in places.items()}, text


def samples(home: Path) -> list[Sample]:
    """The sample videos, created once in `home`, each with its first frame and its texts."""
    folder = home / "edit"
    paths = [folder / f"{sample.name}.mp4" for sample in SAMPLES]
    if not all(path.is_file() for path in paths):
        write_samples(folder, overwrite=True)
    found = []
    for path, sample in zip(paths, SAMPLES, strict=True):
        image = path.with_suffix(".png")
        if not image.is_file():
            Image.fromarray(next(read_frames(path)).pixels).save(image)
        found.append(Sample(image, f"the {sample.name}: a {sample.new}", (path, sample.source_prompt, sample.prompt)))
    return found


def page(*, home: Path, index: Path | None = None, pipe: LOVEConPipeline | None = None) -> None:
    """Lay out the page inside the current `gr.Blocks`.

    Args:
        home: folder of the demo, for the sample videos.
        index: belongs to another page.
        pipe: the pipeline that edits; None uses the default model.
    """
    del index
    editor = FirstUse(LOVEConPipeline.create, pipe)

    def start(
        work: Work, upload: Any, source_prompt: str, prompt: str, kind: str, length: str, steps: int, guidance: float
    ) -> tuple[Any, ...]:
        if upload is None:
            raise InputError("pick a sample or upload a video first")
        if not source_prompt.strip() or not prompt.strip():
            raise InputError("describe the video and the result: both texts are needed")
        options = EditOptions(
            prompt,
            source_prompt,
            edit=kind,  # pyright: ignore[reportArgumentType]
            memory="bank",
            steps=int(steps),
            guidance=guidance,
        )
        found, text = edit_upload(
            editor(), upload, options, work.folder(), preview=length == "preview", report=work.report
        )
        shown = [str(path) if path else None for path in (found["result"], found["control"], found["mask"])]
        return text, *shown, saved(work.folder() / Path(shown[0]).name, "Download the video")  # pyright: ignore[reportArgumentType]

    head(
        "Change a video with words",
        "Describe the video, then change a word or two: the colour of a shirt, the place, the style. The motion stays.",
        "Every frame of the result is marked invisibly as synthetic.",
    )
    with Panel("edit", "Pick a sample or upload a video, then press <b>Run</b>.", 6) as panel:
        with panel.inputs():
            box = panel.upload(VIDEO, "Video", height=220, words=f"At most {MAX_FRAMES:,} frames.")
            before = gr.Textbox(label="What the video shows", lines=2, elem_id="vz-edit-source")
            after = gr.Textbox(label="What the result should show", lines=2, elem_id="vz-edit-prompt")
            panel.samples(samples(home), [box, before, after], "Samples, each with texts", "vz-few")
            kind = gr.Radio(
                [("a thing", "attribute"), ("everything", "style")],
                value="attribute",
                label="What changes",
                elem_id="vz-edit-kind",
            )
            length = gr.Radio(
                [("the first 8 frames", "preview"), ("the whole video", "whole")],
                value="preview",
                label="How much",
                elem_id="vz-edit-length",
            )
            steps = gr.Slider(5, 50, value=15, step=5, label="Steps", elem_id="vz-edit-steps")
            guidance = gr.Slider(1, 12, value=3, step=0.5, label="Follow the text", elem_id="vz-edit-guidance")
        with panel.results():
            result = gr.Video(
                label="The edited video",
                interactive=False,
                autoplay=True,
                loop=True,
                height=360,
                elem_id="vz-edit-video",
            )
            with gr.Row():
                control = gr.Video(
                    label="Edges that are kept",
                    interactive=False,
                    autoplay=True,
                    loop=True,
                    height=220,
                    elem_id="vz-edit-control",
                )
                mask = gr.Video(
                    label="What may change",
                    interactive=False,
                    autoplay=True,
                    loop=True,
                    height=220,
                    elem_id="vz-edit-mask",
                )
            download = panel.download()
    about([LOVEConPipeline.default_model], NOTES)

    panel.run(start, [box, before, after, kind, length, steps, guidance], [result, control, mask, download])


__all__ = ["TITLE", "edit_upload", "page", "samples"]
