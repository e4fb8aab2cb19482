"""Compiled loops of the CPU renderer: splatting in order of depth in bands of rows, and its gradient.

An image is divided into bands of 16 rows. Each band draws its Gaussians in order of depth, so the operations on a pixel have
the same order however the bands are distributed over threads. In the backward pass, each pair of a band and a Gaussian has
its own place for a partial gradient, and these are added in the order of the bands. Results are therefore bit-equal for any
number of threads.

Pixels are processed in blocks of 8 neighbours of a row, as vectors (`lanes.py`). All values of a block are stored in one record: 8
transmittances, then the next value of the 8 pixels, and so on.

The functions release the GIL; `cpu.py` runs them in Python threads. numba's own threads are not used: they would change the
number of torch's threads and could not be forked. Everything else is in this file because numba's cache only detects changes in a
function's own file.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from .compiling import compiled
from .lanes import FAST, LANES, floor, load, ramp, store, times_power, total, where

LANES_CHECKSUM = 0x8E5A5D06
"""Of `lanes.py`; changing it here makes numba compile this file again."""

ROWS = 16
"""Number of rows in a band."""

HEAD = 6
"""Columns of a table before the features: mean x, mean y, a, k, q (see `Projection.ellipses`), log2 of the opacity."""

SUMS = 6
"""Columns of a partial gradient before those of the features."""

OPEN = 1 << 30
"""Marks a pixel that is never closed, instead of the place at which it is closed."""

_f = np.float32
_TILE = 16
_FLOOR = _f(1 / 255)
_TINY = _f(1e-30)
_LOG2_FLOOR = math.log2(1 / 255) - 1e-3
"""Slightly below the minimum alpha, so that rounding never skips a pixel that reaches it."""
_HALF_LOG2_E = 0.5 * math.log2(math.e)
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": set(FAST), "error_model": "numpy"}

# 2^f for f in [-0.5, 0.5], least squares at Chebyshev nodes: relative error below 2e-7
_E0, _E1, _E2, _E3, _E4, _E5 = map(_f, (1.00000007, 0.69314695, 0.24022122, 0.05550743, 0.00967546, 0.0013267))


@njit(inline="always")
def _exp2(z):
    z = where(z, _f(-60), z, _f(-60))
    whole = floor(z + _f(0.5))
    f = z - whole
    return times_power(((((f * _E5 + _E4) * f + _E3) * f + _E2) * f + _E1) * f + _E0, whole)


@njit(inline="always")
def _abs(a):
    return where(a, _f(0), a, _f(0) - a)


# Drawing


@njit(inline="always")
def _blocks(centre, peak, per_slope, left, right):
    """The blocks (first, last + 1) of a row with an alpha of at least 1/255, and the x offset of the first pixel from the centre.

    Args:
        centre: x at which the Gaussian is strongest in this row.
        peak: log2 of alpha there.
        per_slope: x² per unit by which log2 of alpha falls.
    """
    room = (peak - _LOG2_FLOOR) * per_slope
    if room < 0:
        return 0, 0, _f(0)
    half = math.sqrt(room)
    first = int(max(float(left), math.ceil(centre - half - 0.5)))
    last = int(min(float(right), math.floor(centre + half - 0.5) + 1))
    if first >= last:
        return 0, 0, _f(0)
    first >>= 3
    return first, (last + 7) >> 3, _f(first * 8 + 0.5 - centre)


@njit(inline="always")
def _trim(alive, left, right, place):
    """Skip the tiles at both ends in which no pixel is open after this place."""
    first, last = left // _TILE, (right - 1) // _TILE
    while first <= last and alive[first] <= place:
        first += 1
    while last >= first and alive[last] <= place:
        last -= 1
    return max(left, first * _TILE), min(right, (last + 1) * _TILE)


@compiled(**_OPTIONS)
def draw(low, high, layout, starts, entries, boxes, table, width, height, cap, threshold, image, depth, left, closed):
    """Draw the bands from `low` to `high` - 1.

    Args:
        layout: a tuple with one number per feature. Only its length matters, which is part of its type and thus known to the
            compiler.
        starts, entries, boxes, table: see `bands.arrange`.
        cap: maximum alpha.
        threshold: a pixel is closed before its transmittance would fall below this.
        image: (H, W, D) sums of weighted features, to be filled.
        depth: (H, W) sum of the last feature, to be filled.
        left: (H, W) remaining transmittances after the last Gaussian, to be filled.
        closed: (H, W) int32, the entry of the band that closed the pixel, or OPEN; to be filled.
    """
    channels = len(layout)
    per_row = (width + 7) // 8
    stride = (channels + 2) * LANES  # transmittance (negative once closed), place of closing, features
    record = np.empty(ROWS * per_row * stride, np.float32)
    alive = np.empty((width + _TILE - 1) // _TILE, np.int32)
    for band in range(low, high):
        top = band * ROWS
        rows = min(ROWS, height - top)
        record[:] = _f(0)
        for row in range(rows):
            for x in range(width):
                at = (row * per_row + (x >> 3)) * stride + (x & 7)
                record[at] = _f(1)
                record[at + LANES] = _f(OPEN)
        alive[:] = OPEN
        work = 0
        begin = starts[band]
        for s in range(begin, starts[band + 1]):
            i = entries[s]
            box_left, box_right = _trim(alive, boxes[i, 0], boxes[i, 1], 0)
            centre_x, centre_y = float(table[i, 0]), float(table[i, 1])
            turn, fall = float(table[i, 3]), _HALF_LOG2_E * float(table[i, 4])
            slope = _HALF_LOG2_E * float(table[i, 2])
            per_slope = 1 / slope
            place = _f(s - begin)
            for y in range(max(boxes[i, 2], top), min(boxes[i, 3], top + rows)):
                dy = y + 0.5 - centre_y
                peak = float(table[i, 5]) - fall * dy * dy
                first, last, x = _blocks(centre_x + turn * dy, peak, per_slope, box_left, box_right)
                work += last - first
                at = ((y - top) * per_row + first) * stride
                for _ in range(first, last):
                    before = load(record, at)
                    e = ramp() + x
                    alpha = _exp2(_f(peak) - e * e * _f(slope))
                    alpha = where(cap, alpha, alpha, cap)
                    alpha = where(alpha, _FLOOR, alpha, _f(0))
                    alpha = where(before, _TINY, alpha, _f(0))
                    after = before - before * alpha
                    weight = where(after, threshold, before * alpha, _f(0))
                    # a closed pixel keeps its negative value and its place
                    was = load(record, at + LANES)
                    now = where(before, _TINY, place, was)
                    store(record, at + LANES, where(after, threshold, was, now))
                    shut = where(before, _TINY, _f(0) - before, before)
                    store(record, at, where(after, threshold, after, shut))
                    for channel in range(channels):
                        sums = at + (channel + 2) * LANES
                        store(record, sums, load(record, sums) + weight * table[i, HEAD + channel])
                    x += _f(8)
                    at += stride
            if work > 4 * rows * per_row:
                work = 0
                _find_open(record, alive, rows * per_row, per_row, stride)
        for row in range(rows):
            for x in range(width):
                at = (row * per_row + (x >> 3)) * stride + (x & 7)
                left[top + row, x] = abs(record[at])
                closed[top + row, x] = np.int32(record[at + LANES])
                for channel in range(channels - 1):
                    image[top + row, x, channel] = record[at + (channel + 2) * LANES]
                depth[top + row, x] = record[at + (channels + 1) * LANES]


@compiled(**_OPTIONS)
def _find_open(record, alive, blocks, per_row, stride):
    """Record for each tile whether any of its pixels is open: OPEN or 0."""
    alive[:] = 0
    for block in range(blocks):
        if total(where(load(record, block * stride), _TINY, _f(1), _f(0))) > 0:
            alive[(block % per_row) >> 1] = OPEN


@compiled(**_OPTIONS)
def undraw(
    low, high, layout, absolute, starts, entries, places, boxes, table, width, height, cap, left, closed,
    grad_image, grad_left, partial,
):  # fmt: skip
    """Compute the partial gradients of the bands from `low` to `high` - 1.

    Args:
        layout: as for `draw`, for the features with a gradient, which are the first D' of the table.
        absolute: a tuple with one number if sums of absolute values are needed, else an empty tuple.
        left, closed: from `draw`.
        grad_image: (H, W, D')
        grad_left: (H, W)
        partial: (E, SUMS + D'), to be filled at `places`. With s the gradient of the exponent, these are the sums of s, s e,
            s e², s dy, s e dy, s dy², then those of the features, then, with `absolute`, the sums of the absolute gradients
            of the mean (2 values).
    """
    channels = len(layout)
    per_row = (width + 7) // 8
    # a record: transmittance, its gradient from the Gaussians behind, place of closing, gradients of the pixel
    stride = (channels + 3) * LANES
    record = np.empty(ROWS * per_row * stride, np.float32)
    alive = np.empty((width + _TILE - 1) // _TILE, np.int32)
    colours = np.empty(channels * LANES, np.float32)
    for band in range(low, high):
        top = band * ROWS
        rows = min(ROWS, height - top)
        record[:] = _f(0)
        alive[:] = 0
        begin = starts[band]
        for row in range(rows):
            for x in range(width):
                at = (row * per_row + (x >> 3)) * stride + (x & 7)
                record[at] = left[top + row, x]
                record[at + LANES] = left[top + row, x] * grad_left[top + row, x]
                record[at + 2 * LANES] = _f(closed[top + row, x])
                alive[x // _TILE] = max(alive[x // _TILE], closed[top + row, x])
                for channel in range(channels):
                    record[at + (channel + 3) * LANES] = grad_image[top + row, x, channel]
        for s in range(starts[band + 1] - 1, begin - 1, -1):
            i = entries[s]
            box_left, box_right = _trim(alive, boxes[i, 0], boxes[i, 1], s - begin)
            centre_x, centre_y = float(table[i, 0]), float(table[i, 1])
            turn, fall = float(table[i, 3]), _HALF_LOG2_E * float(table[i, 4])
            slope = _HALF_LOG2_E * float(table[i, 2])
            per_slope = 1 / slope
            a, ak = table[i, 2], table[i, 2] * table[i, 3]
            after_place = _f(s - begin + 1)
            zero = ramp() * _f(0)
            sum_s, sum_e, sum_ee, sum_dy, sum_edy, sum_dydy = zero, zero, zero, zero, zero, zero
            abs_x, abs_y = zero, zero
            for channel in range(channels):
                store(colours, channel * LANES, zero)
            for y in range(max(boxes[i, 2], top), min(boxes[i, 3], top + rows)):
                dy = y + 0.5 - centre_y
                peak = float(table[i, 5]) - fall * dy * dy
                first, last, x = _blocks(centre_x + turn * dy, peak, per_slope, box_left, box_right)
                at = ((y - top) * per_row + first) * stride
                row_s, row_e = zero, zero
                q_dy = table[i, 4] * _f(dy)
                for _ in range(first, last):
                    e = ramp() + x
                    raw = _exp2(_f(peak) - e * e * _f(slope))
                    alpha = where(cap, raw, raw, cap)
                    alpha = where(alpha, _FLOOR, alpha, _f(0))
                    alpha = where(load(record, at + 2 * LANES), after_place, alpha, _f(0))
                    through = _f(1) / (_f(1) - alpha)
                    before = load(record, at) * through
                    weight = before * alpha
                    value = zero
                    for channel in range(channels):
                        gradient = load(record, at + (channel + 3) * LANES)
                        value = value + gradient * table[i, HEAD + channel]
                        sums = channel * LANES
                        store(colours, sums, load(colours, sums) + weight * gradient)
                    behind = load(record, at + LANES)
                    store(record, at, before)
                    store(record, at + LANES, behind + weight * value)
                    slid = where(cap, raw, alpha * (behind * through - before * value), _f(0))
                    row_s = row_s + slid
                    turned = slid * e
                    row_e = row_e + turned
                    sum_ee = sum_ee + turned * e
                    if len(absolute) > 0:
                        abs_x = abs_x + _abs(turned * a)
                        abs_y = abs_y + _abs(turned * ak - slid * q_dy)
                    x += _f(8)
                    at += stride
                sum_s, sum_e = sum_s + row_s, sum_e + row_e
                sum_dy, sum_edy = sum_dy + row_s * _f(dy), sum_edy + row_e * _f(dy)
                sum_dydy = sum_dydy + row_s * _f(dy * dy)
            place = places[s]
            partial[place, 0], partial[place, 1], partial[place, 2] = total(sum_s), total(sum_e), total(sum_ee)
            partial[place, 3], partial[place, 4], partial[place, 5] = total(sum_dy), total(sum_edy), total(sum_dydy)
            for channel in range(channels):
                partial[place, SUMS + channel] = total(load(colours, channel * LANES))
            if len(absolute) > 0:
                partial[place, SUMS + channels], partial[place, SUMS + channels + 1] = total(abs_x), total(abs_y)
