"""Clips: a world, filmed. Every frame comes with everything that is known about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from visionzoo.errors import InputError

from .acting import DOING, Act
from .camera import CameraPath, inverse, product
from .captions import caption
from .characters import Character
from .colors import INK
from .drawing import Canvas
from .places import Place
from .stage import Geometry, Region, Stage

CHUNK = 32
"""Frames whose geometry is computed together."""


@dataclass(frozen=True)
class Frame:
    """One frame and the truth about it; H x W is its size.

    Attributes:
        rgb: (H, W, 3) uint8.
        ink: (H, W) uint8: the lines alone, dark on white paper (255).
        regions: (H, W) uint16 numbers of regions; lines belong to the region that they border.
        instances: (H, W) uint16 numbers of objects; see `Region.instance`.
        flow: (H, W, 2) float32: where each pixel's point is in the next frame, minus where it is here; in pixels, x to the right
            and y down. It is also known for points that are hidden or outside in the next frame.
        valid: (H, W) bool: whether the point is visible in the next frame.
        camera: x, depth and zoom of the camera, (3,) float64.
        action: what the camera did since the last frame.
        caption: a sentence about what is visible.
        doing: what each character does, e.g. ("walks", "sits").
    """

    rgb: np.ndarray
    ink: np.ndarray
    regions: np.ndarray
    instances: np.ndarray
    flow: np.ndarray
    valid: np.ndarray
    camera: np.ndarray
    action: str
    caption: str
    doing: tuple[str, ...]


@dataclass(frozen=True)
class _Drawn:
    """A drawn frame: its canvas, the visible groups (labels 1, 2, …), and the group that each pixel shows."""

    canvas: Canvas
    groups: np.ndarray
    shown: np.ndarray


class Clip:
    """A filmed clip; `ToyWorld.film` makes it. Frames are drawn when they are asked for, by index or one after another.

    Attributes:
        places, characters: of the world.
        acts: what each character does.
        path: of the camera.
        height, width: of the frames, in pixels.
        supersampling: how many times larger frames are drawn.
        line_width: in pixels.
    """

    def __init__(
        self,
        places: Sequence[Place],
        characters: Sequence[Character],
        acts: Sequence[Act],
        path: CameraPath,
        height: int,
        width: int,
        supersampling: int,
        line_width: float | None,
    ):
        self.places, self.characters, self.acts, self.path = tuple(places), tuple(characters), tuple(acts), path
        self.height, self.width, self.supersampling = height, width, supersampling
        self.line_width = 1.75 * height / 128 if line_width is None else line_width
        self._stage = Stage(places, characters, acts, path)

    def __len__(self) -> int:
        return len(self.path)

    def __getitem__(self, index: int) -> Frame:
        index = range(len(self))[index]
        return next(self.frames(index, index + 1))

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    @property
    def regions(self) -> list[Region]:
        """All regions; `Region.number` is the index."""
        return self._stage.regions

    @cached_property
    def cameras(self) -> np.ndarray:
        """x, depth and zoom of the camera at each frame, (T, 3) float64."""
        return np.stack([self.path.x, self.path.z, self.path.zoom], axis=1)[:-1]

    @property
    def actions(self) -> tuple[str, ...]:
        """What the camera did before each frame."""
        return self.path.actions

    def frames(self, start: int = 0, stop: int | None = None, *, motion: bool = True) -> Iterator[Frame]:
        """Draw the frames from `start` to before `stop`, one after another.

        Args:
            motion: also compute `Frame.flow` and `Frame.valid`; without it they are empty, and drawing takes half the time.

        Raises:
            InputError: the clip has no such frames.
        """
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise InputError(f"the clip has frames 0 to {len(self) - 1}, not {start} to {stop - 1}")
        after = None
        for first in range(start, stop, CHUNK):
            last = min(first + CHUNK, stop)
            chunk = self._stage.geometry(first, last + 1, self.height, self.width, self.supersampling)
            for index in range(last - first):
                now = after or self._draw(chunk, index)
                after = self._draw(chunk, index + 1) if motion else None
                yield self._frame(first + index, now, after, chunk, index)

    def _draw(self, chunk: Geometry, index: int) -> _Drawn:
        """Draw one frame of a chunk."""
        stage, visible, corners = self._stage, chunk.visible[index], chunk.corners[index]
        shown = np.zeros(len(stage.region_of_group), bool)
        shown[stage.group_of[visible]] = True
        groups = np.flatnonzero(shown)
        labels = np.cumsum(shown)[stage.group_of].tolist()  # 1, 2, … for what is visible
        canvas = Canvas(self.height, self.width, self.supersampling, len(groups))
        seen = visible.tolist()
        for shapes in (range(stage.grounds), *(stage.things[k].shapes for k in chunk.order[index])):
            for k in shapes:
                if seen[k]:
                    canvas.fill(corners[stage.spans[k]], labels[k], stage.shapes[k].is_convex)
        table = np.concatenate([[0], groups]).astype(np.uint16)
        return _Drawn(canvas, groups, table[canvas.small()])

    def _frame(self, frame: int, now: _Drawn, after: _Drawn | None, chunk: Geometry, index: int) -> Frame:
        stage, groups = self._stage, now.groups
        flow, valid = np.zeros((0, 0, 2), np.float32), np.zeros((0, 0), bool)
        if after is not None:
            flow = self._flow(now, chunk, index)
            valid = _still_visible(now.shown, after.shown, flow)
        colors = np.concatenate([[INK], stage.rgb_of_group[groups]]).astype(np.uint8)
        inked = np.concatenate([[True], stage.inked[groups]])
        rgb, ink = now.canvas.finish(colors, inked, self.line_width)
        regions = stage.region_of_group[now.shown]
        doing = tuple(DOING[act.doing[frame]] for act in self.acts)
        return Frame(
            rgb,
            ink,
            regions,
            stage.instance_of_region[regions],
            flow,
            valid,
            self.cameras[frame],
            self.path.actions[frame],
            caption(self, frame, regions, doing),
            doing,
        )

    def _flow(self, now: _Drawn, chunk: Geometry, index: int) -> np.ndarray:
        """The motion of every pixel to the next frame, by the homography of the plane that it shows."""
        which = self._stage.matrix_of_group[now.groups]
        move = product(chunk.matrices[index + 1][which], inverse(chunk.matrices[index][which]))
        move /= move[:, 2:, 2:]
        move -= np.eye(3)
        table = np.concatenate([np.zeros((1, 9)), move.reshape(-1, 9)]).astype(np.float32)
        labels = now.canvas.small()
        c = [now.canvas.look_up(table[:, k], labels) for k in range(8)]
        x, y = np.arange(self.width, dtype=np.float32), np.arange(self.height, dtype=np.float32)[:, None]
        more = c[6] * x + c[7] * y
        # The divisor is 1 + more; written so that small motions keep their digits
        flow = np.empty((self.height, self.width, 2), np.float32)
        flow[..., 0] = (c[0] * x + c[1] * y + c[2] - x * more) / (1 + more)
        flow[..., 1] = (c[3] * x + c[4] * y + c[5] - y * more) / (1 + more)
        return flow


def _still_visible(now: np.ndarray, after: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Whether each pixel's point lies inside the next frame and is not covered there."""
    height, width = now.shape
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    column, row = np.rint(x + flow[..., 0]).astype(np.int32), np.rint(y + flow[..., 1]).astype(np.int32)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    seen = after[row.clip(0, height - 1), column.clip(0, width - 1)]
    return inside & (seen == now)


__all__ = ["Clip", "Frame", "Region"]
