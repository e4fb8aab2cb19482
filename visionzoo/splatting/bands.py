"""Compiled loops before and after drawing: the list of Gaussians of each band of rows, and the sum of the bands' gradients.

numba's cache only detects changes in a function's own file, so compiled code here uses nothing from other files.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from .compiling import compiled

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
_LOG2_FLOOR = math.log2(1 / 255) - 1e-3
"""Slightly below the minimum alpha, so that rounding never skips a pixel that reaches it."""
_HALF_LOG2_E = 0.5 * math.log2(math.e)


@njit(inline="always")
def _pixels(centre, reach, low, high):
    """The range of pixels (first, last + 1) between low and high whose centres are within reach."""
    first = math.ceil(max(centre - reach - 0.5, -1.0))
    last = math.floor(min(centre + reach - 0.5, 1e9)) + 1
    return max(low, int(first)), min(high, int(last))


@compiled(**_OPTIONS)
def arrange(order, means, ellipses, opacities, features, depths, rectangles, height, band_rows):
    """List the Gaussians that each band draws.

    Args:
        order: (K,) indices of Gaussians in order of depth.
        means (N, 2), ellipses (N, 3), opacities (N,), features (N, D), depths (N,): float32.
        rectangles: (N, 4) int32, the pixels that each may touch: first x, first y, last x + 1, last y + 1.
        band_rows: number of rows per band.

    Returns:
        table (K, 6 + D + 1) float32, in that order; its columns are those of `kernels.py`, with the depth as the last feature.
        boxes (K, 4) int32: left, right, top, bottom of the pixels with an alpha of at least 1/255.
        starts (bands + 1) int64: the first entry of each band.
        entries (E) int32: rows of the table, by band, then by depth.
        places (E) int64: the position of an entry's partial gradient, so that those of one Gaussian are adjacent.
        firsts (K + 1) int64: the first such position of each Gaussian.
    """
    count, channels = len(order), features.shape[1]
    table = np.empty((count, 7 + channels), np.float32)
    bands = (height + band_rows - 1) // band_rows
    boxes = np.empty((count, 4), np.int32)
    starts = np.zeros(bands + 1, np.int64)
    firsts = np.zeros(count + 1, np.int64)
    for i in range(count):
        n = order[i]
        table[i, 0], table[i, 1] = means[n, 0], means[n, 1]
        table[i, 2], table[i, 3], table[i, 4] = ellipses[n, 0], ellipses[n, 1], ellipses[n, 2]
        table[i, 5] = math.log2(opacities[n])
        for channel in range(channels):
            table[i, 6 + channel] = features[n, channel]
        table[i, 6 + channels] = depths[n]
        a, k, q = float(table[i, 2]), float(table[i, 3]), float(table[i, 4])
        room = max((float(table[i, 5]) - _LOG2_FLOOR) / _HALF_LOG2_E, 0.0)  # upper bound of a e² + q dy²
        tall = math.sqrt(room / q)
        wide = math.sqrt(room * (1 / a + k * k / q))
        left, right = _pixels(float(table[i, 0]), wide, rectangles[n, 0], rectangles[n, 2])
        top, bottom = _pixels(float(table[i, 1]), tall, rectangles[n, 1], rectangles[n, 3])
        boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3] = left, right, top, bottom
        firsts[i + 1] = firsts[i]
        if left < right and top < bottom:
            low, high = top // band_rows, (bottom - 1) // band_rows + 1
            firsts[i + 1] += high - low
            for band in range(low, high):
                starts[band + 1] += 1
    for band in range(bands):
        starts[band + 1] += starts[band]
    entries = np.empty(starts[bands], np.int32)
    places = np.empty(starts[bands], np.int64)
    filled = starts[:bands].copy()
    for i in range(count):
        low = boxes[i, 2] // band_rows
        for place in range(firsts[i], firsts[i + 1]):
            band = low + place - firsts[i]
            entries[filled[band]] = i
            places[filled[band]] = place
            filled[band] += 1
    return table, boxes, starts, entries, places, firsts


@compiled(**_OPTIONS)
def collect(low, high, firsts, partial, table, order, opacities, means, ellipses, opacity, features, absolutes):
    """Sum the partial gradients of the Gaussians from `low` to `high` - 1, band after band.

    Args:
        firsts: from `arrange`.
        partial: (E, 6 + D' or, with `absolutes`, 8 + D') from `kernels.undraw`.
        order: (K,) index of the Gaussian in each row of the table.
        opacities: (N,) values of the opacities.
        means (N, 2), ellipses (N, 3), opacity (N,), features (N, D'): gradients, to be filled.
        absolutes: (N, 2) sums of absolute gradients of the means, to be filled; (0, 2) if they are not needed.
    """
    columns = partial.shape[1]
    sums = np.empty(columns, np.float32)
    for i in range(low, high):
        sums[:] = np.float32(0)
        for place in range(firsts[i], firsts[i + 1]):
            for column in range(columns):
                sums[column] += partial[place, column]
        n = order[i]
        a, k, q = table[i, 2], table[i, 3], table[i, 4]
        means[n, 0] = -a * sums[1]
        means[n, 1] = a * k * sums[1] - q * sums[3]
        ellipses[n, 0] = np.float32(0.5) * sums[2]
        ellipses[n, 1] = -a * sums[4]
        ellipses[n, 2] = np.float32(0.5) * sums[5]
        opacity[n] = -sums[0] / opacities[n]
        for channel in range(features.shape[1]):
            features[n, channel] = sums[6 + channel]
        if len(absolutes) > 0:
            absolutes[n, 0], absolutes[n, 1] = sums[columns - 2], sums[columns - 1]
