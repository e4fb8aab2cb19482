"""A small renderer of triangles in numpy: which triangle each pixel shows, and where in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Hits:
    """The pixels that show a triangle, in order: flat index, depth, triangle and barycentric weights (N, 3)."""

    pixel: NDArray[np.integer]
    depth: Array
    triangle: NDArray[np.integer]
    weights: Array

    def mix(self, values: Array, triangles: NDArray[np.integer]) -> Array:
        """Values of vertices (V, C) -> values of the pixels (N, C)."""
        return self.mix_corners(values[triangles[self.triangle]])

    def mix_corners(self, corners: Array) -> Array:
        """Values of the corners of the pixels' triangles (N, 3, C) -> (N, C)."""
        return np.einsum("nk,nkc->nc", self.weights, corners)


def rasterize(
    points: Array,
    triangles: NDArray[np.integer],
    height: int,
    width: int,
    *,
    both_sides: NDArray[np.bool_] | bool = True,
    perspective: bool = False,
) -> Hits:
    """Draw triangles into an image.

    Args:
        points: (V, 3) in pixels from the upper left corner of the image, and depth; not finite where they cannot be projected.
        triangles: (T, 3), anticlockwise from the front.
        both_sides: (T,) whether a triangle is seen from behind, too.
        perspective: interpolate values in space instead of in the image, for triangles that are large compared with their
            distance.
    """
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(points).all(1))
    points, size = np.where(finite[:, None], points, 0), np.array([width, height])
    corners = points[triangles]
    one, two = corners[:, 1, :2] - corners[:, 0, :2], corners[:, 2, :2] - corners[:, 0, :2]
    area = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
    low = np.floor(corners[:, :, :2].min(1)).astype(int)
    high = np.ceil(corners[:, :, :2].max(1)).astype(int)
    seen: NDArray[np.bool_] = (
        (np.abs(area) > 1e-9) & ((area < 0) | both_sides) & (high > 0).all(1) & (low < size).all(1)
    )
    seen &= finite[triangles].all(1)
    extent = np.maximum((high - low).max(1), 1)
    nothing = np.zeros(0, int)
    found = [(nothing, np.zeros(0), nothing, np.zeros((0, 3)))]
    reach = 1 << np.ceil(np.log2(extent)).astype(int)
    for side in np.unique(reach[seen]):
        chosen = np.flatnonzero(seen & (reach == side))
        y, x = (part.reshape(-1) for part in np.mgrid[: side + 1, : side + 1])
        for members in np.array_split(chosen, max(1, len(chosen) * len(x) // 2_000_000)):
            px, py = low[members, :1] + x, low[members, 1:] + y
            dx, dy = px + 0.5 - corners[members, 0, :1], py + 0.5 - corners[members, 0, 1:2]
            b = (dx * two[members, 1:] - dy * two[members, :1]) / area[members, None]
            c = (dy * one[members, :1] - dx * one[members, 1:]) / area[members, None]
            inside = (b >= 0) & (c >= 0) & (b + c <= 1) & (px >= 0) & (py >= 0) & (px < width) & (py < height)
            row = np.nonzero(inside)[0]
            b, c, members = b[inside], c[inside], members[row]
            weights = np.stack([1 - b - c, b, c], 1)
            if perspective:
                weights /= corners[members, :, 2]
                depth = 1 / weights.sum(1)
                weights *= depth[:, None]
            else:
                depth = (weights * corners[members, :, 2]).sum(1)
            found.append((py[inside] * width + px[inside], depth, members, weights))
    pixel, depth, triangle, weights = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((depth, pixel))
    first = order[np.unique(pixel[order], return_index=True)[1]]
    return Hits(pixel[first], depth[first], triangle[first], weights[first])


def vertex_normals(points: Array, triangles: NDArray[np.integer]) -> Array:
    """(V, 3) unit normals, the mean of those of the triangles around, by area."""
    corners = points[triangles]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.stack([np.bincount(triangles.reshape(-1), np.repeat(flat[:, k], 3), len(points)) for k in range(3)], 1)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
