"""Compiled loops that read one level of a HexPlane at many points, and their gradient.

A point reads four cells of three planes of space, and two cells of three rows. The channels of a cell lie together, so that each
cell is one line of memory, of which 8 channels at a time are one vector. Everything but vectors (`lanes.py`) is in this file, because
numba's cache only notices changes of a function's own file.

Shapes: n points, C channels (a multiple of 8), R cells along an axis. `space` is (3, R, R, C) for the planes (x, y), (x, z), (y, z),
the second axis of space first; `rows` is (3, R, C) for x, y, z. All float32 and contiguous.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from visionzoo.splatting.compiling import compiled
from visionzoo.splatting.lanes import FAST, LANES, load, store, total

LANES_CHECKSUM = 0x8E5A5D06
"""Of `lanes.py`; changing it here makes numba compile this file again."""

_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": set(FAST), "error_model": "numpy"}
_f = np.float32
_ONE, _ZERO, _HALF = _f(1), _f(0), _f(0.5)


@njit(inline="always")
def _place(position, last):
    """A coordinate in [-1, 1] in units of cells, and within [0, last]."""
    return min(max((position + _ONE) * (last * _HALF), _ZERO), last)


@njit(inline="always")
def _mix(table, at, step, share):
    """Between the cells at `at` and `at + step`, and their difference."""
    low = load(table, at)
    difference = load(table, at + step) - low
    return low + difference * share, difference


@compiled(**_OPTIONS)
def read(places, space, rows, out, column):
    """Write the product of the six samples of each point into C columns of `out` (n, …), from `column`.

    `places` (n, 3) are in [-1, 1]; what lies outside reads the border.
    """
    cells, channels, width = space.shape[1], space.shape[3], out.shape[1]
    last = _f(cells - 1)
    line, plane = cells * channels, cells * cells * channels
    for n in range(len(places)):
        x, y, z = _place(places[n, 0], last), _place(places[n, 1], last), _place(places[n, 2], last)
        i, j, k = min(int(x), cells - 2), min(int(y), cells - 2), min(int(z), cells - 2)
        a, b, c = x - _f(i), y - _f(j), z - _f(k)
        xy, xz, yz = j * line + i * channels, plane + k * line + i * channels, 2 * plane + k * line + j * channels
        xt, yt, zt = i * channels, line + j * channels, 2 * line + k * channels
        at = n * width + column
        for m in range(0, channels, LANES):
            low, _ = _mix(space, xy + m, channels, a)
            high, _ = _mix(space, xy + line + m, channels, a)
            product = low + (high - low) * b
            low, _ = _mix(space, xz + m, channels, a)
            high, _ = _mix(space, xz + line + m, channels, a)
            product = product * (low + (high - low) * c)
            low, _ = _mix(space, yz + m, channels, b)
            high, _ = _mix(space, yz + line + m, channels, b)
            product = product * (low + (high - low) * c)
            along_x, _ = _mix(rows, xt + m, channels, a)
            along_y, _ = _mix(rows, yt + m, channels, b)
            along_z, _ = _mix(rows, zt + m, channels, c)
            store(out, at + m, product * along_x * along_y * along_z)


@njit(inline="always")
def _add(table, at, value):
    store(table, at, load(table, at) + value)


@njit(inline="always")
def _add_pair(table, at, step, value, share):
    """Add to the two cells that a linear sample has read."""
    second = value * share
    _add(table, at, value - second)
    _add(table, at + step, second)


@compiled(**_OPTIONS)
def read_backward(places, space, rows, gradient, column, to_places, to_space, to_rows):
    """Add the gradient of `read` to `to_places` (n, 3), `to_space` and `to_rows`; `gradient` (n, …) is that of `out`.

    Points are taken in their order by one thread, so the sums are the same in every run.
    """
    cells, channels, width = space.shape[1], space.shape[3], gradient.shape[1]
    last = _f(cells - 1)
    unit = last * _HALF
    line, plane = cells * channels, cells * cells * channels
    for n in range(len(places)):
        x, y, z = _place(places[n, 0], last), _place(places[n, 1], last), _place(places[n, 2], last)
        i, j, k = min(int(x), cells - 2), min(int(y), cells - 2), min(int(z), cells - 2)
        a, b, c = x - _f(i), y - _f(j), z - _f(k)
        xy, xz, yz = j * line + i * channels, plane + k * line + i * channels, 2 * plane + k * line + j * channels
        xt, yt, zt = i * channels, line + j * channels, 2 * line + k * channels
        at = n * width + column
        to_x, to_y, to_z = _ZERO, _ZERO, _ZERO
        for m in range(0, channels, LANES):
            xy_low, xy_low_slope = _mix(space, xy + m, channels, a)
            xy_high, xy_high_slope = _mix(space, xy + line + m, channels, a)
            xz_low, xz_low_slope = _mix(space, xz + m, channels, a)
            xz_high, xz_high_slope = _mix(space, xz + line + m, channels, a)
            yz_low, yz_low_slope = _mix(space, yz + m, channels, b)
            yz_high, yz_high_slope = _mix(space, yz + line + m, channels, b)
            along_x, x_slope = _mix(rows, xt + m, channels, a)
            along_y, y_slope = _mix(rows, yt + m, channels, b)
            along_z, z_slope = _mix(rows, zt + m, channels, c)
            of_xy, of_xz = xy_low + (xy_high - xy_low) * b, xz_low + (xz_high - xz_low) * c
            of_yz = yz_low + (yz_high - yz_low) * c
            given = load(gradient, at + m)
            first, second, third = given * of_xy * of_xz, of_yz * along_z, along_x * along_y
            both = given * third * second
            to_xy, to_xz, to_yz = both * of_xz, both * of_xy, first * third * along_z
            pair = first * second
            to_xt, to_yt, to_zt = pair * along_y, pair * along_x, first * third * of_yz
            to_x += total(
                to_xy * (xy_low_slope + (xy_high_slope - xy_low_slope) * b)
                + to_xz * (xz_low_slope + (xz_high_slope - xz_low_slope) * c)
                + to_xt * x_slope
            )
            to_y += total(
                to_xy * (xy_high - xy_low)
                + to_yz * (yz_low_slope + (yz_high_slope - yz_low_slope) * c)
                + to_yt * y_slope
            )
            to_z += total(to_xz * (xz_high - xz_low) + to_yz * (yz_high - yz_low) + to_zt * z_slope)
            _add_pair(to_space, xy + m, channels, to_xy * (_ONE - b), a)
            _add_pair(to_space, xy + line + m, channels, to_xy * b, a)
            _add_pair(to_space, xz + m, channels, to_xz * (_ONE - c), a)
            _add_pair(to_space, xz + line + m, channels, to_xz * c, a)
            _add_pair(to_space, yz + m, channels, to_yz * (_ONE - c), b)
            _add_pair(to_space, yz + line + m, channels, to_yz * c, b)
            _add_pair(to_rows, xt + m, channels, to_xt, a)
            _add_pair(to_rows, yt + m, channels, to_yt, b)
            _add_pair(to_rows, zt + m, channels, to_zt, c)
        if _ZERO < x < last:
            to_places[n, 0] += to_x * unit
        if _ZERO < y < last:
            to_places[n, 1] += to_y * unit
        if _ZERO < z < last:
            to_places[n, 2] += to_z * unit


__all__ = ["read", "read_backward"]
