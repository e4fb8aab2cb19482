"""A reconstructed scene to look at: files that hold one, and images of it for any camera and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visionzoo.devices import pick_device
from visionzoo.errors import InputError

from ...models.modecgs import FourDGaussians, Gaussians, MoDecGS, draw, read_splats
from ...models.modecgs.captures.capture import Camera
from ...models.modecgs.compact import read_scene
from ...models.modecgs.facts import SceneFacts, TimedCamera
from ...models.modecgs.published import read_published
from ...models.modecgs.splats.files import FORMATS as SPLAT_FORMATS

Pixels = NDArray[np.uint8]
Show = Literal["color", "depth", "opacity"]
"""What an image shows: colours, depth (near is bright), or how opaque the scene is."""

DEFAULT_SIZE = 512
"""Side in pixels of images of a scene whose cameras are not known."""


class SceneModel(Protocol):
    """A camera centre (3,) and a time in [0, 1] (None: at rest) -> Gaussians."""

    def __call__(self, center: Tensor, time: float | None, /) -> Gaussians: ...


class Scene:
    """A scene for any camera and time.

        scene = Scene.open("scene.vzgs")
        pixels = scene.image(scene.cameras[0].camera, time=0.5)

    Args:
        model: on `device`; a network should be in eval mode.
        facts: cameras and background.
        is_static: whether all times look the same.
    """

    def __init__(
        self, model: SceneModel, facts: SceneFacts, *, device: torch.device | str = "cpu", is_static: bool = False
    ):
        self.model, self.facts, self.device, self.is_static = model, facts, torch.device(device), is_static
        self.cameras: tuple[TimedCamera, ...] = facts.cameras or (TimedCamera(self._default_camera(), 0.0),)

    @classmethod
    def of(cls, model: MoDecGS | FourDGaussians, facts: SceneFacts, device: torch.device | str = "auto") -> Scene:
        """A trained network; it is moved to the device and put into eval mode."""
        place = pick_device(device)
        is_static = isinstance(model, MoDecGS) and model.global_deformation is None and model.local_deformation is None
        return cls(model.to(place).eval(), facts, device=place, is_static=is_static)

    @classmethod
    def of_gaussians(cls, gaussians: Gaussians, device: torch.device | str = "auto") -> Scene:
        """Static Gaussians, whose cameras are not known."""
        place = pick_device(device)
        moved = replace(
            gaussians,
            **{
                name: getattr(gaussians, name).to(place) for name in ("means", "quats", "scales", "opacities", "colors")
            },
        )
        return cls(lambda center, time: moved, SceneFacts(), device=place, is_static=True)

    @classmethod
    def open(cls, path: str | Path, device: torch.device | str = "auto", *, most_numbers: int | None = None) -> Scene:
        """A scene from a `.vzgs` file, from an output folder of MoDec-GS, Scaffold-GS or 4DGaussians, or from a file of Gaussians.

        Args:
            most_numbers: see `read_scene`.

        Raises:
            InputError: no such file, another kind of file, or a damaged one.
            MissingDependencyError: the package that reads a format of Gaussians is not installed.
        """
        path = Path(path)
        if path.is_dir():
            return cls.of(read_published(path), SceneFacts(), device)
        if path.name.lower().endswith(SPLAT_FORMATS):
            return cls.of_gaussians(read_splats(path), device)
        stored = read_scene(path, most_numbers=most_numbers)
        try:
            facts = SceneFacts.from_dict(stored.facts)
        except ValueError as error:
            raise InputError(f"{path}: is a damaged scene ({error}); copy or export it again") from error
        return cls.of(stored.model, facts, device)

    @torch.inference_mode()
    def gaussians(self, center: Sequence[float] | NDArray[np.floating], time: float) -> Gaussians:
        """The Gaussians for a camera at `center` (3,); `time` in [0, 1]."""
        place = torch.as_tensor(np.asarray(center, np.float32), device=self.device)
        return self.model(place, None if self.is_static else float(time))

    def image(self, camera: Camera, time: float, show: Show = "color") -> Pixels:
        """(H, W, 3) uint8: what the camera sees at `time`, which is in [0, 1]."""
        return self.draw(self.gaussians(camera.centre, time), camera, show)

    @torch.inference_mode()
    def draw(self, gaussians: Gaussians, camera: Camera, show: Show = "color") -> Pixels:
        """(H, W, 3) uint8: what the camera sees of some Gaussians."""
        drawn = draw(
            gaussians,
            torch.as_tensor(camera.world_to_camera.astype(np.float32), device=self.device),
            torch.as_tensor(camera.intrinsics.astype(np.float32), device=self.device),
            camera.width,
            camera.height,
            white=self.facts.white_background,
            rules="gsplat" if self.device.type == "cuda" else self.facts.rules,
        )
        if show == "color":
            values = drawn.colors[0]
        elif show == "opacity":
            values = drawn.alphas[0].expand(-1, -1, 3)
        else:
            values = _depth_image(drawn.depths[0, ..., 0], drawn.alphas[0, ..., 0])
        return (values.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()

    @property
    def focus(self) -> NDArray[np.floating]:
        """(3,): the point that the cameras look at, which is closest to all of their optical axes."""
        return focus_of([each.camera for each in self.cameras], self._depth)

    @property
    def up(self) -> NDArray[np.floating]:
        """(3,), of length 1: upwards, as the cameras were held."""
        mean = -np.mean([each.camera.world_to_camera[1, :3] for each in self.cameras], axis=0)
        length = float(np.linalg.norm(mean))
        return mean / length if length > 1e-6 else np.array([0.0, 0.0, 1.0])

    @property
    def _depth(self) -> float:
        """How far in front of its cameras the scene is, if their axes do not meet."""
        if self.facts.cameras and (self.facts.low is None or self.facts.high is None):
            return 1.0
        middle = np.mean(self._box, axis=0)
        centres = np.stack([each.camera.centre for each in self.cameras])
        return max(float(np.linalg.norm(centres.mean(0) - middle)), 1e-3)

    def _default_camera(self) -> Camera:
        """A camera in front of the box around the scene."""
        low, high = self._box
        middle, size = (low + high) / 2, max(float(np.linalg.norm(high - low)), 1e-3)
        motion = np.eye(4)
        motion[:3, 3] = -(middle - np.array([0, 0, 1.2 * size]))
        side = DEFAULT_SIZE
        return Camera(motion, np.array([[side, 0, side / 2], [0, side, side / 2], [0, 0, 1.0]]), side, side)

    @cached_property
    def _box(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        if self.facts.low is not None and self.facts.high is not None:
            return np.array(self.facts.low), np.array(self.facts.high)
        means = self.gaussians((0.0, 0.0, 0.0), 0.0).means.cpu().numpy()
        if not len(means):
            return -np.ones(3), np.ones(3)
        low, high = np.percentile(means, [2, 98], axis=0)  # some Gaussians are far away
        return low, high


def focus_of(cameras: Sequence[Camera], depth: float) -> NDArray[np.floating]:
    """(3,): the point closest to all optical axes (least squares); if they are parallel, `depth` in front of the mean camera."""
    axes = np.stack([camera.world_to_camera[2, :3] for camera in cameras])
    centres = np.stack([camera.centre for camera in cameras])
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    total = across.sum(0)
    ahead = centres.mean(0) + depth * _unit(axes.mean(0))
    if np.linalg.eigvalsh(total)[0] < 1e-3 * len(cameras):
        return ahead
    point = np.linalg.solve(total, np.einsum("nij,nj->i", across, centres))
    in_front = np.einsum("nj,nj->n", point - centres, axes) > 0
    return point if in_front.mean() > 0.5 else ahead


def _unit(vector: NDArray[np.floating]) -> NDArray[np.floating]:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def _depth_image(depths: Tensor, alphas: Tensor) -> Tensor:
    """Accumulated depth and opacity (H, W) -> (H, W, 3) in [0, 1]: inverse depth, scaled to the image; black where nothing is."""
    covered = alphas > 0.5
    nearness = torch.where(covered, alphas / depths.clamp_min(1e-9), torch.zeros_like(depths))
    if not bool(covered.any()):
        return nearness.unsqueeze(-1).expand(-1, -1, 3)
    low, high = (torch.quantile(nearness[covered].float(), q) for q in (0.02, 0.98))
    scaled = 0.1 + 0.9 * ((nearness - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
    return torch.where(covered, scaled, torch.zeros_like(scaled)).unsqueeze(-1).expand(-1, -1, 3)


__all__ = ["DEFAULT_SIZE", "Pixels", "Scene", "SceneModel", "Show", "focus_of"]
