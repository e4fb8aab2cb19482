"""Fits a scene to a capture step by step, so that a command, a page and a viewer can watch, pause, resume and save it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from visionzoo.config import as_dict
from visionzoo.errors import InputError
from visionzoo.io.files import atomic_path
from visionzoo.metrics.restoration import psnr
from visionzoo.weights.reading import read_checkpoint

from ...models.modecgs import Fit, Frame, MoDecGS, Recipe, batches
from ...models.modecgs.captures.capture import Capture, View
from ...models.modecgs.data import Frames
from ...models.modecgs.facts import SceneFacts, facts_of
from ...models.modecgs.optimize import Progress
from .scene import Pixels, Scene

Part = Literal["train", "test"]

MOST_MEASURED = 24
"""At most this many views of each part are measured, evenly chosen."""


class Fitting:
    """A scene that is being fitted to a capture.

        fitting = Fitting(read_capture("scene"), model, recipe)
        for progress in fitting.run():
            print(progress.iteration, progress.psnr)
        fitting.scene().image(camera, time=0.5)

    Args:
        capture: the views.
        model: is trained in place; without anchors, it gets those of the capture's points.
        recipe: the schedule.
        device: where it is trained.

    Raises:
        InputError: fewer training views than frames in a batch.
    """

    def __init__(self, capture: Capture, model: MoDecGS, recipe: Recipe, *, device: torch.device | str = "cpu"):
        if len(capture.train) < recipe.batch_size:
            recipe = replace(recipe, batch_size=len(capture.train))
        self.capture, self.recipe, self.device = capture, recipe, torch.device(device)
        if not model.anchors.rows:
            model.initialize(capture.points.positions.astype(np.float32))
        self.model = model.to(self.device).train()
        self.frames = {"train": Frames(capture.train), "test": Frames(capture.test)}
        self.fit = Fit(self.model, recipe, capture.extent)
        self.history: list[tuple[int, float]] = []
        """(iteration, PSNR of its batch) of every iteration."""

    @property
    def iteration(self) -> int:
        """Number of iterations so far, over both stages."""
        return self.fit.iteration

    @property
    def at_rest(self) -> bool:
        """Whether nothing moves yet, in the coarse stage."""
        return self.iteration <= self.recipe.coarse_steps

    def run(self) -> Iterator[Progress]:
        """The remaining iterations, one by one.

        Raises:
            VisionZooError: the training does not converge (see `Fit.step`).
        """
        self.model.train()
        for numbers in batches(len(self.capture.train), self.recipe, self.iteration):
            done = self.fit.step([self.frames["train"].frame(number).to(self.device) for number in numbers])
            self.history.append((done.iteration, done.psnr))
            yield done
            self.model.train()  # a preview may have been rendered

    def facts(self, **more: Any) -> SceneFacts:
        """What a scene file says about the current scene; `more` are further fields of `SceneFacts`."""
        return facts_of(self.capture, white_background=self.recipe.white_background, rules=self.recipe.rules, **more)

    def scene(self) -> Scene:
        """The scene in its current state; it shares the model, so it changes while the training continues."""
        scene = Scene.of(self.model, self.facts(), self.device)
        scene.is_static = scene.is_static or self.at_rest
        return scene

    def network(self) -> MoDecGS:
        """The model to save; while nothing moves yet, it has no fields, since they are untrained."""
        if not self.at_rest:
            return self.model
        still = MoDecGS(replace(self.model.config, deform_global=False, deform_local=False))
        state = {key: value for key, value in self.model.state_dict().items() if key in still.state_dict()}
        still.resize_for(state)
        still.load_state_dict(state)
        return still.to(self.device)

    def image(self, view: View, scene: Scene | None = None) -> Pixels:
        """(H, W, 3) uint8: what the model shows of a view."""
        return (scene or self.scene()).image(view.camera, view.time)

    def scores(self) -> dict[str, float]:
        """Mean PSNR in dB of the training views, and of the test views if there are any; images have 8 bits, as in files."""
        scene = self.scene()
        found: dict[str, float] = {}
        for part, frames in self.frames.items():
            chosen = evenly(range(len(frames)), MOST_MEASURED)
            values = [_psnr(self.image(frames.views[number], scene), frames.frame(number)) for number in chosen]
            if values:
                found[f"{part}/psnr"] = round(float(np.mean(values)), 3)
        return found

    # Saving the state of the training

    def key(self) -> str:
        """A digest of everything that the training depends on: views, points, model and schedule."""
        views = [[view.name, view.time, view.camera.world_to_camera.tolist()] for view in self.capture.train]
        sizes = [[view.camera.width, view.camera.height] for view in self.capture.train]
        about = json.dumps([views, sizes, as_dict(self.model.config), as_dict(self.recipe)], default=str)
        return hashlib.sha256(about.encode() + self.capture.points.positions.tobytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the state of the training, from which it resumes bit for bit."""
        state = {
            "key": self.key(),
            "model": self.model.state_dict(),
            "optimizer": self.fit.optimizer.state_dict(),
            "fit": self.fit.state_dict(),
            "history": torch.tensor(self.history, dtype=torch.float64).reshape(-1, 2),
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> bool:
        """Resume from a saved state; returns False if it is of another capture, model or schedule.

        Raises:
            InputError: the file is damaged, or was not written by `save`.
        """
        state = read_checkpoint(path)
        if not isinstance(state, Mapping) or not {"key", "model", "optimizer", "fit", "history"} <= state.keys():
            raise InputError(f"{path}: exists and was not made by this command; move it or choose another output")
        if state["key"] != self.key():
            return False
        self.model.resize_for(state["model"])
        self.model.load_state_dict(state["model"])
        self.model.to(self.device)
        self.fit = Fit(self.model, self.recipe, self.capture.extent)
        self.fit.optimizer.load_state_dict(state["optimizer"])
        self.fit.load_state_dict(state["fit"])
        self.history = [(int(step), value) for step, value in state["history"].tolist()]
        return True


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the items, evenly chosen, with the first and the last."""
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in places]


def comparison(fitting: Fitting, columns: int = 4) -> Pixels:
    """An image for the eye: views of the capture above, and what the model shows of them below; test views where there are any."""
    views = evenly(fitting.capture.test or fitting.capture.train, columns)
    scene = fitting.scene()
    height = max(view.camera.height for view in views)
    rows: tuple[list[Pixels], list[Pixels]] = ([], [])
    for view in views:
        for row, pixels in zip(rows, (view.pixels(), fitting.image(view, scene)), strict=True):
            row.append(_framed(pixels, height))
    return np.vstack([np.hstack(row) for row in rows])


def _framed(pixels: Pixels, height: int) -> Pixels:
    """With a white margin, so that images do not run into each other."""
    below = height - pixels.shape[0]
    return np.pad(pixels, ((2, 2 + below), (2, 2), (0, 0)), constant_values=255)


def _psnr(pixels: NDArray[np.uint8], frame: Frame) -> float:
    shown = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    return psnr(shown, frame.image)


__all__ = ["MOST_MEASURED", "Fitting", "comparison", "evenly"]
