"""The demo page of reconstruction: visitors watch the training of a moving scene, or upload one, and look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from visionzoo.errors import InputError

from ..pipelines.reconstruct.scene import Scene
from .page import QUIET, Panel, Sample, Work, about, head, saved, summary
from .reconstruct_course import STYLE
from .reconstruct_look import SCENE, gaussians_in, open_scene
from .reconstruct_train import SUBJECTS, Trained, train
from .reconstruct_viewer import Viewer
from .uploads import checked_path, name_of
from .words import duration

TITLE = "Reconstruct a scene"
UPLOADED = "upload"
STEPS, MOST_STEPS = 750, 1500
NOTES = {
    "The video": "One camera moves, and each of its images is from another time. Where the camera was is known for each image.",
    "Training": "Each scene is trained separately from random weights. First it stays at rest and gets its shape; then it starts to "
    "move, and the PSNR drops for a moment. This page uses small networks and images of 64 pixels, which a CPU can train in minutes.",
    "Views": "On the orbit, the camera circles among those of the video, or goes all around a scene that was filmed from all sides. "
    "Sides that were never filmed look wrong.",
    "Depth": "Near is bright; black is where nothing is.",
}


def opened(upload: Any) -> tuple[Scene, str]:
    """The scene of an upload, and what it is as HTML. Raises `InputError` if it cannot be used."""
    scene = open_scene(checked_path(upload, SCENE))
    cameras = len(scene.facts.cameras)
    return scene, summary(
        name_of(upload),
        f"up to {gaussians_in(scene):,} Gaussians",
        "at rest" if scene.is_static else "moving",
        f"with {cameras} cameras of its video" if cameras else "without cameras",
        below=_scores(scene.facts.scores),
    )


def described(trained: Trained) -> str:
    """What a training did, as HTML."""
    stopped = trained.iterations < trained.planned
    return summary(
        f"{'Stopped after' if stopped else 'Trained for'} {trained.iterations:,} {'of ' * stopped}"
        f"{f'{trained.planned:,} ' * stopped}iterations",
        f"in {duration(trained.seconds)}",
        f"up to {gaussians_in(trained.scene):,} Gaussians",
        below=_scores(trained.scores) + (" The scene does not move yet." if trained.scene.is_static else ""),
    )


def _scores(scores: Any) -> str:
    names = {"train/psnr": "on the views of the video", "test/psnr": "on views that the training did not see"}
    found = [f"{scores[key]:.1f} dB {name}" for key, name in names.items() if key in scores]
    return f"PSNR: {', '.join(found)}." if found else ""


def page(*, home: Path, index: Path | None = None) -> None:
    """Lay out the page inside the current `gr.Blocks`.

    Args:
        home: folder of the demo, for the scenes to train.
        index: belongs to another page.
    """
    del index

    def start(work: Work, name: str | None, upload: Any, steps: float) -> tuple[Any, ...]:
        if name in (UPLOADED, None) and upload is not None:
            work.report("opening the scene", 0, 0)
            scene, text = opened(upload)
            course = link = ""
        elif name in SUBJECTS:
            trained = train(work, str(name), min(max(int(steps), 2), MOST_STEPS), home)
            scene, text, course = trained.scene, described(trained), trained.course
            link = saved(trained.path, "Download the scene")
        else:
            raise InputError("pick a scene to train, or upload a scene file first")
        return text, *viewer.values(scene), link, course

    head(
        "Reconstruct a moving scene",
        "From a video whose camera positions are known, a small network learns a 3D scene that moves: it can be seen from any "
        "place at any time.",
    )
    gr.HTML(STYLE)
    with Panel(
        "reconstruct",
        "Pick a scene and press <b>Run</b> to watch its training, which takes minutes. Stop keeps the scene so far.",
        cancel="Stop",
    ) as panel:
        with panel.inputs():
            choices = [(subject.label, name) for name, subject in SUBJECTS.items()]
            which = gr.Radio(
                [*choices, ("the uploaded file", UPLOADED)], value=None, label="Scene", elem_id="vz-reconstruct-scene",
                render=False,
            )  # fmt: skip
            panel.samples(
                [Sample(subject.image(home), subject.label, (name,)) for name, subject in SUBJECTS.items()],
                [which], "Scenes to train", "vz-few",
            )  # fmt: skip
            box = panel.upload(SCENE, "Scene file", height=140)
            which.render()
            steps = gr.Slider(
                100, MOST_STEPS, value=STEPS, step=50, label="Iterations of a training", elem_id="vz-reconstruct-steps"
            )
        with panel.results(live=True):
            viewer = Viewer()
            course = gr.HTML(elem_id="vz-reconstruct-course")
    about(["modecgs"], NOTES)

    panel.run(start, [which, box, steps], [*viewer.outputs, viewer.download, course], at_once=8)
    # in the browser, before Run can be pressed
    box.component.upload(None, None, which, js=f"() => '{UPLOADED}'", **QUIET)


__all__ = ["TITLE", "described", "opened", "page"]
