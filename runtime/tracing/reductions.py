"""NumPy's reductions as tensor IR: sums, products, extremes, moments and what counts, with NumPy's
whole signatures.

Importing this module adds to ``trace.FUNCTIONS``. Ties of ``max`` and ``min`` share their
cotangent; the deviation of equal elements (of one, say) has gradient 0, the least of its slopes.

Non-goals: ``out``, which the tracer itself handles before a rule is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gradc.ir.tensor.core import DType, Value
from gradc.runtime.tracing.functions import axes_of, reshape, truth
from gradc.runtime.tracing.trace import DTYPES, FUNCTIONS, Trace, Traced, refuse

_UNSET: Any = getattr(np, "_NoValue", None)


def is_unset(option: object) -> bool:
    """Whether an option was left out."""
    return option is None or option is _UNSET


def restore(t: Trace, reduced: Value, like: Value, axes: tuple[int, ...], keep: object) -> Value:
    """``reduced`` with its axes back as 1 where ``keep`` asks for it."""
    if is_unset(keep) or not keep:
        return reduced
    shape = tuple(1 if i in axes else n for i, n in enumerate(like.type.static_shape))
    return reshape(t, reduced, shape)


def dtype_named(dtype: Any) -> DType:
    """The element type that NumPy's ``dtype`` names."""
    name = np.dtype(dtype).name
    if name not in DTYPES:
        raise refuse("GC0557", f"dtype {name} is not supported")
    return DTYPES[name]


def count_of(value: Value, axes: tuple[int, ...]) -> int:
    """How many elements are reduced to one."""
    return math.prod(value.type.static_shape[axis] for axis in axes)


def no_out(out: object) -> None:
    """Refuses ``out`` where it reaches a rule."""
    if out is not None and out is not _UNSET:
        raise refuse("GC0560", "out= takes an array made inside the function", "use the result")


def masked(t: Trace, value: Value, where: object, neutral: float) -> Value:
    """``value`` with ``neutral`` where the mask does not hold."""
    if is_unset(where) or where is True:
        return value
    chosen = t.broadcast(truth(t, t.lift(where)), value.type.static_shape)
    if not value.type.dtype.is_float:
        neutral = int(neutral)
    other = t.constant(neutral, value.type.dtype, value.type.static_shape)
    return t.emit("select", chosen, value, other)


def _widened(t: Trace, value: Value, dtype: object) -> Value:
    if not is_unset(dtype):
        return t.cast(value, dtype_named(dtype))
    return t.cast(value, DType.I64) if value.type.dtype in (DType.BOOL, DType.I32) else value


def _total(verb: str, ufunc: str, neutral: int) -> Callable[..., Traced]:
    def rule(
        t: Trace,
        a: object,
        axis: object = None,
        dtype: object = None,
        out: object = None,
        keepdims: object = None,
        initial: object = None,
        where: object = None,
    ) -> Traced:
        no_out(out)
        value = masked(t, _widened(t, t.lift(a), dtype), where, neutral)
        axes = axes_of(value, axis)
        reduced = t.emit(verb, value, axes=axes) if axes else value
        made = restore(t, reduced, value, axes, keepdims)
        return _with_start(t, made, initial, ufunc)

    return rule


def _with_start(t: Trace, reduced: Value, initial: object, verb: str) -> Traced:
    if is_unset(initial):
        return t.wrap(reduced)
    return t.wrap(t.emit(verb, *t.promote([t.wrap(reduced), initial])))


