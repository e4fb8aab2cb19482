"""Compiled loops of the CPU renderer: splatting in order of depth in bands of rows, and its gradient.

An image is divided into bands of 16 rows. Each band draws its Gaussians in order of depth, so the operations on a pixel have
the same order however the bands are distributed over threads. In the backward pass, each pair of a band and a Gaussian has
its own place for a partial gradient, and these are added in the order of the bands. Results are therefore bit-equal for any
number of threads.

Pixels are processed in blocks of 8 neighbours of a row, as vectors: a numba type for 8 numbers makes sure that no loop
depends on automatic vectorisation. All values of a block are stored in one record: 8 transmittances, then the next value of
the 8 pixels, and so on.

The functions release the GIL; `cpu.py` runs them in Python threads. numba's own threads are not used: they would change the
number of torch's threads and could not be forked. Everything is in this file because numba's cache only detects changes in a
function's own file.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, register_model

from .compiling import compiled

ROWS = 16
"""Number of rows in a band."""

HEAD = 6
"""Columns of a table before the features: mean x, mean y, a, k, q (see `Projection.ellipses`), log2 of the opacity."""

SUMS = 6
"""Columns of a partial gradient before those of the features."""

OPEN = 1 << 30
"""Marks a pixel that is never closed, instead of the place at which it is closed."""

_intrinsic: Any = intrinsic  # compiled code calls these without the context argument of their definition
_f = np.float32
_LANES = 8
_TILE = 16
_FLOOR = _f(1 / 255)
_TINY = _f(1e-30)
_LOG2_FLOOR = math.log2(1 / 255) - 1e-3
"""Slightly below the minimum alpha, so that rounding never skips a pixel that reaches it."""
_HALF_LOG2_E = 0.5 * math.log2(math.e)
_FAST = ("reassoc", "contract", "nsz", "arcp")
"""Not `fast`, with which numba assumes that NaN and infinity do not occur."""
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": set(_FAST), "error_model": "numpy"}

# Vectors of 8 float32


class _LanesType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="8 x float32")


_lanes = _LanesType()
_vector = ir.VectorType(ir.FloatType(), _LANES)
_integers = ir.VectorType(ir.IntType(32), _LANES)


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, front: Any) -> None:
        super().__init__(manager, front, _vector)


def _spread(builder: Any, kind: Any, value: Any) -> Any:
    """Convert a scalar to a vector of 8 equal values; a vector is returned unchanged."""
    if kind == _lanes:
        return value
    one = builder.insert_element(ir.Constant(_vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, ir.Constant(_vector, ir.Undefined), ir.Constant(_integers, [0] * _LANES))


def _function(build: Callable[..., Any], result: Any = _lanes) -> Any:
    """A function for compiled code whose body `build(builder, *vectors)` emits; scalar arguments become vectors."""

    def of(_context: Any, *kinds: Any) -> Any:
        def generate(_target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return build(builder, *(_spread(builder, k, v) for k, v in zip(signature.args, arguments, strict=True)))

        kinds = tuple(kind if kind == _lanes else types.float32 for kind in kinds)
        return result(*kinds), generate

    return of


@_intrinsic
def _load(_context: Any, array: Any, at: Any) -> Any:
    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_address(target, builder, signature, arguments), align=4)

    return _lanes(array, at), generate


@_intrinsic
def _store(_context: Any, array: Any, at: Any, value: Any) -> Any:
    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = _spread(builder, signature.args[2], arguments[2])
        builder.store(vector, _address(target, builder, signature, arguments), align=4)
        return target.get_dummy_value()

    return types.void(array, at, value), generate


def _address(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    data = target.make_array(signature.args[0])(target, builder, arguments[0]).data
    return builder.bitcast(builder.gep(data, [arguments[1]]), _vector.as_pointer())


@_intrinsic
def _add(context: Any, a: Any, b: Any) -> Any:
    return _function(lambda builder, a, b: builder.fadd(a, b, flags=_FAST))(context, a, b)


@_intrinsic
def _sub(context: Any, a: Any, b: Any) -> Any:
    return _function(lambda builder, a, b: builder.fsub(a, b, flags=_FAST))(context, a, b)


@_intrinsic
def _mul(context: Any, a: Any, b: Any) -> Any:
    return _function(lambda builder, a, b: builder.fmul(a, b, flags=_FAST))(context, a, b)


@_intrinsic
def _div(context: Any, a: Any, b: Any) -> Any:
    return _function(lambda builder, a, b: builder.fdiv(a, b, flags=_FAST))(context, a, b)


def _are_lanes(a: Any, b: Any) -> bool:
    return _lanes in (a, b) and all(kind in (_lanes, types.float32) for kind in (a, b))


@overload(operator.add)
def _(a, b):
    return (lambda a, b: _add(a, b)) if _are_lanes(a, b) else None


@overload(operator.sub)
def _(a, b):
    return (lambda a, b: _sub(a, b)) if _are_lanes(a, b) else None


@overload(operator.mul)
def _(a, b):
    return (lambda a, b: _mul(a, b)) if _are_lanes(a, b) else None


@overload(operator.truediv)
def _(a, b):
    return (lambda a, b: _div(a, b)) if _are_lanes(a, b) else None


@_intrinsic
def _where(context: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """`yes` where a >= b, else `no`."""

    def build(builder: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">=", a, b), yes, no)

    return _function(build)(context, a, b, yes, no)


@_intrinsic
def _floor(context: Any, a: Any) -> Any:
    def build(builder: Any, a: Any) -> Any:
        kind = ir.FunctionType(_vector, [_vector])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.floor.v{_LANES}f32"), [a])

    return _function(build)(context, a)


@_intrinsic
def _times_power(context: Any, a: Any, n: Any) -> Any:
    """a * 2^n for integers n from -126 to 127."""

    def build(builder: Any, a: Any, n: Any) -> Any:
        whole = builder.add(builder.fptosi(n, _integers), ir.Constant(_integers, [127] * _LANES))
        power = builder.bitcast(builder.shl(whole, ir.Constant(_integers, [23] * _LANES)), _vector)
        return builder.fmul(a, power)

    return _function(build)(context, a, n)


@_intrinsic
def _ramp(context: Any) -> Any:
    """The vector 0, 1, …, 7."""
    return _function(lambda builder: ir.Constant(_vector, [float(j) for j in range(_LANES)]))(context)


@_intrinsic
def _total(context: Any, a: Any) -> Any:
    """The sum of the 8 values, added pairwise."""

    def build(builder: Any, a: Any) -> Any:
        for half in (4, 2, 1):
            other = [(j + half) % _LANES for j in range(_LANES)]
            a = builder.fadd(a, builder.shuffle_vector(a, a, ir.Constant(_integers, other)))
        return builder.extract_element(a, ir.Constant(ir.IntType(32), 0))

    return _function(build, types.float32)(context, a)


# 2^f for f in [-0.5, 0.5], least squares at Chebyshev nodes: relative error below 2e-7
_E0, _E1, _E2, _E3, _E4, _E5 = map(_f, (1.00000007, 0.69314695, 0.24022122, 0.05550743, 0.00967546, 0.0013267))


@njit(inline="always")
def _exp2(z):
    z = _where(z, _f(-60), z, _f(-60))
    whole = _floor(z + _f(0.5))
    f = z - whole
    return _times_power(((((f * _E5 + _E4) * f + _E3) * f + _E2) * f + _E1) * f + _E0, whole)


@njit(inline="always")
def _abs(a):
    return _where(a, _f(0), a, _f(0) - a)


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
    stride = (channels + 2) * _LANES  # transmittance (negative once closed), place of closing, features
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
                record[at + _LANES] = _f(OPEN)
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
                    before = _load(record, at)
                    e = _ramp() + x
                    alpha = _exp2(_f(peak) - e * e * _f(slope))
                    alpha = _where(cap, alpha, alpha, cap)
                    alpha = _where(alpha, _FLOOR, alpha, _f(0))
                    alpha = _where(before, _TINY, alpha, _f(0))
                    after = before - before * alpha
                    weight = _where(after, threshold, before * alpha, _f(0))
                    # a closed pixel keeps its negative value and its place
                    was = _load(record, at + _LANES)
                    now = _where(before, _TINY, place, was)
                    _store(record, at + _LANES, _where(after, threshold, was, now))
                    shut = _where(before, _TINY, _f(0) - before, before)
                    _store(record, at, _where(after, threshold, after, shut))
                    for channel in range(channels):
                        sums = at + (channel + 2) * _LANES
                        _store(record, sums, _load(record, sums) + weight * table[i, HEAD + channel])
                    x += _f(8)
                    at += stride
            if work > 4 * rows * per_row:
                work = 0
                _find_open(record, alive, rows * per_row, per_row, stride)
        for row in range(rows):
            for x in range(width):
                at = (row * per_row + (x >> 3)) * stride + (x & 7)
                left[top + row, x] = abs(record[at])
                closed[top + row, x] = np.int32(record[at + _LANES])
                for channel in range(channels - 1):
                    image[top + row, x, channel] = record[at + (channel + 2) * _LANES]
                depth[top + row, x] = record[at + (channels + 1) * _LANES]


@compiled(**_OPTIONS)
def _find_open(record, alive, blocks, per_row, stride):
    """Record for each tile whether any of its pixels is open: OPEN or 0."""
    alive[:] = 0
    for block in range(blocks):
        if _total(_where(_load(record, block * stride), _TINY, _f(1), _f(0))) > 0:
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
    stride = (channels + 3) * _LANES
    record = np.empty(ROWS * per_row * stride, np.float32)
    alive = np.empty((width + _TILE - 1) // _TILE, np.int32)
    colours = np.empty(channels * _LANES, np.float32)
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
                record[at + _LANES] = left[top + row, x] * grad_left[top + row, x]
                record[at + 2 * _LANES] = _f(closed[top + row, x])
                alive[x // _TILE] = max(alive[x // _TILE], closed[top + row, x])
                for channel in range(channels):
                    record[at + (channel + 3) * _LANES] = grad_image[top + row, x, channel]
        for s in range(starts[band + 1] - 1, begin - 1, -1):
            i = entries[s]
            box_left, box_right = _trim(alive, boxes[i, 0], boxes[i, 1], s - begin)
            centre_x, centre_y = float(table[i, 0]), float(table[i, 1])
            turn, fall = float(table[i, 3]), _HALF_LOG2_E * float(table[i, 4])
            slope = _HALF_LOG2_E * float(table[i, 2])
            per_slope = 1 / slope
            a, ak = table[i, 2], table[i, 2] * table[i, 3]
            after_place = _f(s - begin + 1)
            zero = _ramp() * _f(0)
            sum_s, sum_e, sum_ee, sum_dy, sum_edy, sum_dydy = zero, zero, zero, zero, zero, zero
            abs_x, abs_y = zero, zero
            for channel in range(channels):
                _store(colours, channel * _LANES, zero)
            for y in range(max(boxes[i, 2], top), min(boxes[i, 3], top + rows)):
                dy = y + 0.5 - centre_y
                peak = float(table[i, 5]) - fall * dy * dy
                first, last, x = _blocks(centre_x + turn * dy, peak, per_slope, box_left, box_right)
                at = ((y - top) * per_row + first) * stride
                row_s, row_e = zero, zero
                q_dy = table[i, 4] * _f(dy)
                for _ in range(first, last):
                    e = _ramp() + x
                    raw = _exp2(_f(peak) - e * e * _f(slope))
                    alpha = _where(cap, raw, raw, cap)
                    alpha = _where(alpha, _FLOOR, alpha, _f(0))
                    alpha = _where(_load(record, at + 2 * _LANES), after_place, alpha, _f(0))
                    through = _f(1) / (_f(1) - alpha)
                    before = _load(record, at) * through
                    weight = before * alpha
                    value = zero
                    for channel in range(channels):
                        gradient = _load(record, at + (channel + 3) * _LANES)
                        value = value + gradient * table[i, HEAD + channel]
                        sums = channel * _LANES
                        _store(colours, sums, _load(colours, sums) + weight * gradient)
                    behind = _load(record, at + _LANES)
                    _store(record, at, before)
                    _store(record, at + _LANES, behind + weight * value)
                    slid = _where(cap, raw, alpha * (behind * through - before * value), _f(0))
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
            partial[place, 0], partial[place, 1], partial[place, 2] = _total(sum_s), _total(sum_e), _total(sum_ee)
            partial[place, 3], partial[place, 4], partial[place, 5] = _total(sum_dy), _total(sum_edy), _total(sum_dydy)
            for channel in range(channels):
                partial[place, SUMS + channel] = _total(_load(colours, channel * _LANES))
            if len(absolute) > 0:
                partial[place, SUMS + channels], partial[place, SUMS + channels + 1] = _total(abs_x), _total(abs_y)
