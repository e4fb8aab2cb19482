"""Clips: a world, filmed. Every frame comes with everything that is known about it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from visionzoo.errors import InputError

from .acting import DOING, Act
from .camera import EYE, HORIZON, CameraPath
from .captions import Captions
from .characters import Character
from .colors import INK
from .drawing import Canvas
from .motion import Motion, plane_motion
from .places import BACK, Place
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
    """A drawn frame: its canvas, the group of each label (0, 1, 2, …), and the group that each pixel shows."""

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
        captions: makes the captions of the frames.
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
        self.captions = Captions(places, characters, self._stage.regions)

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
        moving = Motion(self.height, self.width) if motion else None
        after = None
        for first in range(start, stop, CHUNK):
            last = min(first + CHUNK, stop)
            chunk = self._stage.geometry(first, last + 1, self.height, self.width, self.supersampling)
            moves = plane_motion(chunk.matrices) if motion else None
            for index in range(last - first):
                now = after or self._draw(chunk, index)
                flow, valid = np.zeros((0, 0, 2), np.float32), np.zeros((0, 0), bool)
                if moving is not None and moves is not None:
                    after = self._draw(chunk, index + 1)
                    planes = moves[index, self._stage.matrix_of_group[now.groups[1:]]]
                    parts = moving.flow(now.canvas, planes, self._floor(first + index))
                    valid = moving.still_visible(now.shown, after.shown, parts)
                    flow = now.canvas.cv2.merge(parts)
                yield self._frame(first + index, now, flow, valid)

    def _draw(self, chunk: Geometry, index: int) -> _Drawn:
        """Draw one frame of a chunk."""
        stage, visible, corners = self._stage, chunk.visible[index], chunk.corners[index]
        shown = np.zeros(len(stage.region_of_group), bool)
        shown[stage.group_of[visible]] = True
        groups = np.flatnonzero(shown)
        labels = np.cumsum(shown)[stage.group_of].tolist()  # 1, 2, … for what is visible
        canvas = Canvas(self.height, self.width, self.supersampling, len(groups))
        seen = visible.tolist()
        for shapes in (range(stage.grounds), *(stage.things[k].shapes for k in chunk.order[index].tolist())):
            for k in shapes:
                if seen[k]:
                    canvas.fill(corners[chunk.spans[k]], labels[k], stage.shapes[k].is_convex)
        groups = np.concatenate([_NOWHERE, groups])
        return _Drawn(canvas, groups, canvas.look_up(groups.astype(np.uint16), canvas.small()))

    def _frame(self, frame: int, now: _Drawn, flow: np.ndarray, valid: np.ndarray) -> Frame:
        stage, labels = self._stage, now.canvas.small()
        numbers = stage.region_of_group[now.groups]
        regions = now.canvas.look_up(numbers, labels)
        instances = now.canvas.look_up(stage.instance_of_region[numbers], labels)
        areas = np.bincount(numbers, now.canvas.areas(len(numbers)), len(stage.regions))
        colors, inked = stage.rgb_of_group[now.groups], stage.inked[now.groups]
        colors[0], inked[0] = INK, True
        rgb, ink = now.canvas.finish(colors, inked, self.line_width)
        doing = tuple(DOING[act.doing[frame]] for act in self.acts)
        return Frame(
            rgb,
            ink,
            regions,
            instances,
            flow,
            valid,
            self.cameras[frame],
            self.path.actions[frame],
            self.captions.caption(float(self.path.x[frame]), areas, doing),
            doing,
        )

    def _floor(self, frame: int) -> int:
        """A row above which no floor is visible; the floor ends at the depth `BACK`."""
        scale = self.height * self.path.zoom[frame] / (BACK - self.path.z[frame])
        return max(0, math.floor(HORIZON * self.height + scale * EYE) - 3)


_NOWHERE = np.zeros(1, np.intp)
"""Label 0, what nothing covers, counts as the first group."""


__all__ = ["Clip", "Frame", "Region"]
