"""Training of a scene for a visitor: what can be trained, and the training itself, which can be watched and stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from visionzoo.errors import writing
from visionzoo.io.files import atomic_path, bundled

from ..models.modecgs.captures.synthetic import SyntheticConfig, SyntheticScene, synthetic_capture
from ..models.modecgs.compact import write_scene
from ..pipelines.reconstruct.options import ReconstructOptions
from ..pipelines.reconstruct.pipeline import ReconstructPipeline
from ..pipelines.reconstruct.scene import Scene
from .reconstruct_course import Course
from .work import Cancelled, Work

EVERY_S = 1.5
"""Seconds between two updates of what is shown, ..."""
MOST_SHARE = 0.1
"""... or more, so that at most this share of the time is spent on them."""
SETTINGS = SyntheticConfig()


@dataclass(frozen=True)
class Subject:
    """A scene that visitors can train.

    Attributes:
        label: what it shows.
        folder: the demo's folder -> the folder of images with cameras, made if it does not exist.
        image: the demo's folder -> an image of it, made if it does not exist.
        preset: of `ReconstructPipeline`.
        max_side: see `ReconstructOptions`.
    """

    label: str
    folder: Callable[[Path], Path]
    image: Callable[[Path], Path]
    preset: str
    max_side: int


def _blobs(home: Path) -> Path:
    with writing(home):
        return synthetic_capture(home / "reconstruct", SETTINGS)


def _blobs_image(home: Path) -> Path:
    path = home / "reconstruct" / "blobs.png"
    with writing(path):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = SyntheticScene(SyntheticConfig(size=256)).truth(SETTINGS.frames // 4).image
            with atomic_path(path) as temporary:
                Image.fromarray(pixels).save(temporary, "PNG")
    return path


SUBJECTS = {
    "fox": Subject(
        "a running fox", lambda home: bundled("fox"), lambda home: bundled("fox", "train", "r_010.png"), "quick", 64
    ),
    "blobs": Subject("swinging blobs in front of a wall", _blobs, _blobs_image, "tiny", 64),
}


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        scene: can be looked at.
        path: the scene as a `.vzgs` file.
        course: HTML of its course.
        scores: PSNR in dB by part, see `Fitting.scores`.
        iterations: number of iterations, out of `planned`.
        planned: number of iterations of the whole training.
        seconds: how long it took.
    """

    scene: Scene
    path: Path
    course: str
    scores: dict[str, float]
    iterations: int
    planned: int
    seconds: float


_turn = threading.Lock()


@contextmanager
def one_at_a_time(work: Work) -> Iterator[None]:
    """Wait until nobody else's training runs. Raises `Cancelled` if the visitor stops waiting."""
    while not _turn.acquire(timeout=0.2):
        work.report("waiting for the training of another visitor", 0, 0)
    try:
        yield
    finally:
        _turn.release()


def train(work: Work, name: str, steps: int, home: Path) -> Trained:
    """Train a scene until it is done or the visitor presses Stop, which leaves the scene so far.

    Args:
        work: shows progress and the course; the file is written to its folder.
        name: one of `SUBJECTS`.
        steps: number of iterations.
        home: the demo's folder.

    Raises:
        Cancelled: before the first iteration was done.
        VisionZooError: the training does not converge.
    """
    subject = SUBJECTS[name]
    with one_at_a_time(work):
        work.report("reading the scene", 0, 0)
        pipe = ReconstructPipeline.create(preset=subject.preset)
        options = ReconstructOptions(steps=steps, max_side=subject.max_side)
        fitting = pipe.fitting(pipe.capture(subject.folder(home), options), options)
        course = Course(fitting, subject.label)
        started = time.monotonic()
        due = 0.0
        try:
            work.report("training", 0, steps)
            for done in fitting.run():
                if (now := time.monotonic()) > due:
                    work.show(course.html())
                    due = time.monotonic() + max(EVERY_S, (time.monotonic() - now) / MOST_SHARE)
                work.report("training", done.iteration, steps)
        except Cancelled:
            if not fitting.iteration:
                raise
        seconds = time.monotonic() - started
        scores = fitting.scores()
        facts = fitting.facts(scores=scores, training={"preset": subject.preset, "steps": steps})
        path = work.folder() / f"{name}.vzgs"
        model = fitting.network()
        write_scene(model, path, facts=facts.to_dict())
        return Trained(
            Scene.of(model, facts, pipe.device), path, course.html(), scores, fitting.iteration, steps, seconds
        )


__all__ = ["SUBJECTS", "Subject", "Trained", "one_at_a_time", "train"]
