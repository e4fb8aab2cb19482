"""Browsers that look at a scene: where the camera of each is, and what it was sent."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from visionzoo.splatting import rotation_matrices

from ...models.modecgs.captures.capture import Camera
from .browser_splats import splat_arrays
from .playback import AdaptiveSize, ViewState
from .scene import Scene

if TYPE_CHECKING:
    import viser

REST_S = 0.25
"""A camera rests if it has not moved for this long."""

MOST_WINDOW = 16384


@dataclass(frozen=True)
class Pose:
    """Where a browser's camera is, in the browser's scale.

    Attributes:
        wxyz: rotation from the camera (x right, y down, z forward) to the world.
        position: (3,).
        fov: vertical, in radians.
        width, height: of the window in pixels.
    """

    wxyz: tuple[float, ...]
    position: tuple[float, ...]
    fov: float
    width: int
    height: int

    @classmethod
    def of(cls, camera: viser.CameraHandle) -> Pose | None:
        """The pose that a browser reports; None if it cannot be used, e.g. that of a window without a size."""
        pose = cls(
            tuple(map(float, camera.wxyz)), tuple(map(float, camera.position)), float(camera.fov),
            int(camera.image_width), int(camera.image_height),
        )  # fmt: skip
        is_usable = (
            all(map(math.isfinite, (*pose.wxyz, *pose.position)))
            and np.linalg.norm(pose.wxyz) > 1e-6
            and 1e-3 < pose.fov < math.pi - 1e-3
            and min(pose.width, pose.height) >= 1
            and max(pose.width, pose.height) <= MOST_WINDOW
        )
        return pose if is_usable else None

    def camera(self, scale: float, width: int, height: int) -> Camera:
        """The camera in the scene's own scale, for an image of `width` x `height`."""
        axes = rotation_matrices(torch.tensor([self.wxyz], dtype=torch.float64))[0].numpy()
        motion = np.eye(4)
        motion[:3, :3], motion[:3, 3] = axes.T, -axes.T @ (np.array(self.position) / scale)
        focal = height / 2 / math.tan(self.fov / 2)
        return Camera(motion, np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]), width, height)


class Visitor:
    """One browser.

    Args:
        client: its connection.
        scale: see `browser_scale`.

    Attributes:
        count: number of Gaussians that it sees.
        size: width and height in pixels of the image that it was sent; (0, 0) if it draws by itself.
    """

    def __init__(self, client: viser.ClientHandle, scale: float):
        self.client, self.scale = client, scale
        self.count, self.size = 0, (0, 0)
        self._adaptive = AdaptiveSize()
        self._pose: Pose | None = None
        self._moved = self._time_moved = -math.inf
        self._time = -1.0
        self._shown: tuple | None = None
        self._plain: bool | None = None
        self._handle: viser.GaussianSplatHandle | None = None
        self._rows = 0
        self._rested: NDArray[np.floating] | None = None

    def place(self, camera: Camera, distance: float) -> None:
        """Move the browser's camera to `camera`, so that its whole image is seen; it turns around the point `distance` ahead."""
        seen = self.client.camera
        aspect = seen.image_width / max(seen.image_height, 1)
        axes = camera.world_to_camera[:3, :3]
        with (
            self.client.atomic(),
            contextlib.suppress(ValueError),
        ):  # of viser, if the browser reports values that are not finite
            seen.position = camera.centre * self.scale
            seen.look_at = (camera.centre + distance * axes[2]) * self.scale
            seen.up_direction = -axes[1]
            seen.fov = field_of_view(camera, aspect)

    def due(self, now: float) -> float | None:
        """Seconds until what is shown has to be refined; None if it is final."""
        if self._shown is None or self._shown[-1]:
            return None
        rests_at = max(self._moved, self._time_moved) + REST_S
        return max(rests_at - now, 0.0)

    def update(self, scene: Scene, state: ViewState, version: int) -> bool:
        """Send what has changed; returns whether anything was sent."""
        now = time.monotonic()
        pose = Pose.of(self.client.camera)
        if pose is None:
            return False
        if pose != self._pose:
            self._pose, self._moved = pose, now
        if state.playback.time != self._time:
            self._time, self._time_moved = state.playback.time, now
        if state.mode == "render":
            return self._render(scene, state, version, now)
        return self._send(scene, state, version, now)

    def _render(self, scene: Scene, state: ViewState, version: int, now: float) -> bool:
        """An image from the server; a small one while anything moves."""
        assert self._pose is not None
        is_resting = now - max(self._moved, self._time_moved) >= REST_S and not state.playback.playing
        wanted = ("render", version, state.show, self._time, self._pose, state.most_side, is_resting)
        if wanted == self._shown or (self._shown is not None and (*wanted[:-1], True) == self._shown):
            return False
        width, height = self._adaptive.size(self._pose.width, self._pose.height, state.most_side, moving=not is_resting)
        camera = self._pose.camera(self.scale, width, height)
        gaussians = scene.gaussians(camera.centre, self._time)
        pixels = scene.draw(gaussians, camera, state.show)
        if not is_resting:
            self._adaptive.took(time.monotonic() - now)
        if self._handle is not None:
            self._handle.visible = False
        self.client.scene.set_background_image(pixels, format="jpeg", jpeg_quality=92 if is_resting else 75)
        self.count, self.size, self._shown, self._plain = len(gaussians), (width, height), wanted, None
        return True

    def _send(self, scene: Scene, state: ViewState, version: int, now: float) -> bool:
        """Gaussians for the browser to draw."""
        assert self._pose is not None
        is_resting = now - self._moved >= REST_S
        center = mean_center(scene)
        if state.follow:
            if is_resting or self._rested is None:
                self._rested = np.array(self._pose.position) / self.scale
            center = self._rested
        is_final = is_resting or not state.follow
        wanted = ("splats", version, self._time, tuple(center.tolist()), is_final)
        self._paint(scene.facts.white_background)
        if self._shown is not None and wanted[:-1] == self._shown[:-1]:
            self._shown = wanted
            return False
        arrays = splat_arrays(scene.gaussians(center, self._time), center, self.scale, self._rows)
        sent = (arrays.centers, arrays.covariances, arrays.rgbs, arrays.opacities)
        if self._handle is None:
            self._handle = self.client.scene.add_gaussian_splats("/scene", *sent)
        else:
            self._handle.set_gaussians(*sent)
            self._handle.visible = True
        self._rows, self.count, self.size, self._shown = len(arrays.centers), arrays.count, (0, 0), wanted
        return True

    def _paint(self, white: bool) -> None:
        """The background of the scene, which is not that of the page."""
        if white != self._plain:
            self.client.scene.set_background_image(np.full((2, 2, 3), 255 if white else 0, np.uint8), format="png")
            self._plain = white


def field_of_view(camera: Camera, aspect: float) -> float:
    """Vertical angle in radians at which a window of this aspect (width over height) shows all that the camera sees."""
    down = camera.height / 2 / camera.intrinsics[1, 1]
    across = camera.width / 2 / camera.intrinsics[0, 0]
    return 2 * math.atan(max(down, across / max(aspect, 1e-3)))


def mean_center(scene: Scene) -> NDArray[np.floating]:
    """(3,): the middle of the training cameras."""
    return np.mean([each.camera.centre for each in scene.cameras], axis=0)


__all__ = ["REST_S", "Pose", "Visitor", "field_of_view", "mean_center"]
