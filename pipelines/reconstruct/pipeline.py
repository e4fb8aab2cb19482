"""Reconstruct a moving scene from images with cameras.

pipe = visionzoo.pipeline("reconstruct")
result = pipe("scene")                        # .scene.image(camera, time), .scores
pipe.run("scene", "scene.vzgs")               # a file to render, view and export

scene = visionzoo.pipelines.reconstruct.Scene.open("scene.vzgs")
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from visionzoo.config import configure
from visionzoo.errors import InputError
from visionzoo.jobs import Progress, silent
from visionzoo.registry import create_model
from visionzoo.task_pipeline import CUSTOM, Opened, TaskPipeline

from ...models.modecgs import MoDecGS, Recipe
from ...models.modecgs.captures.capture import Capture
from ...models.modecgs.captures.reading import read_capture
from ...models.modecgs.compact import read_scene
from .fitting import Fitting
from .options import ReconstructOptions
from .presets import Preset, preset_named, voxel_size_for
from .scene import Scene


@dataclass(frozen=True)
class Reconstruction:
    """A reconstructed scene.

    Attributes:
        scene: for any camera and time.
        scores: PSNR in dB by part, e.g. {"train/psnr": 30.1, "test/psnr": 24.2}.
        history: (iteration, PSNR of its batch in dB) of every iteration.
    """

    scene: Scene
    scores: dict[str, float]
    history: list[tuple[int, float]]


class ReconstructPipeline(TaskPipeline):
    """Reconstructs moving scenes with MoDec-GS (arXiv 2501.03714). Every scene is trained separately, on a copy of the network.

    Args:
        model: a network without anchors, which it then gets from the points of each scene; with anchors, training continues from
            them.
        name: what the model is called: a registered name, or "custom".
        device: where scenes are trained.
        dtype: "float32", in which everything is computed.
        checkpoint: the weights file that was loaded, recorded with results.
        preset: settings of the training: "quick" (minutes on a CPU), "published" (for a GPU), "tiny", or "auto".

    Raises:
        InputError: another precision, or no such preset.
    """

    task = "reconstruct"
    kind = "reconstruction"
    default_model = "modecgs"
    networks = (MoDecGS,)

    def __init__(
        self,
        model: MoDecGS,
        name: str = CUSTOM,
        device: torch.device | str = "auto",
        dtype: torch.dtype | str = "auto",
        checkpoint: str | Path | None = None,
        preset: str = "auto",
    ):
        super().__init__(model, name, device, "float32" if dtype == "auto" else dtype, checkpoint)
        if self.dtype != torch.float32:
            raise InputError(f"scenes are reconstructed in float32, got {str(self.dtype).removeprefix('torch.')}")
        self.preset_name, self.preset = preset_named(preset, self.device)
        self.model = model

    @classmethod
    def untrained_settings(cls, device: torch.device, settings: dict[str, Any]) -> dict[str, Any]:
        """A network without weights has the size that the preset gives it."""
        _, preset = preset_named(settings.get("preset") or "auto", device)
        return dict(preset.config)

    @classmethod
    def open(cls, model: str | nn.Module | None, checkpoint: str | Path | None, overrides: dict[str, Any]) -> Opened:
        if checkpoint is not None and Path(checkpoint).suffix == ".vzgs" and not isinstance(model, nn.Module):
            return _open_scene(Path(checkpoint), overrides)
        if checkpoint is not None or isinstance(model, nn.Module):
            return super().open(model, checkpoint, overrides)
        name = model or cls.default()
        cls.check_name(name)
        return Opened(create_model(name, **overrides), name)

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "preset": self.preset_name}

    def fitting(self, capture: Capture, options: ReconstructOptions | None = None) -> Fitting:
        """A training that is ready to run, on a copy of the network.

        Args:
            capture: the scene, already at the size at which it is trained (see `capture`).

        Raises:
            InputError: points from which no scene can start.
        """
        how = options or ReconstructOptions()
        torch.manual_seed(how.seed)
        network = copy.deepcopy(self.network)
        assert isinstance(network, MoDecGS)
        if not network.anchors.rows:
            network = _network_for(capture, network, self.preset, static=how.static)
        return Fitting(capture, network, self.recipe(how), device=self.device)

    def recipe(self, options: ReconstructOptions) -> Recipe:
        """The schedule of the preset, with the options' seed and number of steps."""
        base = configure(Recipe(), {**self.preset.recipe, "seed": options.seed})
        total = base.steps if options.steps is None else options.steps
        coarse = total if options.static else max(1, round(base.coarse_steps * total / base.steps))
        fine = total - coarse
        decay = base.decay_steps if options.steps is None else max(1, round(base.decay_steps * total / base.steps))
        if options.static:
            decay = total
        return replace(base, coarse_steps=coarse, fine_steps=fine, decay_steps=decay)

    def capture(
        self,
        source: str | Path,
        options: ReconstructOptions | None = None,
        *,
        cameras: str | Path | None = None,
        progress: Progress = silent,
    ) -> Capture:
        """The views of a scene at the size at which it is trained.

        Args:
            source: a folder in one of the layouts of `read_capture`, or a video whose cameras COLMAP then finds.
            cameras: folder for frames and cameras of a video; what it holds already of this video is used again. By default
                `VIDEO.capture` beside the video.
            progress: called while cameras are found.

        Raises:
            InputError: the source cannot be read, or holds no scene that can be reconstructed.
        """
        how, folder = options or ReconstructOptions(), Path(source)
        if folder.is_file():
            from ...models.modecgs.captures.from_video import capture_from_video

            place = folder.with_name(f"{folder.name}.capture") if cameras is None else cameras
            folder = capture_from_video(folder, place, frames=how.frames, masks=how.masks, progress=progress)
            how = replace(how, masks=None)  # they were for finding the cameras
        if how.masks is not None and not how.masks.is_dir():
            raise InputError(f"{how.masks}: no such folder of masks")
        found = read_capture(folder, downscale=how.downscale, masks=how.masks, protocol=how.protocol)
        if how.masks is not None and found.layout not in ("colmap", "video"):
            raise InputError(f"{folder}: scenes in the layout {found.layout} have their own masks; omit --masks")
        side = self.preset.max_side if how.max_side is None else how.max_side
        return found.resized(side) if side else found

    def __call__(
        self,
        source: str | Path | Capture,
        options: ReconstructOptions | None = None,
        *,
        progress: Progress = silent,
        **settings: Any,
    ) -> Reconstruction:
        """Train a scene, in memory; see `run` for files.

        Args:
            source: folder of a scene, a video, or a capture.
            options: see `ReconstructOptions`.
            progress: called with ("training", iteration, number of iterations).
            **settings: fields of the options, e.g. steps=2000.

        Raises:
            InputError: the scene cannot be read or reconstructed, or a setting that does not exist.
        """
        how = configure(options or ReconstructOptions(), settings)
        fitting = self.fitting(
            source if isinstance(source, Capture) else self.capture(source, how, progress=progress), how
        )
        for done in fitting.run():
            progress("training", done.iteration, fitting.recipe.steps)
        scores = fitting.scores()
        scene = Scene.of(fitting.model, fitting.facts(scores=scores), self.device)
        return Reconstruction(scene, scores, fitting.history)

    def run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        path_in: str | Path,
        path_out: str | Path,
        progress: bool = True,
        *,
        overwrite: bool = False,
        options: ReconstructOptions | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Train a scene from a folder and write it to a `.vzgs` file, with a sidecar and an image that compares it with the truth.

        An interrupted training resumes when the same call is made again.

        Args:
            options: see `ReconstructOptions`.
            **settings: fields of the options, e.g. steps=2000.

        Returns:
            What the sidecar says of the result: scores, size, seconds.

        Raises:
            InputError: the scene cannot be read or reconstructed, or the output cannot be written.
        """
        from .files import reconstruct_file

        how = configure(options or ReconstructOptions(), settings)
        return reconstruct_file(self, path_in, path_out, how, progress=progress, overwrite=overwrite)


def _open_scene(path: Path, overrides: dict[str, Any]) -> Opened:
    """The network of a scene file, so that its training can continue."""
    network = read_scene(path).model
    if not isinstance(network, MoDecGS):
        raise InputError(f"{path}: holds a scene of 4DGaussians, which cannot be trained here; use a scene of MoDec-GS")
    if overrides:
        raise InputError(f"{path}: holds a scene with its configuration; omit {', '.join(sorted(overrides))}")
    return Opened(network, CUSTOM, path)


def _network_for(capture: Capture, network: MoDecGS, preset: Preset, *, static: bool) -> MoDecGS:
    """A network of the same kind for a capture: with a suitable voxel size, and without motion if the scene is static."""
    config = network.config
    if preset.most_anchors is not None and not config.voxel_size:
        size = voxel_size_for(capture.points.positions.astype(np.float32), preset.most_anchors)
        config = replace(config, voxel_size=size)
    if static:
        config = replace(config, deform_global=False, deform_local=False)
    return MoDecGS(config)


__all__ = ["ReconstructPipeline", "Reconstruction"]
