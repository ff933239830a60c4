"""The NumPy functions that can be traced, each as the tensor IR it means.

Importing this module fills ``trace.UFUNCS`` and ``trace.FUNCTIONS``. The meaning of every entry is
NumPy's own; a test compares each with NumPy on random arrays.

Non-goals: keyword arguments that change nothing of the mathematics (``out``, ``order``,
``casting``).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex, cast

import numpy as np

from gradc.ir.tensor.core import DType, Value
from gradc.runtime.tracing.trace import DTYPES, FUNCTIONS, UFUNCS, Trace, Traced, refuse

_FLOAT_UNARY = {
    name: name for name in ("exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tan", "tanh")
}
_UNARY = {"negative": "neg", "absolute": "abs", "floor": "floor", "rint": "round", "sign": "sign"}
_BINARY = {"add": "add", "subtract": "sub", "multiply": "mul", "maximum": "max", "minimum": "min"}
_COMPARE = {
    "equal": "eq",
    "not_equal": "ne",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
}
_LOGICAL = {"logical_and": "logical_and", "logical_or": "logical_or"}


def _unary(verb: str, is_float: bool) -> Callable[[Trace, object], Value]:
    def rule(t: Trace, x: object) -> Value:
        value = t.lift(x)
        return t.emit(verb, t.as_float(value) if is_float else value)

    return rule


def _binary(verb: str) -> Callable[[Trace, object, object], Value]:
    def rule(t: Trace, a: object, b: object) -> Value:
        return t.emit(verb, *t.promote([a, b]))

    return rule


def _logical(verb: str) -> Callable[[Trace, object, object], Value]:
    def rule(t: Trace, a: object, b: object) -> Value:
        x, y = (truth(t, v) for v in t.promote([a, b]))
        return t.emit(verb, x, y)

    return rule


def truth(t: Trace, value: Value) -> Value:
    """A boolean: itself, or whether a number is not zero."""
    if value.type.dtype is DType.BOOL:
        return value
    return t.emit("ne", value, t.constant(0, value.type.dtype, value.type.shape))


def _true_divide(t: Trace, a: object, b: object) -> Value:
    x, y = t.promote([a, b])
    return t.emit("div", t.as_float(x), t.as_float(y))


def _power(t: Trace, a: object, b: object) -> Value:
    x, y = t.promote([a, b])
    return t.emit("pow", t.as_float(x), t.as_float(y))


def _square(t: Trace, x: object) -> Value:
    value = t.lift(x)
    return t.emit("mul", value, value)


def _reciprocal(t: Trace, x: object) -> Value:
    value = t.as_float(t.lift(x))
    return t.emit("div", t.constant(1.0, value.type.dtype, value.type.shape), value)


def _logical_not(t: Trace, x: object) -> Value:
    return t.emit("logical_not", truth(t, t.lift(x)))


def _matmul(t: Trace, a: object, b: object) -> Value:
    """numpy.matmul: vectors are promoted, leading axes broadcast."""
    x, y = _pair(t, a, b)
    if x.type.rank == 0 or y.type.rank == 0:
        raise refuse("GC0558", "matmul takes no scalars; use *")
    left_is_vector, right_is_vector = x.type.rank == 1, y.type.rank == 1
    if left_is_vector:
        x = reshape(t, x, (1, *x.type.static_shape))
    if right_is_vector:
        y = reshape(t, y, (*y.type.static_shape, 1))
    shape = _batch_shape(t, x, y)
    rank = len(shape)
    x = t.broadcast(x, (*shape, *x.type.static_shape[-2:]))
    y = t.broadcast(y, (*shape, *y.type.static_shape[-2:]))
    pairs = tuple((i, i) for i in range(rank))
    out = t.emit("contract", x, y, batch=pairs, contract=((rank + 1, rank),))
    kept = list(out.type.static_shape)
    if right_is_vector:
        del kept[-1]
    if left_is_vector:
        del kept[rank]
    return reshape(t, out, tuple(kept))


def _pair(t: Trace, a: object, b: object) -> tuple[Value, Value]:
    """Two operands in their common type, shapes as they are."""
    x, y = t.common([a, b])
    return x, y


def _batch_shape(t: Trace, x: Value, y: Value) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(x.type.static_shape[:-2], y.type.static_shape[:-2])
    except ValueError:
        message = f"leading axes do not broadcast: {x.type} @ {y.type}"
        raise refuse("GC0558", message) from None


def reshape(t: Trace, value: Value, shape: tuple[int, ...]) -> Value:
    return value if value.type.shape == shape else t.emit("reshape", value, shape=shape)


UFUNCS.update({name: _unary(verb, True) for name, verb in _FLOAT_UNARY.items()})
UFUNCS.update({name: _unary(verb, False) for name, verb in _UNARY.items()})
UFUNCS.update({name: _binary(verb) for name, verb in (_BINARY | _COMPARE).items()})
UFUNCS.update({name: _logical(verb) for name, verb in _LOGICAL.items()})
UFUNCS.update(
    {
        "divide": _true_divide,
        "power": _power,
        "float_power": _power,
        "square": _square,
        "reciprocal": _reciprocal,
        "logical_not": _logical_not,
        "matmul": _matmul,
        "fabs": _unary("abs", True),
        "positive": lambda t, x: t.lift(x),
    }
)


def axes_of(value: Value, axis: object) -> tuple[int, ...]:
    """``axis`` as sorted, non-negative axes of ``value``; None means all."""
    return axes_of_rank(value.type.rank, axis)


def axis_of(value: Value, axis: object) -> int:
    """One axis of ``value``, from 0."""
    (found,) = axes_of_rank(value.type.rank, (axis,))
    return found


def axes_of_rank(rank: int, axis: object) -> tuple[int, ...]:
    """``axis`` as sorted, non-negative axes of ``rank`` ones; None means all."""
    if axis is None:
        return tuple(range(rank))
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    found = [operator.index(cast("SupportsIndex", a)) for a in given]
    if any(not -rank <= a < rank for a in found) or len({a % rank for a in found}) != len(found):
        raise refuse("GC0558", f"axis {axis} does not suit an array of {rank} axes")
    return tuple(sorted(a % rank for a in found))


def _where(t: Trace, condition: object, a: object, b: object) -> Traced:
    x, y = t.promote([a, b])
    chosen = truth(t, t.lift(condition))
    shape = t.broadcast_shape([chosen, x])
    return t.wrap(t.emit("select", *(t.broadcast(v, shape) for v in (chosen, x, y))))


def _transpose(t: Trace, a: object, axes: object = None) -> Traced:
    value = t.lift(a)
    if axes is None:
        perm = tuple(reversed(range(value.type.rank)))
    else:
        perm = tuple(axis_of(value, x) for x in cast("Sequence[SupportsIndex]", axes))
        if sorted(perm) != list(range(value.type.rank)):
            raise refuse("GC0558", f"axes {axes} do not turn an array of {value.type.rank} axes")
    return t.wrap(t.emit("transpose", value, perm=perm))


def _swapaxes(t: Trace, a: object, axis1: int, axis2: int) -> Traced:
    value = t.lift(a)
    axis1, axis2 = axis_of(value, axis1), axis_of(value, axis2)
    perm = list(range(value.type.rank))
    perm[axis1], perm[axis2] = perm[axis2], perm[axis1]
    return _transpose(t, a, perm)


def _reshaped(t: Trace, a: object, shape: object) -> Traced:
    value = t.lift(a)
    given = shape if isinstance(shape, (tuple, list)) else (shape,)
    extents = [operator.index(cast("SupportsIndex", n)) for n in given]
    size = math.prod(value.type.static_shape)
    known = int(np.prod([n for n in extents if n != -1], dtype=np.int64))
    if extents.count(-1) == 1 and known and size % known == 0:
        extents[extents.index(-1)] = size // known
    if int(np.prod(extents, dtype=np.int64)) != size or min(extents, default=0) < 0:
        raise refuse("GC0558", f"{value.type} cannot be reshaped to {list(given)}")
    return t.wrap(reshape(t, value, tuple(extents)))


def _concatenate(
    t: Trace,
    arrays: Sequence[object],
    axis: int | None = 0,
    out: object = None,
    *,
    dtype: Any = None,
    casting: str = "same_kind",
) -> Traced:
    values = t.common(list(arrays))
    if axis is None:
        values, axis = [reshape(t, v, (math.prod(v.type.static_shape),)) for v in values], 0
    if values[0].type.rank == 0:
        raise refuse("GC0558", "arrays without axes cannot be concatenated", "use numpy.stack")
    (where,) = axes_of(values[0], axis)
    made = t.wrap(t.emit("concat", *values, axis=where))
    return made if dtype is None else _astype(t, made, dtype)


def _stack(
    t: Trace, arrays: Sequence[object], axis: int = 0, out: object = None, **options: Any
) -> Traced:
    return _concatenate(t, [_expand_dims(t, a, axis) for a in arrays], axis, **options)


def _expand_dims(t: Trace, a: object, axis: object) -> Traced:
    value = t.lift(a)
    count = len(axis) if isinstance(axis, (tuple, list)) else 1
    rank = value.type.rank + count
    where = axes_of_rank(rank, axis)
    sizes = iter(value.type.static_shape)
    return t.wrap(reshape(t, value, tuple(1 if i in where else next(sizes) for i in range(rank))))


def _broadcast_to(t: Trace, a: object, shape: Sequence[int]) -> Traced:
    return t.wrap(t.broadcast(t.lift(a), tuple(shape)))


def _dot(t: Trace, a: object, b: object) -> Traced:
    """numpy.dot, for which more than two axes contract the last with the last but one."""
    x, y = _pair(t, a, b)
    if x.type.rank == 0 or y.type.rank == 0:
        return t.wrap(t.emit("mul", *t.promote([a, b])))
    axes = ((x.type.rank - 1, max(y.type.rank - 2, 0)),)
    return t.wrap(t.emit("contract", x, y, batch=(), contract=axes))


def _clip(t: Trace, a: object, a_min: object = None, a_max: object = None) -> Traced:
    value: object = a
    if a_min is not None:
        value = t.wrap(t.emit("max", *t.promote([value, a_min])))
    if a_max is not None:
        value = t.wrap(t.emit("min", *t.promote([value, a_max])))
    return t.wrap(t.lift(value))


def _astype(t: Trace, a: object, dtype: Any, copy: bool = True) -> Traced:
    name = np.dtype(dtype).name
    if not copy and type(a) is Traced and a.dtype.name == name:
        return a
    if name not in DTYPES:
        raise refuse("GC0557", f"dtype {name} is not supported")
    return t.wrap(t.cast(t.lift(a), DTYPES[name]))


FUNCTIONS.update(
    {
        "where": _where,
        "transpose": _transpose,
        "swapaxes": _swapaxes,
        "reshape": _reshaped,
        "ravel": lambda t, a: _reshaped(t, a, -1),
        "concatenate": _concatenate,
        "stack": _stack,
        "expand_dims": _expand_dims,
        "broadcast_to": _broadcast_to,
        "dot": _dot,
        "clip": _clip,
        "astype": _astype,
    }
)
