"""The demo page of generated videos: press actions, and see chunks arrive, with and without memory side by side."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from visionzoo.data.toy_world import ACTIONS
from visionzoo.errors import InputError
from visionzoo.io.image import load_image

from ..pipelines.generate.options import GenerateOptions
from ..pipelines.generate.pipeline import SlowFastVGenPipeline
from ..pipelines.generate.samples import SAMPLES, write_samples
from .first_use import FirstUse
from .generate_walk import MEMORY, WITH, WITHOUT, Walk
from .page import Panel, Sample, Work, about, head, saved, summary
from .uploads import IMAGE, upload_box
from .words import duration

TITLE = "Continue a picture"
NOTES = {
    "How it works": "A network that has seen many walks makes the next frames from the last ones and your action. After each chunk, a "
    "small update of its weights learns the chunk: that is the memory of the walk.",
    "Memory": "It is trained by the walk itself, so it remembers its mistakes, too. Saved memories can be taken up again, and mixed.",
    "This network": "It is small, and knows a drawn toy world only, and seven actions. Go somewhere and come back, to see what it "
    "remembers.",
    "Marks": "Every frame carries an invisible mark as synthetic.",
}
GONE = "this walk is no longer kept; press Run again"
LATEST = 2
"""Number of chunks that are shown while one walks."""


def page(*, home: Path, index: Path | None = None, pipe: SlowFastVGenPipeline | None = None) -> None:
    """Lay out the page inside the current `gr.Blocks`.

    Args:
        home: folder of the demo, for the sample images.
        index: belongs to another page.
        pipe: the pipeline that generates; None uses the default model.
    """
    del index
    maker = FirstUse(SlowFastVGenPipeline.create, pipe)
    known = list(ACTIONS) if pipe is None or pipe.actions is None else pipe.actions

    def begin(work: Work, upload: Any, both: bool, steps: int, guidance: float, rate: float) -> tuple[Any, ...]:
        if upload is None:
            raise InputError("pick a sample or upload an image first")
        options = GenerateOptions(steps=int(steps), guidance=guidance, fast_lr=rate * 1e-4)
        work.report("reading", 0, 0)
        walk = Walk.begin(maker(), load_image(upload), options, both)
        text = summary("Ready", "press an action", f"by {walk.pipe.name}")
        return text, walk, *shown(work, walk), gr.Dropdown([]), gr.Dropdown([]), ""

    def act(action: str, work: Work, walk: Walk | None) -> tuple[Any, ...]:
        walk, started = kept(walk), time.perf_counter()
        walk.take(action, work.report)
        text = summary(
            f"{len(walk.actions)}. {action}",
            f"{len(walk.frames[WITH])} frames",
            f"{duration(time.perf_counter() - started)} for this chunk",
            below="Marked as synthetic.",
        )
        return text, *shown(work, walk)

    def save(work: Work, walk: Walk | None, name: str) -> tuple[Any, ...]:
        walk = kept(walk)
        archive = walk.save(name, work.folder())
        lists = [gr.Dropdown(walk.episodes, value=walk.episodes[-1 - place]) for place in (0, len(walk.episodes) - 1)]
        return summary(f"Saved as {walk.episodes[-1]}"), *lists, saved(archive, "Download the memory")

    def add(work: Work, walk: Walk | None, upload: Any) -> tuple[Any, ...]:
        walk = kept(walk)
        if upload is None:
            raise InputError("upload a memory first")
        name = walk.upload(Path(upload), work.folder())
        lists = [gr.Dropdown(walk.episodes, value=walk.episodes[-1 - place]) for place in (0, len(walk.episodes) - 1)]
        return summary(f"The memory {name} can be used"), *lists

    def load(work: Work, walk: Walk | None, name: str | None) -> tuple[Any, ...]:
        del work
        kept(walk).load(name)
        return (summary(f"The walk continues with the memory {name}"),)

    def mix(work: Work, walk: Walk | None, first: str | None, second: str | None, share: float) -> tuple[Any, ...]:
        del work
        kept(walk).mix(first, second, share)
        return (summary(f"The walk continues with {first} and {share:.0%} of {second}"),)

    head(
        "Walk through a picture",
        "Pick an image and press actions: each makes the next frames. A memory learns while you walk.",
        "Every frame of the result is marked invisibly as synthetic.",
    )
    state = gr.State(None, time_to_live=3600)
    with Panel("generate", "Pick a sample or upload an image, then press <b>Run</b>.", 7) as panel:
        with panel.inputs():
            box = panel.upload(IMAGE, "First frame", height=220, words="It is scaled and cropped to a small square.")
            panel.samples(samples(home), [box], "Samples of the toy world", "vz-few")
            both = gr.Checkbox(True, label="Also walk without memory, beside it", elem_id="vz-generate-both")
            steps = gr.Slider(2, 50, value=10, step=1, label="Steps", elem_id="vz-generate-steps")
            guidance = gr.Slider(1, 9, value=2, step=0.5, label="Follow the action", elem_id="vz-generate-guidance")
            rate = gr.Slider(
                0.1, 20, value=1, step=0.1, label="How fast the memory learns, in times of the published rate",
                elem_id="vz-generate-rate",
            )  # fmt: skip
        with panel.results():
            gr.HTML('<p class="vz-hint">Press an action; the last two chunks are shown.</p>')
            with gr.Row(elem_id="vz-generate-actions"):
                buttons = {
                    action: gr.Button(action, min_width=80, elem_id=f"vz-generate-do-{action.replace(' ', '-')}")
                    for action in known
                }
            with gr.Row():
                videos = [_video(WITH), _video(WITHOUT)]
            download = panel.download()
            with gr.Accordion("Memories", open=False, elem_id="vz-generate-memories"):
                with gr.Row():
                    name = gr.Textbox(label="Name", max_length=40, elem_id="vz-generate-name")
                    keep = gr.Button("Save this memory", elem_id="vz-generate-save")
                with gr.Row():
                    file = upload_box(MEMORY, "A memory of an earlier walk", "vz-generate-memory", height=120)
                    take = gr.Button("Use this memory", elem_id="vz-generate-add")
                with gr.Row():
                    first = gr.Dropdown([], label="Memory", elem_id="vz-generate-first")
                    again = gr.Button("Go on with it", elem_id="vz-generate-load")
                with gr.Row():
                    second = gr.Dropdown([], label="Mix with", elem_id="vz-generate-second")
                    share = gr.Slider(0, 1, value=0.5, step=0.05, label="Share of that", elem_id="vz-generate-share")
                    blend = gr.Button("Mix both", elem_id="vz-generate-mix")
                archive = gr.HTML(elem_classes="vz-downloads")
    about([SlowFastVGenPipeline.default_model], NOTES)

    panel.run(begin, [box, both, steps, guidance, rate], [state, *videos, download, first, second, archive], raw=False)
    more: dict[str, Any] = {"raw": False, "keep": True}
    for action, button in buttons.items():
        panel.run(partial(act, action), [state], [*videos, download], instead=[button.click], **more)
    panel.run(save, [state, name], [first, second, archive], instead=[keep.click], **more)
    panel.run(add, [state, file], [first, second], instead=[take.click], **more)
    panel.run(load, [state, first], [], instead=[again.click], **more)
    panel.run(mix, [state, first, second, share], [], instead=[blend.click], **more)


def kept(walk: Walk | None) -> Walk:
    """The walk; raises `InputError` if the server has forgotten it."""
    if walk is None:
        raise InputError(GONE)
    return walk


def shown(work: Work, walk: Walk) -> list[Any]:
    """Values of the two videos and of the downloads."""
    new = walk.videos[WITH].settings.frames_per_chunk
    now, whole = walk.write(work.folder(), LATEST * new), walk.write(work.folder())
    values = [gr.Video(value=str(now[name]) if name in now else None, visible=name in now) for name in (WITH, WITHOUT)]
    links = "".join(saved(path, f"Download the video {name}") for name, path in whole.items())
    return [*values, links]


def samples(home: Path) -> list[Sample]:
    """The sample images, created once in `home`."""
    folder = home / "generate"
    paths = [folder / f"{sample.name}.png" for sample in SAMPLES]
    if not all(path.is_file() for path in paths):
        write_samples(folder, overwrite=True)
    return [
        Sample(path, f"a place of the toy world: {sample.name}", (path,))
        for path, sample in zip(paths, SAMPLES, strict=True)
    ]


def _video(name: str) -> gr.Video:
    return gr.Video(
        label=f"The walk {name}",
        interactive=False,
        autoplay=True,
        loop=True,
        height=330,
        elem_id=f"vz-generate-{name.replace(' ', '-')}",
    )


__all__ = ["TITLE", "page", "samples"]
