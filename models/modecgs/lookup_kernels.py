"""Compiled loops that read one level of a HexPlane at many points, and their gradient.

A point reads four cells of three planes of space, and two cells of three rows. The channels of a cell lie together, so that each
cell is one line of memory and a loop over channels is a loop over vectors. Everything is in this file, because numba's cache only
notices changes of a function's own file.

Shapes: n points, C channels, R cells along an axis. `space` is (3, R, R, C) for the planes (x, y), (x, z), (y, z), the second axis of
space first; `rows` is (3, R, C) for x, y, z. All float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from visionzoo.splatting.compiling import compiled

_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy"}
_f = np.float32
_ONE, _ZERO, _HALF = _f(1), _f(0), _f(0.5)


@compiled(**_OPTIONS)
def read(places, space, rows, out, column):
    """Write the product of the six samples of each point into C columns of `out` (n, …), from `column`.

    `places` (n, 3) are in [-1, 1]; what lies outside reads the border.
    """
    cells, channels = space.shape[1], space.shape[3]
    last = _f(cells - 1)
    unit = last * _HALF
    for n in range(len(places)):
        x = min(max((places[n, 0] + _ONE) * unit, _ZERO), last)
        y = min(max((places[n, 1] + _ONE) * unit, _ZERO), last)
        z = min(max((places[n, 2] + _ONE) * unit, _ZERO), last)
        i, j, k = min(int(x), cells - 2), min(int(y), cells - 2), min(int(z), cells - 2)
        a, b, c = x - _f(i), y - _f(j), z - _f(k)
        xy00, xy01, xy10, xy11 = space[0, j, i], space[0, j, i + 1], space[0, j + 1, i], space[0, j + 1, i + 1]
        xz00, xz01, xz10, xz11 = space[1, k, i], space[1, k, i + 1], space[1, k + 1, i], space[1, k + 1, i + 1]
        yz00, yz01, yz10, yz11 = space[2, k, j], space[2, k, j + 1], space[2, k + 1, j], space[2, k + 1, j + 1]
        x0, x1, y0, y1, z0, z1 = rows[0, i], rows[0, i + 1], rows[1, j], rows[1, j + 1], rows[2, k], rows[2, k + 1]
        result = out[n, column : column + channels]
        for m in range(channels):
            low, high = xy00[m] + a * (xy01[m] - xy00[m]), xy10[m] + a * (xy11[m] - xy10[m])
            product = low + b * (high - low)
            low, high = xz00[m] + a * (xz01[m] - xz00[m]), xz10[m] + a * (xz11[m] - xz10[m])
            product *= low + c * (high - low)
            low, high = yz00[m] + b * (yz01[m] - yz00[m]), yz10[m] + b * (yz11[m] - yz10[m])
            product *= low + c * (high - low)
            product *= x0[m] + a * (x1[m] - x0[m])
            product *= y0[m] + b * (y1[m] - y0[m])
            result[m] = product * (z0[m] + c * (z1[m] - z0[m]))


@compiled(**_OPTIONS)
def _add(cell, values, share):
    for m in range(len(cell)):
        cell[m] += share * values[m]


@compiled(**_OPTIONS)
def _spread(plane, row, column, values, along, up):
    """Add to the four cells that a bilinear sample has read."""
    _add(plane[row, column], values, (_ONE - along) * (_ONE - up))
    _add(plane[row, column + 1], values, along * (_ONE - up))
    _add(plane[row + 1, column], values, (_ONE - along) * up)
    _add(plane[row + 1, column + 1], values, along * up)


@compiled(**_OPTIONS)
def read_backward(places, space, rows, gradient, column, to_places, to_space, to_rows):
    """Add the gradient of `read` to `to_places` (n, 3), `to_space` and `to_rows`; `gradient` (n, …) is that of `out`.

    Points are taken in their order by one thread, so the sums are the same in every run.
    """
    cells, channels = space.shape[1], space.shape[3]
    last = _f(cells - 1)
    unit = last * _HALF
    parts = np.empty((6, channels), np.float32)
    for n in range(len(places)):
        u, v, w = (places[n, 0] + _ONE) * unit, (places[n, 1] + _ONE) * unit, (places[n, 2] + _ONE) * unit
        x, y, z = min(max(u, _ZERO), last), min(max(v, _ZERO), last), min(max(w, _ZERO), last)
        i, j, k = min(int(x), cells - 2), min(int(y), cells - 2), min(int(z), cells - 2)
        a, b, c = x - _f(i), y - _f(j), z - _f(k)
        xy00, xy01, xy10, xy11 = space[0, j, i], space[0, j, i + 1], space[0, j + 1, i], space[0, j + 1, i + 1]
        xz00, xz01, xz10, xz11 = space[1, k, i], space[1, k, i + 1], space[1, k + 1, i], space[1, k + 1, i + 1]
        yz00, yz01, yz10, yz11 = space[2, k, j], space[2, k, j + 1], space[2, k + 1, j], space[2, k + 1, j + 1]
        x0, x1, y0, y1, z0, z1 = rows[0, i], rows[0, i + 1], rows[1, j], rows[1, j + 1], rows[2, k], rows[2, k + 1]
        given = gradient[n, column : column + channels]
        to_x, to_y, to_z = _ZERO, _ZERO, _ZERO
        for m in range(channels):
            xy_low, xy_high = xy00[m] + a * (xy01[m] - xy00[m]), xy10[m] + a * (xy11[m] - xy10[m])
            xz_low, xz_high = xz00[m] + a * (xz01[m] - xz00[m]), xz10[m] + a * (xz11[m] - xz10[m])
            yz_low, yz_high = yz00[m] + b * (yz01[m] - yz00[m]), yz10[m] + b * (yz11[m] - yz10[m])
            xy, xz, yz = (
                xy_low + b * (xy_high - xy_low),
                xz_low + c * (xz_high - xz_low),
                yz_low + c * (yz_high - yz_low),
            )
            xt, yt, zt = x0[m] + a * (x1[m] - x0[m]), y0[m] + b * (y1[m] - y0[m]), z0[m] + c * (z1[m] - z0[m])
            first, second, third = given[m] * xy * xz, yz * zt, xt * yt
            by_planes, by_rows, by_pair = given[m] * third * second, first * second, first * third
            to_xy, to_xz, to_yz = by_planes * xz, by_planes * xy, by_pair * zt
            to_xt, to_yt, to_zt = by_rows * yt, by_rows * xt, by_pair * yz
            parts[0, m], parts[1, m], parts[2, m], parts[3, m], parts[4, m], parts[5, m] = (
                to_xy,
                to_xz,
                to_yz,
                to_xt,
                to_yt,
                to_zt,
            )
            slope_xy = (xy01[m] - xy00[m]) + b * ((xy11[m] - xy10[m]) - (xy01[m] - xy00[m]))
            slope_xz = (xz01[m] - xz00[m]) + c * ((xz11[m] - xz10[m]) - (xz01[m] - xz00[m]))
            slope_yz = (yz01[m] - yz00[m]) + c * ((yz11[m] - yz10[m]) - (yz01[m] - yz00[m]))
            to_x += to_xy * slope_xy + to_xz * slope_xz + to_xt * (x1[m] - x0[m])
            to_y += to_xy * (xy_high - xy_low) + to_yz * slope_yz + to_yt * (y1[m] - y0[m])
            to_z += to_xz * (xz_high - xz_low) + to_yz * (yz_high - yz_low) + to_zt * (z1[m] - z0[m])
        if _ZERO < u < last:
            to_places[n, 0] += to_x * unit
        if _ZERO < v < last:
            to_places[n, 1] += to_y * unit
        if _ZERO < w < last:
            to_places[n, 2] += to_z * unit
        _spread(to_space[0], j, i, parts[0], a, b)
        _spread(to_space[1], k, i, parts[1], a, c)
        _spread(to_space[2], k, j, parts[2], b, c)
        _add(to_rows[0, i], parts[3], _ONE - a)
        _add(to_rows[0, i + 1], parts[3], a)
        _add(to_rows[1, j], parts[4], _ONE - b)
        _add(to_rows[1, j + 1], parts[4], b)
        _add(to_rows[2, k], parts[5], _ONE - c)
        _add(to_rows[2, k + 1], parts[5], c)


__all__ = ["read", "read_backward"]
