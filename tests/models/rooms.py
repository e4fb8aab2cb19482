"""A rendered room of photos with a box that moves through it: a video whose cameras are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from visionzoo.io.files import bundled
from visionzoo.io.image import load_image
from visionzoo.io.video import VideoWriter
from visionzoo.models.modecgs.captures.capture import Camera

WIDTH, HEIGHT, FOCAL = 320, 240, 300.0
_SAMPLES = 2


def _quad(corner: Sequence[float], across: Sequence[float], down: Sequence[float]) -> np.ndarray:
    """(4, 3) corners of a rectangle: upper left, upper right, lower left, lower right."""
    start, one, two = (np.array(part, float) for part in (corner, across, down))
    return np.stack([start, start + one, start + two, start + one + two])


_WALLS = (
    ("coffee_1.jpg", _quad((-3, -2.2, 2.5), (6, 0, 0), (0, 3.4, 0))),
    ("gravel_1.jpg", _quad((-3, 1.2, 2.5), (6, 0, 0), (0, 0, -4))),
    ("brick_1.jpg", _quad((-3, -2.2, -1.5), (0, 0, 4), (0, 3.4, 0))),
    ("rocket_3.jpg", _quad((3, -2.2, 2.5), (0, 0, -4), (0, 3.4, 0))),
    ("cat_1.jpg", _quad((-1.6, 0.1, 1.4), (0.9, 0, 0.3), (0, 1.1, 0))),
    ("coins_1.jpg", _quad((0.9, 0.3, 1.2), (0.9, 0, -0.3), (0, 0.9, 0))),
)
_BOX = "astronaut_1.jpg"


def camera(time: float, *, turn: float = 0.45, distance: float = 3.6) -> Camera:
    """On an arc in front of the room, looking at its middle; `turn` is half of the arc in radians."""
    yaw, pitch = turn * np.sin(2.4 * (time - 0.5)), 0.12 + 0.05 * np.cos(5 * time)
    back = np.array([np.sin(yaw) * np.cos(pitch), -np.sin(pitch), -np.cos(yaw) * np.cos(pitch)])
    right = np.cross([0, 1.0, 0], -back)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(-back, right), -back])
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, -rotation @ (distance * back + [0, 0, 0.6])
    return Camera(motion, np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]), WIDTH, HEIGHT)


def _box(time: float) -> list[np.ndarray]:
    """Three faces of a box that crosses the room."""
    centre, side = np.array([1.3 * np.sin(6 * time), 0.35 + 0.2 * np.cos(9 * time), 0.2]), 0.7
    low, high = centre - side / 2, centre + side / 2
    return [
        _quad(low, (side, 0, 0), (0, side, 0)),
        _quad((low[0], low[1], high[2]), (0, 0, -side), (0, side, 0)),
        _quad((high[0], low[1], low[2]), (0, 0, side), (0, side, 0)),
    ]


def frame(view: Camera, time: float, *, lens: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The image (H, W, 3) uint8 and where the box is seen, (H, W) bool.

    Args:
        lens: the radial distortion k1 of the camera that records the video.
    """
    fine = view.resized(_SAMPLES * view.width, _SAMPLES * view.height)
    row, column = np.mgrid[: fine.height, : fine.width] + 0.5
    bent = (np.stack([column, row], -1) - fine.intrinsics[:2, 2]) / fine.intrinsics[0, 0]
    straight = bent
    for _ in range(8 if lens else 0):
        straight = bent / (1 + lens * (straight**2).sum(-1, keepdims=True))
    rays = np.concatenate([straight, np.ones_like(straight[..., :1])], -1) @ view.world_to_camera[:3, :3]
    colours, depths = np.full((*rays.shape[:2], 3), 128, np.uint8), np.full(rays.shape[:2], np.inf)
    moving = np.zeros(rays.shape[:2], bool)
    quads = [(name, quad, False) for name, quad in _WALLS] + [(_BOX, quad, True) for quad in _box(time)]
    for name, quad, moves in quads:
        photo = load_image(bundled("photos", name))
        across, down = quad[1] - quad[0], quad[2] - quad[0]
        normal, start = np.cross(across, down), quad[0] - view.centre
        depth = (start @ normal) / (rays @ normal)
        at = rays * depth[..., None] - start
        u, v = at @ across / (across @ across), at @ down / (down @ down)
        hit = (depth > 0.05) & (depth < depths) & (u >= 0) & (u < 1) & (v >= 0) & (v < 1)
        colours[hit] = photo[(v[hit] * photo.shape[0]).astype(int), (u[hit] * photo.shape[1]).astype(int)]
        depths[hit], moving[hit] = depth[hit], moves
    shape = (view.height, _SAMPLES, view.width, _SAMPLES)
    return np.rint(colours.reshape(*shape, 3).mean((1, 3))).astype(np.uint8), moving.reshape(shape).any((1, 3))


def write_room(
    path: Path, frames: int, *, lens: float = 0.0, still: bool = False
) -> tuple[list[Camera], list[np.ndarray]]:
    """Write the video at 10 frames per second; return its cameras, and where the box is in each frame."""
    times = np.arange(frames) / max(1, frames - 1)
    cameras = [camera(0.0 if still else time) for time in times]
    masks = []
    with VideoWriter(path, fps=10, crf=12) as video:
        for view, time in zip(cameras, times, strict=True):
            pixels, moving = frame(view, float(time), lens=lens)
            video.write(pixels)
            masks.append(moving)
    return cameras, masks
