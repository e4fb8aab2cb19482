"""Compiled loops of `projection.py` for float32 on a CPU: one Gaussian after the other, seen by every camera.

Arithmetic is float64. numba's cache only detects changes in a function's own file, so compiled code here uses nothing from other
files; constants of the rules are arguments.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from .compiling import compiled

_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy"}


@njit(inline="always")
def _axes(quats, scales, n, rotation, axes):
    """Write the rotation (3, 3) of Gaussian n, and its axes: the columns times the scales. Returns the length of the quaternion."""
    w, x, y, z = float(quats[n, 0]), float(quats[n, 1]), float(quats[n, 2]), float(quats[n, 3])
    length = math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w / length, x / length, y / length, z / length
    rotation[0, 0], rotation[0, 1], rotation[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    rotation[1, 0], rotation[1, 1], rotation[1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    rotation[2, 0], rotation[2, 1], rotation[2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    for i in range(3):
        for j in range(3):
            axes[i, j] = rotation[i, j] * scales[n, j]
    return length


@njit(inline="always")
def _turned(view, axes, j):
    """Axis j in the coordinates of the camera."""
    a, b, c = axes[0, j], axes[1, j], axes[2, j]
    return (
        view[0, 0] * a + view[0, 1] * b + view[0, 2] * c,
        view[1, 0] * a + view[1, 1] * b + view[1, 2] * c,
        view[2, 0] * a + view[2, 1] * b + view[2, 2] * c,
    )


@njit(inline="always")
def _seen_from(view, means, n):
    """The centre of Gaussian n in the coordinates of the camera."""
    a, b, c = float(means[n, 0]), float(means[n, 1]), float(means[n, 2])
    return (
        view[0, 0] * a + view[0, 1] * b + view[0, 2] * c + view[0, 3],
        view[1, 0] * a + view[1, 1] * b + view[1, 2] * c + view[1, 3],
        view[2, 0] * a + view[2, 1] * b + view[2, 2] * c + view[2, 3],
    )


@njit(inline="always")
def _limited(slope, focal, middle, size):
    """The slope at which the Jacobian is taken: at most 15 % of the image outside of it."""
    margin = 0.15 * size
    return min(max(slope, (-middle - margin) / focal), (size - middle + margin) / focal)


@njit(inline="always")
def _is_usable(means, quats, scales, n, largest):
    """False for NaN, too."""
    for j in range(3):
        if not (abs(means[n, j]) < largest and abs(scales[n, j]) < largest):
            return False
    length = 0.0
    for j in range(4):
        length += float(quats[n, j]) * float(quats[n, j])
    return 0 < length < largest


@compiled(**_OPTIONS)
def project(
    low, high, means, quats, scales, opacities, usable, views, intrinsics, size, planes, radius_clip, eps2d, limits, square,
    antialiased, means2d, depths, ellipses, compensations, radii, rectangles, seen,
):  # fmt: skip
    """Project the Gaussians from `low` to `high` - 1; see `projection.Projection` for the results.

    Args:
        means (N, 3), quats (N, 4), scales (N, 3), opacities (N,), usable (N,) bool: Gaussians. `opacities` may be empty.
        views (C, 4, 4), intrinsics (C, 3, 3): float64.
        size: width and height.
        planes: near and far.
        limits: largest input, largest pixel, alpha floor, largest reach in sigmas, spread floor, compensation floor, tile.
        square, antialiased: see `Rules.square` and `render`.
        means2d (C, N, 2) … rectangles (C, N, 4): results, to be filled.
        seen: (C, N) bool, whether gradients reach the Gaussian; to be filled.
    """
    largest_input, largest_pixels, floor, sigmas, spread, compensation_floor, tile = limits
    near, far = planes
    width, height = size
    rotation, axes, rows = np.empty((3, 3)), np.empty((3, 3)), np.empty((2, 3))
    for c in range(len(views)):
        view = views[c]
        fx, fy, cx, cy = intrinsics[c, 0, 0], intrinsics[c, 1, 1], intrinsics[c, 0, 2], intrinsics[c, 1, 2]
        for n in range(low, high):
            means2d[c, n, 0], means2d[c, n, 1] = 0, 0
            ellipses[c, n, 0], ellipses[c, n, 1], ellipses[c, n, 2] = 1, 0, 1
            depths[c, n], compensations[c, n], seen[c, n] = 1, compensation_floor if square else 0.0, False
            radii[c, n, 0], radii[c, n, 1] = 0, 0
            for j in range(4):
                rectangles[c, n, j] = 0
            if not (usable[n] and _is_usable(means, quats, scales, n, largest_input)):
                continue
            if len(opacities) > 0 and not math.isfinite(opacities[n]):
                continue
            x, y, z = _seen_from(view, means, n)
            if not (near < z < far):
                continue
            _axes(quats, scales, n, rotation, axes)
            centre_x, centre_y = fx * (x / z) + cx, fy * (y / z) + cy
            along_x, along_y = _limited(x / z, fx, cx, width), _limited(y / z, fy, cy, height)
            most = max(abs(centre_x), abs(centre_y))
            var_x, var_y, dot = 0.0, 0.0, 0.0
            for j in range(3):
                a, b, d = _turned(view, axes, j)
                rows[0, j], rows[1, j] = fx / z * (a - along_x * d), fy / z * (b - along_y * d)
                var_x += rows[0, j] * rows[0, j]
                var_y += rows[1, j] * rows[1, j]
                dot += rows[0, j] * rows[1, j]
                most = max(most, abs(rows[0, j]), abs(rows[1, j]))
            cross = (
                (rows[0, 1] * rows[1, 2] - rows[0, 2] * rows[1, 1]) ** 2
                + (rows[0, 2] * rows[1, 0] - rows[0, 0] * rows[1, 2]) ** 2
                + (rows[0, 0] * rows[1, 1] - rows[0, 1] * rows[1, 0]) ** 2
            )
            det = cross + eps2d * (var_x + var_y + eps2d)
            if not (most < largest_pixels and det > 0):
                continue
            var_x, var_y = var_x + eps2d, var_y + eps2d
            seen[c, n] = True
            means2d[c, n, 0], means2d[c, n, 1], depths[c, n] = centre_x, centre_y, z
            ellipses[c, n, 0], ellipses[c, n, 1], ellipses[c, n, 2] = var_y / det, dot / var_y, 1 / var_y
            compensation = math.sqrt(cross / det)
            if square:
                compensation = max(compensation, compensation_floor)
            compensations[c, n] = compensation

            reach = sigmas
            if len(opacities) > 0:
                strength = opacities[n] * (compensation if antialiased else 1.0)
                if not strength >= floor:
                    continue
                reach = min(math.sqrt(2 * math.log(np.float32(max(strength / floor, 1.0)))), sigmas)
            if square:
                half = (var_x + var_y) / 2
                most = 3 * math.sqrt(half + math.sqrt(max(half * half - det, spread)))
                radius_x, radius_y = math.ceil(most), math.ceil(most)
                left, right = (
                    np.trunc((centre_x - radius_x - 0.5) / tile),
                    np.trunc((centre_x + radius_x - 1.5) / tile + 1),
                )
                top, bottom = (
                    np.trunc((centre_y - radius_y - 0.5) / tile),
                    np.trunc((centre_y + radius_y - 1.5) / tile + 1),
                )
                inside = True
            else:
                radius_x, radius_y = math.ceil(reach * math.sqrt(var_x)), math.ceil(reach * math.sqrt(var_y))
                left, right = math.floor((centre_x - radius_x) / tile), math.ceil((centre_x + radius_x) / tile)
                top, bottom = math.floor((centre_y - radius_y) / tile), math.ceil((centre_y + radius_y) / tile)
                inside = (
                    centre_x + radius_x > 0
                    and centre_x - radius_x < width
                    and centre_y + radius_y > 0
                    and centre_y - radius_y < height
                )
            left, right = min(max(left, 0) * tile, width), min(max(right, 0) * tile, width)
            top, bottom = min(max(top, 0) * tile, height), min(max(bottom, 0) * tile, height)
            if inside and left < right and top < bottom and max(radius_x, radius_y) > radius_clip:
                radii[c, n, 0], radii[c, n, 1] = radius_x, radius_y
                rectangles[c, n, 0], rectangles[c, n, 1] = left, top
                rectangles[c, n, 2], rectangles[c, n, 3] = right, bottom


@compiled(**_OPTIONS)
def project_backward(
    low, high, means, quats, scales, views, intrinsics, size, eps2d, compensation_floor, square, seen,
    to_means2d, to_depths, to_ellipses, to_compensations, of_means, of_quats, of_scales, of_views, of_intrinsics,
):  # fmt: skip
    """Gradients of `project` for the Gaussians from `low` to `high` - 1.

    Args:
        seen: from `project`.
        to_means2d (C, N, 2), to_depths (C, N), to_ellipses (C, N, 3), to_compensations (C, N): gradients of the results.
        of_means (N, 3), of_quats (N, 4), of_scales (N, 3): gradients, to be filled.
        of_views (C, 4, 4), of_intrinsics (C, 3, 3): float64 sums over these Gaussians, to be added to; both may have C = 0.
    """
    width, height = size
    rotation, axes, to_axes = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    ahead, to_ahead = np.empty((3, 3)), np.empty((3, 3))  # axes in the coordinates of the camera
    rows, to_rows = np.empty((2, 3)), np.empty((2, 3))
    for n in range(low, high):
        length = 0.0
        to_axes[:] = 0
        mean_x, mean_y, mean_z = 0.0, 0.0, 0.0
        for c in range(len(views)):
            if not seen[c, n]:
                continue
            if length == 0:
                length = _axes(quats, scales, n, rotation, axes)
            view, k = views[c], intrinsics[c]
            x, y, z = _seen_from(view, means, n)
            fx, fy, cx, cy = k[0, 0], k[1, 1], k[0, 2], k[1, 2]
            slope_x, slope_y = x / z, y / z
            along_x, along_y = _limited(slope_x, fx, cx, width), _limited(slope_y, fy, cy, height)
            var_x, var_y, dot = 0.0, 0.0, 0.0
            for j in range(3):
                ahead[0, j], ahead[1, j], ahead[2, j] = _turned(view, axes, j)
                rows[0, j] = fx / z * (ahead[0, j] - along_x * ahead[2, j])
                rows[1, j] = fy / z * (ahead[1, j] - along_y * ahead[2, j])
                var_x += rows[0, j] * rows[0, j]
                var_y += rows[1, j] * rows[1, j]
                dot += rows[0, j] * rows[1, j]
            cross_x = rows[0, 1] * rows[1, 2] - rows[0, 2] * rows[1, 1]
            cross_y = rows[0, 2] * rows[1, 0] - rows[0, 0] * rows[1, 2]
            cross_z = rows[0, 0] * rows[1, 1] - rows[0, 1] * rows[1, 0]
            cross = cross_x * cross_x + cross_y * cross_y + cross_z * cross_z
            det = cross + eps2d * (var_x + var_y + eps2d)
            var_y += eps2d

            # ellipses and compensations -> variances, product and determinant of the rows
            to_a, to_k, to_q = float(to_ellipses[c, n, 0]), float(to_ellipses[c, n, 1]), float(to_ellipses[c, n, 2])
            to_det = -to_a * var_y / (det * det)
            to_var_y = to_a / det - (to_k * dot + to_q) / (var_y * var_y)
            to_dot = to_k / var_y
            to_cross = 0.0
            ratio = cross / det
            if ratio > 0 and not (square and math.sqrt(ratio) < compensation_floor):
                to_ratio = float(to_compensations[c, n]) / (2 * math.sqrt(ratio))
                to_cross = to_ratio / det
                to_det -= to_ratio * ratio / det
            to_cross += to_det
            to_var_x = eps2d * to_det
            to_var_y += eps2d * to_det

            # -> rows
            gx, gy, gz = 2 * to_cross * cross_x, 2 * to_cross * cross_y, 2 * to_cross * cross_z
            to_rows[0, 0] = rows[1, 1] * gz - rows[1, 2] * gy
            to_rows[0, 1] = rows[1, 2] * gx - rows[1, 0] * gz
            to_rows[0, 2] = rows[1, 0] * gy - rows[1, 1] * gx
            to_rows[1, 0] = gy * rows[0, 2] - gz * rows[0, 1]
            to_rows[1, 1] = gz * rows[0, 0] - gx * rows[0, 2]
            to_rows[1, 2] = gx * rows[0, 1] - gy * rows[0, 0]
            for j in range(3):
                to_rows[0, j] += 2 * to_var_x * rows[0, j] + to_dot * rows[1, j]
                to_rows[1, j] += 2 * to_var_y * rows[1, j] + to_dot * rows[0, j]

            # -> axes, slopes, and scales of the image (focal length by depth)
            to_along_x, to_along_y, to_unit_x, to_unit_y = 0.0, 0.0, 0.0, 0.0
            for j in range(3):
                to_ahead[0, j], to_ahead[1, j] = fx / z * to_rows[0, j], fy / z * to_rows[1, j]
                to_ahead[2, j] = -along_x * to_ahead[0, j] - along_y * to_ahead[1, j]
                to_along_x -= to_ahead[0, j] * ahead[2, j]
                to_along_y -= to_ahead[1, j] * ahead[2, j]
                to_unit_x += to_rows[0, j] * (ahead[0, j] - along_x * ahead[2, j])
                to_unit_y += to_rows[1, j] * (ahead[1, j] - along_y * ahead[2, j])

            # -> the centre in the coordinates of the camera
            to_x, to_y = float(to_means2d[c, n, 0]), float(to_means2d[c, n, 1])
            to_fx, to_fy = to_x * slope_x + to_unit_x / z, to_y * slope_y + to_unit_y / z
            to_cx, to_cy = to_x, to_y
            to_slope_x, to_slope_y = to_x * fx, to_y * fy
            if along_x == slope_x:
                to_slope_x += to_along_x
            else:  # a limit, which depends on the camera alone
                to_fx -= to_along_x * along_x / fx
                to_cx -= to_along_x / fx
            if along_y == slope_y:
                to_slope_y += to_along_y
            else:
                to_fy -= to_along_y * along_y / fy
                to_cy -= to_along_y / fy
            to_x, to_y = to_slope_x / z, to_slope_y / z
            to_z = (
                float(to_depths[c, n]) - to_x * slope_x - to_y * slope_y - (to_unit_x * fx + to_unit_y * fy) / (z * z)
            )

            # -> the Gaussian, and the camera
            mean_x += view[0, 0] * to_x + view[1, 0] * to_y + view[2, 0] * to_z
            mean_y += view[0, 1] * to_x + view[1, 1] * to_y + view[2, 1] * to_z
            mean_z += view[0, 2] * to_x + view[1, 2] * to_y + view[2, 2] * to_z
            for i in range(3):
                for j in range(3):
                    to_axes[i, j] += (
                        view[0, i] * to_ahead[0, j] + view[1, i] * to_ahead[1, j] + view[2, i] * to_ahead[2, j]
                    )
            if len(of_views) > 0:
                for i in range(3):
                    given = to_x if i == 0 else to_y if i == 1 else to_z
                    of_views[c, i, 3] += given
                    for j in range(3):
                        of_views[c, i, j] += given * means[n, j] + (
                            to_ahead[i, 0] * axes[j, 0] + to_ahead[i, 1] * axes[j, 1] + to_ahead[i, 2] * axes[j, 2]
                        )
                of_intrinsics[c, 0, 0] += to_fx
                of_intrinsics[c, 1, 1] += to_fy
                of_intrinsics[c, 0, 2] += to_cx
                of_intrinsics[c, 1, 2] += to_cy

        of_means[n, 0], of_means[n, 1], of_means[n, 2] = mean_x, mean_y, mean_z
        for j in range(3):
            of_scales[n, j] = 0
        for j in range(4):
            of_quats[n, j] = 0
        if length == 0:
            continue
        for j in range(3):
            of_scales[n, j] = (
                to_axes[0, j] * rotation[0, j] + to_axes[1, j] * rotation[1, j] + to_axes[2, j] * rotation[2, j]
            )
            for i in range(3):
                to_axes[i, j] *= scales[n, j]
        t = to_axes  # from here on, the gradient of the rotation
        w, x, y, z = quats[n, 0] / length, quats[n, 1] / length, quats[n, 2] / length, quats[n, 3] / length
        to_w = 2 * (x * (t[2, 1] - t[1, 2]) + y * (t[0, 2] - t[2, 0]) + z * (t[1, 0] - t[0, 1]))
        to_x = 2 * (
            y * (t[0, 1] + t[1, 0]) + z * (t[0, 2] + t[2, 0]) + w * (t[2, 1] - t[1, 2]) - 2 * x * (t[1, 1] + t[2, 2])
        )
        to_y = 2 * (
            x * (t[0, 1] + t[1, 0]) + z * (t[1, 2] + t[2, 1]) + w * (t[0, 2] - t[2, 0]) - 2 * y * (t[0, 0] + t[2, 2])
        )
        to_z = 2 * (
            x * (t[0, 2] + t[2, 0]) + y * (t[1, 2] + t[2, 1]) + w * (t[1, 0] - t[0, 1]) - 2 * z * (t[0, 0] + t[1, 1])
        )
        along = to_w * w + to_x * x + to_y * y + to_z * z  # the length of a quaternion changes nothing
        of_quats[n, 0] = (to_w - along * w) / length
        of_quats[n, 1] = (to_x - along * x) / length
        of_quats[n, 2] = (to_y - along * y) / length
        of_quats[n, 3] = (to_z - along * z) / length


__all__ = ["project", "project_backward"]
