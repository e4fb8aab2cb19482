"""Clips: a world, filmed. Every frame comes with everything that is known about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from visionzoo.errors import InputError

from .acting import Act
from .camera import CameraPath, flat, inverse, product, upright
from .captions import caption
from .characters import Character, body
from .colors import INK, Rgb
from .drawing import Canvas
from .places import BACK, Place
from .shapes import Shape

CHUNK = 32
"""Frames whose geometry is computed together."""


@dataclass(frozen=True)
class Region:
    """One region of a clip: a part of an object.

    Attributes:
        number: its value in the regions of a frame.
        instance: number of its object in the instances of a frame: 0 for floors and backdrops, then the characters in the order of
            the world, then the landmarks.
        object: what it belongs to, e.g. "girl", "tree" or "floor".
        part: e.g. "shirt"; "main" for the part of a landmark that has the named colour.
        color: the name of its colour, or "".
        rgb: its colour.
    """

    number: int
    instance: int
    object: str
    part: str
    color: str
    rgb: Rgb


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
class _Thing:
    """An upright object: its depth per frame, and where its shapes' matrices are among those of the clip."""

    depth: np.ndarray
    first: int
    stop: int


class Clip:
    """A filmed clip; made by `ToyWorld.film`. Frames are drawn when they are asked for, by index or one after another.

    Attributes:
        places, characters: of the world.
        acts: what each character does.
        path: of the camera.
        height, width: of the frames, in pixels.
        regions: all regions; `Region.number` is the index.
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
        self.height, self.width = height, width
        self.supersampling = supersampling
        self.line_width = 1.75 * height / 128 if line_width is None else line_width
        self.regions: list[Region] = []
        self._shapes: list[Shape] = []
        self._frames: list[int] = []  # of each shape: which matrix
        self._groups: list[int] = []  # of each shape: which label; merged shapes share one
        self._region_of: list[int] = []  # of each group
        self._things: list[_Thing] = []
        self._matrices = 0
        self._build()

    def __len__(self) -> int:
        return len(self.path)

    def __getitem__(self, index: int) -> Frame:
        index = range(len(self))[index]
        return next(self.frames(index, index + 1))

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Draw the frames from `start` to before `stop`, one after another.

        Raises:
            InputError: the clip has no such frames.
        """
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise InputError(f"the clip has frames 0 to {len(self) - 1}, not {start} to {stop - 1}")
        drawn = None
        for first in range(start, stop, CHUNK):
            last = min(first + CHUNK, stop)
            chunk = self._geometry(first, last + 1)
            for frame in range(first, last):
                now = drawn or self._draw(chunk, frame - first)
                drawn = self._draw(chunk, frame - first + 1)
                yield self._frame(frame, now, drawn, chunk, frame - first)

    @cached_property
    def cameras(self) -> np.ndarray:
        """x, depth and zoom of the camera at each frame, (T, 3) float64."""
        return np.stack([self.path.x, self.path.z, self.path.zoom], axis=1)[:-1]

    @property
    def actions(self) -> tuple[str, ...]:
        """What the camera did before each frame."""
        return self.path.actions

    # What there is to draw

    def _build(self) -> None:
        for place in self.places:
            self._add(place.floor, "floor", 0, {"body": 0})
            self._add(place.backdrop, "backdrop", 0, {"body": 1})
        self._matrices = 2
        count = len(self.path) + 1
        self._on_stage = len(self._shapes)
        for number, character in enumerate(self.characters, start=1):
            joints = {joint: self._matrices + k for k, joint in enumerate(self.acts[number - 1].joints)}
            self._thing(body(character), character.kind, number, joints, self.acts[number - 1].depth)
        number = len(self.characters)
        for place in self.places:
            for standing in place.landmarks:
                number += 1
                depth = np.full(count, standing.depth)
                self._thing(standing.shapes, standing.name, number, {"body": self._matrices}, depth)
        points = [shape.points for shape in self._shapes]
        self._points = np.concatenate([np.concatenate([p, np.ones((len(p), 1))], axis=1) for p in points])
        self._ends = np.cumsum([len(p) for p in points])
        self._starts = self._ends - [len(p) for p in points]
        self._frame_of_point = np.repeat(self._frames, [len(p) for p in points])
        regions = self.regions
        self._region_of_group = np.array(self._region_of, np.uint16)
        self._instance_of_region = np.array([region.instance for region in regions], np.uint16)
        self._rgb_of_group = np.array([self._colors[g] for g in range(len(self._region_of))], np.uint8)
        self._inked = (self._rgb_of_group == INK).all(axis=1)
        self._group_of = np.array(self._groups)
        self._matrix_of_group = np.zeros(len(self._region_of), np.intp)
        self._matrix_of_group[self._group_of] = self._frames

    def _thing(self, shapes: Sequence[Shape], name: str, number: int, frames: dict[str, int], depth: np.ndarray) -> None:
        first = len(self._shapes)
        self._matrices += len(frames)
        self._add(shapes, name, number, frames)
        self._things.append(_Thing(depth, first, len(self._shapes)))

    def _add(self, shapes: Sequence[Shape], name: str, number: int, frames: dict[str, int]) -> None:
        if not hasattr(self, "_colors"):
            self._colors: list[Rgb] = []
        parts: dict[str, int] = {}
        for shape in shapes:
            part = shape.part if shape.color or name in ("floor", "backdrop") or number <= len(self.characters) else f"detail {len(parts)}"
            if part not in parts:
                parts[part] = len(self.regions)
                self.regions.append(Region(parts[part], number, name, part, shape.color, shape.rgb))
            if not shape.merged:
                self._region_of.append(parts[part])
                self._colors.append(shape.rgb)
            self._shapes.append(shape)
            self._frames.append(frames[shape.joint])
            self._groups.append(len(self._region_of) - 1)

    # Where it is

    def _geometry(self, first: int, stop: int) -> _Geometry:
        """Matrices and corners of all shapes at the frames from `first` to before `stop`."""
        path = CameraPath(self.path.x[first:stop], self.path.z[first:stop], self.path.zoom[first:stop], ())
        depths = np.stack([np.full(stop - first, BACK), *(thing.depth[first:stop] for thing in self._things)], axis=1)
        planes = upright(path, depths, self.height, self.width)
        matrices = [flat(path, self.height, self.width), planes[:, 0]]
        for index, thing in enumerate(self._things, start=1):
            if index <= len(self.characters):
                act = self.acts[index - 1]
                for joint in act.joints.values():
                    local = joint[first:stop].copy()
                    local[:, 0, 2] += act.x[first:stop]
                    matrices.append(product(planes[:, index], local))
            else:
                matrices.append(product(planes[:, index], _shifted(self._standing[index - 1 - len(self.characters)].x)))
        stack = np.stack(matrices, axis=1)
        m, p = stack[:, self._frame_of_point], self._points
        corners = m[..., 0] * p[:, 0, None] + m[..., 1] * p[:, 1, None] + m[..., 2]
        pixels = corners[..., :2] / corners[..., 2:]
        factor = self.supersampling
        enlarged = np.rint((pixels * factor + (factor - 1) / 2) * 16).astype(np.int32, order="C")  # 28.4 fixed-point numbers
        low = np.minimum.reduceat(pixels, self._starts, axis=1)
        high = np.maximum.reduceat(pixels, self._starts, axis=1)
        size = np.array([self.width, self.height])
        visible = ((high > -1) & (low < size)).all(axis=2)
        order = np.argsort(-depths[:, 1:], axis=1, kind="stable")
        return _Geometry(stack, enlarged, visible, order)

    @cached_property
    def _standing(self):
        return [standing for place in self.places for standing in place.landmarks]

    def _draw(self, chunk: _Geometry, index: int) -> _Drawn:
        """Draw one frame of a chunk."""
        visible = chunk.visible[index]
        shown = np.zeros(len(self._region_of), bool)
        shown[self._group_of[visible]] = True
        groups = np.flatnonzero(shown)
        labels = np.cumsum(shown)  # 1, 2, … for what is visible
        canvas = Canvas(self.height, self.width, self.supersampling, len(groups))
        corners = chunk.corners[index]
        turn = [range(self._on_stage), *(range(self._things[k].first, self._things[k].stop) for k in chunk.order[index])]
        for shapes in turn:
            for k in shapes:
                if visible[k]:
                    points = corners[self._starts[k] : self._ends[k]]
                    canvas.fill(points, int(labels[self._groups[k]]), self._shapes[k].is_convex)
        return _Drawn(canvas, groups, np.concatenate([[0], groups])[canvas.small()])

    def _frame(self, frame: int, now: _Drawn, after: _Drawn, chunk: _Geometry, index: int) -> Frame:
        groups = now.groups
        colors = np.concatenate([[INK], self._rgb_of_group[groups]]).astype(np.uint8)
        inked = np.concatenate([[True], self._inked[groups]])
        rgb, ink = now.canvas.finish(colors, inked, self.line_width)
        regions = self._region_of_group[now.shown]
        flow = self._flow(now, chunk, index)
        doing = tuple(act.doing[frame] for act in self.acts)
        instances = self._instance_of_region[regions]
        return Frame(
            rgb,
            ink,
            regions,
            instances,
            flow,
            _still_visible(now.shown, after.shown, flow),
            self.cameras[frame],
            self.path.actions[frame],
            caption(self, frame, regions, doing),
            doing,
        )

    def _flow(self, now: _Drawn, chunk: _Geometry, index: int) -> np.ndarray:
        which = self._matrix_of_group[now.groups]
        move = product(chunk.matrices[index + 1][which], inverse(chunk.matrices[index][which]))
        move /= move[:, 2:, 2:]
        move -= np.eye(3)
        table = np.concatenate([np.zeros((1, 9)), move.reshape(-1, 9)]).astype(np.float32)
        c = np.moveaxis(table[now.canvas.small()], -1, 0)
        y, x = np.indices((self.height, self.width), np.float32, sparse=True)
        more = c[6] * x + c[7] * y + c[8]  # the divisor is 1 + more; written so that small motions keep their digits
        across = (c[0] * x + c[1] * y + c[2] - x * more) / (1 + more)
        down = (c[3] * x + c[4] * y + c[5] - y * more) / (1 + more)
        return np.stack([across, down], axis=-1)


@dataclass(frozen=True)
class _Geometry:
    """Of some frames: matrices (T, M, 3, 3), corners (T, P, 2) in 28.4 fixed point, visibility (T, shapes), order of things."""

    matrices: np.ndarray
    corners: np.ndarray
    visible: np.ndarray
    order: np.ndarray


@dataclass(frozen=True)
class _Drawn:
    """A drawn frame: its canvas, the visible groups (label 1, 2, …), and the group that each pixel shows."""

    canvas: Canvas
    groups: np.ndarray
    shown: np.ndarray


def _shifted(x: float) -> np.ndarray:
    matrix = np.eye(3)
    matrix[0, 2] = x
    return matrix


def _still_visible(now: np.ndarray, after: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Whether each pixel's point lies inside the next frame and is not covered there."""
    height, width = now.shape
    y, x = np.indices(now.shape, np.float32, sparse=True)
    column, row = np.rint(x + flow[..., 0]).astype(np.int32), np.rint(y + flow[..., 1]).astype(np.int32)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    seen = after[row.clip(0, height - 1), column.clip(0, width - 1)]
    return inside & (seen == now)


__all__ = ["Clip", "Frame", "Region"]
