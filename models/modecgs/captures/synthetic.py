"""A synthetic monocular scene with exact truth: rigid blobs of coloured Gaussians that swing and turn in front of a wall.

Everything is known in closed form: images, transparency, depth, the path of every Gaussian, optical flow, and which pixels of a test
view the training camera has seen. The training camera takes one image per time, so the video is truly monocular; the test camera
moves on another path at the same times.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from visionzoo.splatting import render

from .capture import Camera, Points
from .writing import CapturedImage, write_nerfies

_COVISIBLE_LEAST = 5
"""A pixel counts as seen by the training camera if at least this many training images, and a tenth of them, show its point."""


@dataclass(frozen=True)
class SyntheticConfig:
    """Sizes of the scene.

    Attributes:
        blobs: number of rigid moving objects.
        per_blob: number of Gaussians in each object.
        wall: number of Gaussians in the static wall.
        frames: number of times, and of images per camera.
        size: height and width of the images in pixels.
        focal: focal length in pixels for an image of 64 pixels; it grows with `size`.
        seed: random seed for positions and colours.
    """

    blobs: int = 3
    per_blob: int = 60
    wall: int = 250
    frames: int = 24
    size: int = 64
    focal: float = 70.0
    seed: int = 0

    @property
    def count(self) -> int:
        return self.blobs * self.per_blob + self.wall

    @property
    def times(self) -> np.ndarray:
        """(frames,) evenly in [0, 1]."""
        return np.linspace(0, 1, self.frames)


@dataclass(frozen=True)
class Truth:
    """What one camera sees at one time.

    Attributes:
        image: (H, W, 3) uint8.
        depth: (H, W) float32, mean depth; 0 where nothing is seen.
        flow: (H, W, 2) float32, motion in pixels to the same camera path's next time; zeros for the last.
        seen: (H, W) bool, whether the training camera has seen what is shown (True everywhere for training views).
    """

    image: np.ndarray
    depth: np.ndarray
    flow: np.ndarray
    seen: np.ndarray


class SyntheticScene:
    """The scene. Gaussians are numbered blob by blob, and then come those of the wall."""

    def __init__(self, config: SyntheticConfig | None = None):
        self.config = config = config or SyntheticConfig()
        draw = np.random.default_rng(config.seed)
        self.centres = np.stack(
            [
                np.linspace(-0.9, 0.9, config.blobs),
                draw.uniform(-0.35, 0.35, config.blobs),
                draw.uniform(-0.4, 0.4, config.blobs),
            ],
            1,
        )
        self.amplitudes = draw.uniform(0.15, 0.35, (config.blobs, 3)) * np.array([0.6, 1.0, 1.0])
        self.speeds = 1 + 0.5 * np.arange(config.blobs)
        directions = draw.standard_normal((config.blobs, config.per_blob, 3))
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        self.shape = (
            directions * draw.uniform(0.6, 1.0, (config.blobs, config.per_blob, 1)) * np.array([0.34, 0.24, 0.24])
        )
        hues = draw.permutation(np.linspace(0, 1, config.blobs, endpoint=False))
        blob_colours = np.stack(
            [_colour(hue, directions[i] @ np.array([0.4, -0.8, -0.45])) for i, hue in enumerate(hues)]
        )
        side = int(np.ceil(np.sqrt(config.wall)))
        grid = np.stack(np.meshgrid(*[np.linspace(-3.3, 3.3, side)] * 2), -1).reshape(-1, 2)[: config.wall]
        self.wall = np.column_stack([grid + draw.normal(0, 0.04, grid.shape), np.full(config.wall, 1.3)])
        wave = np.sin(2.4 * grid[:, :1] + np.array([0.0, 2.1, 4.2])) * np.cos(
            1.9 * grid[:, 1:] + np.array([0.5, 1.5, 2.5])
        )
        wall_colours = np.clip(0.55 + 0.25 * wave + draw.normal(0, 0.05, wave.shape), 0.05, 0.95)
        self.colours = np.concatenate([blob_colours.reshape(-1, 3), wall_colours])
        spacing = 6.6 / max(side - 1, 1)
        radius = 0.34 * (60 / config.per_blob) ** 0.5 * 0.3
        self.scales = np.concatenate(
            [
                draw.uniform(0.7, 1.2, (config.blobs * config.per_blob, 3)) * radius,
                np.tile([0.62 * spacing, 0.62 * spacing, 0.01], (config.wall, 1)),
            ]
        )
        self.opacities = np.concatenate([np.full(config.blobs * config.per_blob, 0.9), np.full(config.wall, 0.95)])

    def means(self, time: float) -> np.ndarray:
        """(count, 3): where the Gaussians are."""
        moved = self.centres + self.amplitudes * np.sin(2 * np.pi * self.speeds * time)[:, None]
        blobs = np.einsum("bij,bnj->bni", self._turns(time), self.shape) + moved[:, None]
        return np.concatenate([blobs.reshape(-1, 3), self.wall])

    def quaternions(self, time: float) -> np.ndarray:
        """(count, 4), w first: how the Gaussians are turned."""
        half = 0.5 * np.pi * self.speeds * time
        turned = np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], axis=1)
        blobs = np.repeat(turned, self.config.per_blob, axis=0)
        return np.concatenate([blobs, np.tile([1.0, 0, 0, 0], (self.config.wall, 1))])

    def _turns(self, time: float) -> np.ndarray:
        angle = np.pi * self.speeds * time
        matrices = np.tile(np.eye(3), (len(angle), 1, 1))
        matrices[:, 0, 0] = matrices[:, 1, 1] = np.cos(angle)
        matrices[:, 1, 0] = np.sin(angle)
        matrices[:, 0, 1] = -matrices[:, 1, 0]
        return matrices

    def camera(self, time: float, *, test: bool = False) -> Camera:
        """The training camera, which moves on a closed arc, or the test camera, which moves on another one."""
        phase = 2 * np.pi * time
        if test:
            yaw, pitch = 0.22 * np.cos(phase), -0.1 * np.sin(phase + 0.7)
        else:
            yaw, pitch = 0.35 * np.sin(phase), 0.12 * np.cos(phase)
        distance, config = 3.4, self.config
        back = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), -np.cos(yaw) * np.cos(pitch)])
        forward = -back
        right = np.cross([0, 1.0, 0], forward)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward])
        motion = np.eye(4)
        motion[:3, :3], motion[:3, 3] = rotation, -rotation @ (distance * back)
        focal, middle = config.focal * config.size / 64, config.size / 2
        return Camera(motion, np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]]), config.size, config.size)

    def truth(self, number: int, *, test: bool = False) -> Truth:
        """What the camera sees at the time `number`."""
        times = self.config.times
        time = float(times[number])
        camera = self.camera(time, test=test)
        motion = np.zeros((self.config.count, 2))
        if number + 1 < len(times):
            after = self.camera(times[number + 1], test=test).project(self.means(times[number + 1]))[0]
            motion = after - camera.project(self.means(time))[0]
        colours, alpha, depth = self._render(self.colours, camera, time)
        # other values are drawn as if they were colours: the weights of the Gaussians in a pixel are the same
        flow, _, _ = self._render(np.column_stack([motion, np.zeros(len(motion))]), camera, time)
        seen = self._render(np.repeat(self.covisible[:, None], 3, 1), camera, time)[0][..., 0] if test else alpha
        image = colours + (1 - alpha[..., None])
        covered = np.maximum(alpha, 1e-6)
        return Truth(
            image=np.rint(image.clip(0, 1) * 255).astype(np.uint8),
            depth=np.where(alpha > 0.5, depth / covered, 0),
            flow=flow[..., :2] / covered[..., None],
            seen=seen > 0.5 * alpha if test else np.ones(alpha.shape, bool),
        )

    @cached_property
    def covisible(self) -> np.ndarray:
        """(count,) of 0 and 1: Gaussians that enough images of the training camera show in front."""
        times, counts = self.config.times, np.zeros(self.config.count)
        for time in times:
            camera = self.camera(time)
            _, alpha, depth = self._render(self.colours, camera, time)
            surface = depth / np.maximum(alpha, 1e-6)
            pixels, depths = camera.project(self.means(time))
            column, row = np.floor(pixels).astype(int).T
            inside = (column >= 0) & (row >= 0) & (column < camera.width) & (row < camera.height) & (depths > 0)
            behind = depths[inside] - surface[row[inside], column[inside]]
            counts[inside] += behind < 0.25
        return (counts >= max(_COVISIBLE_LEAST, len(times) / 10)).astype(float)

    def points(self, *, times: int = 4, noise: float = 0.01) -> Points:
        """What a reconstruction starts from: the Gaussians' centres at a few times, with noise in world units."""
        draw = np.random.default_rng(self.config.seed + 1)
        numbers = np.linspace(0, self.config.frames - 1, times).round().astype(int)
        positions = np.concatenate([self.means(float(self.config.times[number])) for number in numbers])
        return Points(positions + draw.normal(0, noise, positions.shape), np.tile(self.colours, (times, 1)))

    def _render(self, values: np.ndarray, camera: Camera, time: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`values` (count, 3) drawn like colours, alpha, and accumulated depth."""

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, np.float32))

        drawn = render(
            tensor(self.means(time)),
            tensor(self.quaternions(time)),
            tensor(self.scales),
            tensor(self.opacities),
            tensor(values),
            tensor(camera.world_to_camera)[None],
            tensor(camera.intrinsics)[None],
            camera.width,
            camera.height,
        )
        return (
            drawn.colors[0].numpy(),
            drawn.alphas[0].numpy().reshape(camera.height, -1),
            drawn.depths[0].numpy().reshape(camera.height, -1),
        )


def _colour(hue: float, shade: np.ndarray) -> np.ndarray:
    """(N, 3): one hue, lighter and darker by `shade` in [-1, 1]."""
    base = 0.5 + 0.5 * np.cos(2 * np.pi * (hue + np.array([0, 1 / 3, 2 / 3])))
    return np.clip(base * (0.75 + 0.45 * shade[:, None]) + 0.08, 0.02, 0.98)


def synthetic_capture(folder: Path, config: SyntheticConfig) -> Path:
    """The scene in DyCheck's layout, in a folder below `folder` that is named after the configuration. It is written
    once, also if several processes ask for it at the same time."""
    name = "_".join(f"{key}{value:g}" for key, value in asdict(config).items())
    target = folder / name
    if not target.is_dir():
        scene = SyntheticScene(config)
        train, test = ([_captured(scene, n, test=test) for n in range(config.frames)] for test in (False, True))
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as temporary:
            written = Path(temporary, name)
            write_nerfies(written, train, test, scene.points(), dycheck=True)
            try:
                written.rename(target)
            except OSError:
                if not target.is_dir():  # otherwise another process was faster and has written the same
                    raise
    return target


def _captured(scene: SyntheticScene, number: int, *, test: bool) -> CapturedImage:
    truth, time = scene.truth(number, test=test), float(scene.config.times[number])
    name = f"{int(test)}_{number:05d}"
    return CapturedImage(name, truth.image, scene.camera(time, test=test), time, truth.seen if test else None)
