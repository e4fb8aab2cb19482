"""Vectors of 8 float32 for numba: a type of compiled code, so that no loop depends on automatic vectorisation.

`+ - * /` work on two vectors, or on a vector and a float32. Other numbers have to be converted first, as in `np.float32(2)`.

numba's cache does not notice changes of this file. Files that use it therefore state its `checksum`, which a test compares.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, register_model

LANES = 8
FAST = ("reassoc", "contract", "nsz", "arcp")
"""Not `fast`, with which numba assumes that NaN and infinity do not occur."""

_intrinsic: Any = intrinsic  # compiled code calls these without the context argument of their definition


class _LanesType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="8 x float32")


_lanes = _LanesType()
_vector = ir.VectorType(ir.FloatType(), LANES)
_integers = ir.VectorType(ir.IntType(32), LANES)


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, front: Any) -> None:
        super().__init__(manager, front, _vector)


def _spread(builder: Any, kind: Any, value: Any) -> Any:
    """Convert a scalar to a vector of 8 equal values; a vector is returned unchanged."""
    if kind == _lanes:
        return value
    one = builder.insert_element(ir.Constant(_vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, ir.Constant(_vector, ir.Undefined), ir.Constant(_integers, [0] * LANES))


def _function(build: Callable[..., Any], result: Any = _lanes) -> Any:
    """A function for compiled code whose body `build(builder, *vectors)` emits; scalar arguments become vectors."""

    def of(_context: Any, *kinds: Any) -> Any:
        def generate(_target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return build(builder, *(_spread(builder, k, v) for k, v in zip(signature.args, arguments, strict=True)))

        kinds = tuple(kind if kind == _lanes else types.float32 for kind in kinds)
        return result(*kinds), generate

    return of


@_intrinsic
def load(_context: Any, array: Any, at: Any) -> Any:
    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_address(target, builder, signature, arguments), align=4)

    return _lanes(array, at), generate


@_intrinsic
def store(_context: Any, array: Any, at: Any, value: Any) -> Any:
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
    return _function(lambda builder, a, b: builder.fadd(a, b, flags=FAST))(context, a, b)


@_intrinsic
def _sub(context: Any, a: Any, b: Any) -> Any:
    return _function(lambda builder, a, b: builder.fsub(a, b, flags=FAST))(context, a, b)


@_intrinsic
def _mul(context: Any, a: Any, b: Any) -> Any:
    return _function(lambda builder, a, b: builder.fmul(a, b, flags=FAST))(context, a, b)


@_intrinsic
def _div(context: Any, a: Any, b: Any) -> Any:
    return _function(lambda builder, a, b: builder.fdiv(a, b, flags=FAST))(context, a, b)


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
def where(context: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """`yes` where a >= b, else `no`."""

    def build(builder: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">=", a, b), yes, no)

    return _function(build)(context, a, b, yes, no)


@_intrinsic
def floor(context: Any, a: Any) -> Any:
    def build(builder: Any, a: Any) -> Any:
        kind = ir.FunctionType(_vector, [_vector])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.floor.v{LANES}f32"), [a])

    return _function(build)(context, a)


@_intrinsic
def times_power(context: Any, a: Any, n: Any) -> Any:
    """a * 2^n for integers n from -126 to 127."""

    def build(builder: Any, a: Any, n: Any) -> Any:
        whole = builder.add(builder.fptosi(n, _integers), ir.Constant(_integers, [127] * LANES))
        power = builder.bitcast(builder.shl(whole, ir.Constant(_integers, [23] * LANES)), _vector)
        return builder.fmul(a, power)

    return _function(build)(context, a, n)


@_intrinsic
def ramp(context: Any) -> Any:
    """The vector 0, 1, …, 7."""
    return _function(lambda builder: ir.Constant(_vector, [float(j) for j in range(LANES)]))(context)


@_intrinsic
def total(context: Any, a: Any) -> Any:
    """The sum of the 8 values, added pairwise."""

    def build(builder: Any, a: Any) -> Any:
        for half in (4, 2, 1):
            other = [(j + half) % LANES for j in range(LANES)]
            a = builder.fadd(a, builder.shuffle_vector(a, a, ir.Constant(_integers, other)))
        return builder.extract_element(a, ir.Constant(ir.IntType(32), 0))

    return _function(build, types.float32)(context, a)


__all__ = ["FAST", "LANES", "floor", "load", "ramp", "store", "times_power", "total", "where"]