def _extreme(name: str, verb: str, low: float) -> Callable[..., Traced]:
    def rule(
        t: Trace,
        a: object,
        axis: object = None,
        out: object = None,
        keepdims: object = None,
        initial: object = None,
        where: object = None,
    ) -> Traced:
        no_out(out)
        value = t.lift(a)
        if value.type.dtype is DType.BOOL:
            value = t.cast(value, DType.I64)
        axes = axes_of(value, axis)
        if is_unset(initial) and not is_unset(where) and where is not True:
            raise refuse("GC0560", f"numpy.{name} with `where` needs `initial`, as in NumPy")
        empty = count_of(value, axes) == 0 and math.prod(_kept(value, axes)) > 0
        if empty and is_unset(initial):
            message = f"numpy.{name} of no elements: {value.type} has none along {axes}"
            raise refuse("GC0558", message, "give `initial`, or an array with elements")
        value = masked(t, value, where, low if value.type.dtype.is_float else _least(value, low))
        reduced = t.emit(f"reduce_{verb}", value, axes=axes) if axes else value
        return _with_start(t, restore(t, reduced, value, axes, keepdims), initial, verb)

    return rule


def _kept(value: Value, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for i, n in enumerate(value.type.static_shape) if i not in axes)


def _least(value: Value, low: float) -> int:
    limits = np.iinfo(np.int64 if value.type.dtype is DType.I64 else np.int32)
    return int(limits.min if low < 0 else limits.max)


# --- moments


def _counted(t: Trace, value: Value, axes: tuple[int, ...], where: object, less: float) -> Value:
    """The number of elements behind each result, less ``less``, in the type of ``value``."""
    shape, dtype = _kept(value, axes), value.type.dtype
    if is_unset(where) or where is True:
        return t.constant(max(count_of(value, axes) - less, 0.0), dtype, shape)
    ones = masked(t, t.constant(1.0, dtype, value.type.static_shape), where, 0.0)
    total = t.emit("sum", ones, axes=axes) if axes else ones
    zero = t.constant(0.0, dtype, shape)
    return t.emit("max", t.emit("sub", total, t.constant(less, dtype, shape)), zero)


def mean_of(
    t: Trace, value: Value, axes: tuple[int, ...], where: object = None, less: float = 0.0
) -> Value:
    """The mean over ``axes``, divided by ``less`` elements fewer."""
    inside = masked(t, value, where, 0.0)
    total = t.emit("sum", inside, axes=axes) if axes else inside
    return t.emit("div", total, _counted(t, value, axes, where, less))


def _floating(t: Trace, a: object, dtype: object) -> Value:
    value = t.as_float(t.lift(a))
    return value if is_unset(dtype) else t.as_float(t.cast(value, dtype_named(dtype)))


def _mean(
    t: Trace,
    a: object,
    axis: object = None,
    dtype: object = None,
    out: object = None,
    keepdims: object = None,
    where: object = None,
) -> Traced:
    no_out(out)
    value = _floating(t, a, dtype)
    axes = axes_of(value, axis)
    return t.wrap(restore(t, mean_of(t, value, axes, where), value, axes, keepdims))


def _variance(
    t: Trace,
    a: object,
    axis: object = None,
    dtype: object = None,
    out: object = None,
    ddof: float = 0,
    keepdims: object = None,
    where: object = None,
    mean: object = None,
    correction: float | None = None,
) -> Traced:
    no_out(out)
    value = _floating(t, a, dtype)
    axes = axes_of(value, axis)
    if is_unset(mean):
        centre = restore(t, mean_of(t, value, axes, where), value, axes, True)
    else:
        centre = t.lift(mean, value.type.dtype)
    gap = t.emit("sub", value, t.broadcast(centre, value.type.static_shape))
    less = ddof if correction is None or correction is _UNSET else correction
    spread = mean_of(t, t.emit("mul", gap, gap), axes, where, float(less))
    return t.wrap(restore(t, spread, value, axes, keepdims))


def _deviation(t: Trace, a: object, *args: Any, **options: Any) -> Traced:
    return t.wrap(t.special("root_of_squares", _variance(t, a, *args, **options).value))


FUNCTIONS.update(
    {
        "sum": _total("sum", "add", 0),
        "prod": _total("prod", "mul", 1),
        **{name: _extreme(name, "max", -math.inf) for name in ("max", "amax")},
        **{name: _extreme(name, "min", math.inf) for name in ("min", "amin")},
        "mean": _mean,
        "var": _variance,
        "std": _deviation,
    }
)
