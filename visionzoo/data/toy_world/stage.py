"""Everything that a clip can show, as polygons, and where they are at each frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .acting import Act
from .camera import CameraPath, flat, product, upright
from .characters import Character, body
from .colors import INK, Rgb
from .drawing import SHIFT
from .places import BACK, Place
from .shapes import Shape


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
class Thing:
    """An upright object.

    Attributes:
        depth: (T + 1,) its depth at each frame.
        local: joint -> (T + 1, 3, 3), from the joint's plane to the upright plane at that depth.
        shapes: numbers of its shapes.
    """

    depth: np.ndarray
    local: dict[str, np.ndarray]
    shapes: range


@dataclass(frozen=True)
class Geometry:
    """Where everything is at some frames.

    Attributes:
        matrices: (T, M, 3, 3) from each plane to pixels.
        corners: (T, P, 2) int32, those of all shapes that may be visible at one of the frames, in pixels of the enlarged image, in
            fixed point.
        spans: of each shape, the slice of its corners, which is empty for one that is never visible.
        visible: (T, shapes) bool: whether a shape may reach into the frame.
        grounds: numbers of the shapes of floors and backdrops that may be visible at one of the frames.
        things: of each upright object, the numbers of such shapes.
        order: (T, things), from back to front.
    """

    matrices: np.ndarray
    corners: np.ndarray
    spans: list[slice]
    visible: np.ndarray
    grounds: list[int]
    things: list[list[int]]
    order: np.ndarray


class Stage:
    """The shapes of a clip: first floors and backdrops, then upright things.

    A group is one label in the drawing: a shape, or shapes that no line separates.

    Attributes:
        shapes: all of them.
        things: the upright objects: characters, then landmarks.
        grounds: number of shapes that belong to floors and backdrops.
        regions: `Region.number` is the index.
        group_of: (shapes,) group of each shape.
        region_of_group, matrix_of_group: (groups,) region and plane of each group.
        rgb_of_group: (groups, 3) uint8.
        inked: (groups,) bool: drawn with ink, like eyes.
        is_convex: of each shape.
    """

    def __init__(self, places: Sequence[Place], characters: Sequence[Character], acts: Sequence[Act], path: CameraPath):
        self.path = path
        self.shapes: list[Shape] = []
        self.things: list[Thing] = []
        self.regions: list[Region] = []
        self._planes: list[int] = []  # of each shape
        self._groups: list[int] = []
        self._group_regions: list[int] = []
        for place in places:
            self._add(place.floor, "floor", 0, {"body": 0})
            self._add(place.backdrop, "backdrop", 0, {"body": 1})
        self.grounds = len(self.shapes)
        self._plane_count = 2
        for character, act in zip(characters, acts, strict=True):
            local = {joint: _shifted(matrix, act.x) for joint, matrix in act.joints.items()}
            self._stand(body(character), character.kind, act.depth, local)
        self.people = len(self.things)
        moments = len(path) + 1
        for standing in (thing for place in places for thing in place.landmarks):
            local = {"body": _shifted(np.eye(3)[None], np.array([standing.x]))}
            self._stand(standing.shapes, standing.name, np.full(moments, standing.depth), local)
        self._index()

    def _stand(self, shapes: Sequence[Shape], name: str, depth: np.ndarray, local: dict[str, np.ndarray]) -> None:
        first = len(self.shapes)
        planes = {joint: self._plane_count + k for k, joint in enumerate(local)}
        self._add(shapes, name, len(self.things) + 1, planes)
        self._plane_count += len(local)
        self.things.append(Thing(depth, local, range(first, len(self.shapes))))

    def _add(self, shapes: Sequence[Shape], name: str, instance: int, planes: dict[str, int]) -> None:
        regions: dict[tuple[str, Rgb], int] = {}
        for shape in shapes:
            key = (shape.part, shape.rgb)
            if key not in regions:
                regions[key] = len(self.regions)
                self.regions.append(Region(regions[key], instance, name, shape.part, shape.color, shape.rgb))
            if not shape.merged:
                self._group_regions.append(regions[key])
            self.shapes.append(shape)
            self._planes.append(planes[shape.joint])
            self._groups.append(len(self._group_regions) - 1)

    def _index(self) -> None:
        self._lengths = np.array([len(shape.points) for shape in self.shapes])
        self._points = np.concatenate([shape.points for shape in self.shapes])
        self._plane_of_point = np.repeat(self._planes, self._lengths)
        self.is_convex = [shape.is_convex for shape in self.shapes]
        self.group_of = np.array(self._groups)
        self.region_of_group = np.array(self._group_regions, np.uint16)
        self.rgb_of_group = np.array([self.regions[number].rgb for number in self._group_regions], np.uint8)
        self.inked = (self.rgb_of_group == INK).all(axis=1)
        self.instance_of_region = np.array([region.instance for region in self.regions], np.uint16)
        self.matrix_of_group = np.zeros(len(self._group_regions), np.intp)
        self.matrix_of_group[self.group_of] = self._planes
        people, landmarks = self.things[: self.people], self.things[self.people :]
        self._depths = np.stack([np.full(len(self.path) + 1, BACK), *(thing.depth for thing in self.things)], axis=1)
        self._joints = [np.stack(list(thing.local.values()), axis=1) for thing in people]
        self._stands = np.concatenate([np.zeros((0, 3, 3)), *(thing.local["body"] for thing in landmarks)])
        # From where to where each shape reaches along x, if it is upright and never moves
        self._reach = np.full((2, len(self.shapes)), [[-np.inf], [np.inf]])
        self._depth_of_shape = np.full(len(self.shapes), BACK)
        for number in np.flatnonzero(np.array(self._planes[: self.grounds]) == 1):
            x = self.shapes[number].points[:, 0]
            self._reach[:, number] = x.min(), x.max()
        for thing in landmarks:
            for number in thing.shapes:
                x = self.shapes[number].points[:, 0] + thing.local["body"][0, 0, 2]
                self._reach[:, number] = x.min(), x.max()
                self._depth_of_shape[number] = thing.depth[0]

    def _in_view(self, path: CameraPath, height: int, width: int) -> np.ndarray:
        """(shapes,) bool: whether a shape may reach into the frame at one of the moments, judged by x only, with some margin."""
        scale = height * path.zoom[:, None] / (self._depth_of_shape - path.z[:, None])
        left, right = (scale * (x - path.x[:, None]) + (width - 1) / 2 for x in self._reach)
        inside: Any = (right > -2) & (left < width + 1)
        return inside.any(axis=0)

    def geometry(self, start: int, stop: int, height: int, width: int, enlarged: int) -> Geometry:
        """Where everything is at the moments from `start` to before `stop`.

        Args:
            height, width: of the frame.
            enlarged: how many times larger the frame is drawn.
        """
        when = slice(start, stop)
        path, depths = self.path.part(when), self._depths[when]
        planes = upright(path, depths, height, width)
        matrices = [flat(path, height, width)[:, None], planes[:, :1]]
        for index, joints in enumerate(self._joints, start=1):
            matrices.append(product(planes[:, index : index + 1], joints[when]))
        matrices.append(product(planes[:, 1 + self.people :], self._stands))
        stack = np.concatenate(matrices, axis=1)
        drawn = self._in_view(path, height, width)
        points = np.flatnonzero(np.repeat(drawn, self._lengths))
        plane, (x, y) = self._plane_of_point[points], self._points[points].T
        m = stack[:, :, :2][:, plane]
        pixels = m[..., 0] * x[:, None] + m[..., 1] * y[:, None] + m[..., 2]
        floor = np.flatnonzero(plane == 0)  # only the floor is seen in perspective
        m = stack[:, 0, None, 2]
        pixels[:, floor] /= (m[..., 0] * x[floor] + m[..., 1] * y[floor] + m[..., 2])[..., None]
        fixed: Any = np.rint((pixels * enlarged + (enlarged - 1) / 2) * 2**SHIFT)
        lengths = np.where(drawn, self._lengths, 0)
        ends = np.cumsum(lengths)
        starts: Any = (ends - lengths)[drawn]
        low: Any = np.minimum.reduceat(pixels, starts, axis=1)
        high: Any = np.maximum.reduceat(pixels, starts, axis=1)
        visible = np.zeros((stop - start, len(self.shapes)), bool)
        visible[:, drawn] = ((high > -1) & (low < np.array([width, height]))).all(axis=2)
        order = np.argsort(-depths[:, 1:], axis=1, kind="stable")
        spans = [slice(end - length, end) for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
        grounds, *things = (
            [k for k in shapes if drawn[k]]
            for shapes in (range(self.grounds), *(thing.shapes for thing in self.things))
        )
        return Geometry(stack, fixed.astype(np.int32, order="C"), spans, visible, grounds, things, order)


def _shifted(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Affine matrices (T, 3, 3) followed by a shift along x, (T,)."""
    moved = matrix.copy()
    moved[:, 0, 2] += x
    return moved


__all__ = ["Geometry", "Region", "Stage", "Thing"]
