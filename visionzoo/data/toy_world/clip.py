"""Clips: a world, filmed. Every frame comes with everything that is known about it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

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


class _Chunk:
    """Frames that are drawn with the same labels: 1, 2, … for the groups that may be visible in one of them.

    Attributes:
        geometry: where everything is at the frames and at the moment after the last.
        labels: of each shape.
        planes: (labels - 1,) the plane of each label but 0.
        regions, instances, colors, inked: of each label; label 0 is drawn as ink, and otherwise counts as the first group.
    """

    def __init__(self, stage: Stage, geometry: Geometry):
        self.geometry = geometry
        shown = np.zeros(len(stage.region_of_group), bool)
        shown[stage.group_of[geometry.visible.any(axis=0)]] = True
        groups = np.concatenate([np.zeros(1, np.intp), np.flatnonzero(shown)])
        self.labels: list[int] = np.cumsum(shown)[stage.group_of].tolist()
        self.planes = stage.matrix_of_group[groups[1:]]
        self.regions = stage.region_of_group[groups]
        self.instances = stage.instance_of_region[self.regions]
        self.colors, self.inked = stage.rgb_of_group[groups], stage.inked[groups]
        self.colors[0], self.inked[0] = INK, True


class Clip:
    """A filmed clip; `ToyWorld.film` makes it. Frames are drawn when they are asked for, by index, as the list of a slice, or one
    after another.

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

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        chosen = range(len(self))[index]
        if isinstance(chosen, int):
            return next(self.frames(chosen, chosen + 1))
        if chosen.step == 1:
            return list(self.frames(chosen.start, max(chosen.start, chosen.stop)))
        return [self[number] for number in chosen]

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
            motion: also compute `Frame.flow` and `Frame.valid`; without it they are empty, and drawing takes a third less time.

        Raises:
            InputError: the clip has no such frames.
        """
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise InputError(f"the clip has frames 0 to {len(self) - 1}, not {start} to {stop - 1}")
        moving = Motion(self.height, self.width) if motion else None
        for first in range(start, stop, CHUNK):
            last = min(first + CHUNK, stop)
            geometry = self._stage.geometry(first, last + 1, self.height, self.width, self.supersampling)
            chunk, after = _Chunk(self._stage, geometry), None
            moves = plane_motion(geometry.matrices, chunk.planes) if motion else None
            for index in range(last - first):
                now = after or self._draw(chunk, index)
                flow, valid = np.zeros((0, 0, 2), np.float32), np.zeros((0, 0), bool)
                if moving is not None and moves is not None:
                    after = self._draw(chunk, index + 1)
                    flow = moving.flow(now, moves[index], self._floor(first + index))
                    valid = moving.still_visible(now, after, flow)
                yield self._frame(first + index, now, chunk, flow, valid)

    def _draw(self, chunk: _Chunk, index: int) -> Canvas:
        """Draw one frame of a chunk."""
        geometry, labels, is_convex = chunk.geometry, chunk.labels, self._stage.is_convex
        seen, corners, spans = geometry.visible[index].tolist(), geometry.corners[index], geometry.spans
        canvas = Canvas(self.height, self.width, self.supersampling, len(chunk.regions) - 1)
        things = map(geometry.things.__getitem__, geometry.order[index].tolist())
        shapes = [k for numbers in (geometry.grounds, *things) for k in numbers if seen[k]]
        canvas.fill([(corners[spans[k]], labels[k], is_convex[k]) for k in shapes])
        return canvas

    def _frame(self, frame: int, now: Canvas, chunk: _Chunk, flow: np.ndarray, valid: np.ndarray) -> Frame:
        regions, instances = (now.look_up(table, now.small()) for table in (chunk.regions, chunk.instances))
        areas = np.bincount(chunk.regions, now.areas(len(chunk.regions)), len(self.regions))
        rgb, ink = now.finish(chunk.colors, chunk.inked, self.line_width)
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


__all__ = ["Clip", "Frame", "Region"]
