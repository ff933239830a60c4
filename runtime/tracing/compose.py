"""NumPy's functions that follow from others: differences, products of vectors, running products,
statistics, polynomials.

Importing this module adds to ``trace.FUNCTIONS``. Each is written in NumPy's own functions on
traced arrays, as one would write it by hand, and means what NumPy's means.

Non-goals: results whose shape depends on values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradc.ir.tensor.core import DType
from gradc.runtime.tracing.functions import axis_of
from gradc.runtime.tracing.reductions import dtype_named, is_unset
from gradc.runtime.tracing.shapes import function, moved, traced
from gradc.runtime.tracing.trace import FUNCTIONS, Trace, refuse

Rule = Callable[..., Any]

# --- differences and integrals


@function("diff")
def _diff(
    t: Trace, a: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None
) -> Any:
    x = traced(t, a)
    where = axis_of(x.value, axis)

    def edge(item: Any) -> Any:
        one = tuple(1 if i == where else size for i, size in enumerate(x.shape))
        return np.broadcast_to(traced(t, item), one) if np.ndim(item) == 0 else item

    parts = [] if is_unset(prepend) else [edge(prepend)]
    parts.append(x)
    if not is_unset(append):
        parts.append(edge(append))
    x = np.concatenate(parts, axis=where) if len(parts) > 1 else x
    if n < 0:
        raise refuse("GC0558", f"diff: the order {n} is negative")
    head: tuple[Any, ...] = (slice(None),) * where
    for _ in range(n):
        x = x[(*head, slice(1, None))] - x[(*head, slice(None, -1))]
    return x


@function("ediff1d")
def _ediff1d(t: Trace, ary: Any, to_end: Any = None, to_begin: Any = None) -> Any:
    x = np.diff(np.ravel(traced(t, ary)))
    parts = [np.ravel(p) for p in (to_begin, x, to_end) if p is not None]
    return np.concatenate(parts) if len(parts) > 1 else x


@function("gradient")
def _gradient(t: Trace, f: Any, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    x = traced(t, f)
    axes = [axis_of(x.value, i) for i in range(x.ndim)] if axis is None else None
    if axes is None:
        axes = [axis_of(x.value, i) for i in (axis if isinstance(axis, (tuple, list)) else (axis,))]
    steps = list(varargs) or [1.0]
    if len(steps) == 1 and np.ndim(steps[0]) == 0:
        steps = steps * len(axes)
    if len(steps) != len(axes):
        raise refuse("GC0558", f"gradient: {len(steps)} spacings for {len(axes)} axes")
    found = [_slopes(x, h, where, edge_order) for h, where in zip(steps, axes, strict=True)]
    return found[0] if len(found) == 1 else tuple(found)


def _slopes(x: Any, h: Any, where: int, edge_order: int) -> Any:
    if x.shape[where] < edge_order + 1:
        raise refuse("GC0558", f"gradient: an axis of {x.shape[where]} is too short")
    y = np.moveaxis(x, where, 0)
    gaps = np.diff(h) if np.ndim(h) else np.broadcast_to(h, (x.shape[where] - 1,))
    shape = (-1,) + (1,) * (x.ndim - 1)
    left, right = (np.reshape(g, shape) for g in (gaps[:-1], gaps[1:]))
    inner = (left**2 * y[2:] + (right**2 - left**2) * y[1:-1] - right**2 * y[:-2]) / (
        left * right * (left + right)
    )
    first, last = (y[1] - y[0]) / gaps[0], (y[-1] - y[-2]) / gaps[-1]
    if edge_order == 2:
        a, b = gaps[0], gaps[1]
        first = (-(2 * a + b) / (a * (a + b))) * y[0] + (a + b) / (a * b) * y[1]
        first = first - a / (b * (a + b)) * y[2]
        a, b = gaps[-2], gaps[-1]
        last = b / (a * (a + b)) * y[-3] - (a + b) / (a * b) * y[-2]
        last = last + (2 * b + a) / (b * (a + b)) * y[-1]
    return np.moveaxis(np.concatenate([first[None], inner, last[None]]), 0, where)


@function("trapezoid")
def _trapezoid(t: Trace, y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    values = np.moveaxis(traced(t, y), axis, -1)
    gaps: Any = dx
    if x is not None:
        gaps = np.diff(x) if np.ndim(x) == 1 else np.diff(np.moveaxis(x, axis, -1))
    return np.sum(gaps * (values[..., 1:] + values[..., :-1]) / 2.0, axis=-1)


# --- running products and extremes: by doubling, so nothing is divided


def running(t: Trace, x: Any, axis: int, combine: Rule, neutral: Any) -> Any:
    """Prefixes of ``x`` along ``axis`` combined, in logarithmically many steps."""
    step, head = 1, (slice(None),) * axis
    while step < x.shape[axis]:
        shape = tuple(step if i == axis else n for i, n in enumerate(x.shape))
        fill = np.broadcast_to(traced(t, np.asarray(neutral, x.dtype)[()]), shape)
        shifted = np.concatenate([fill, x[(*head, slice(None, -step))]], axis=axis)
        x = combine(shifted, x)
        step *= 2
    return x


@function("cumprod")
def _cumprod(t: Trace, a: Any, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
    x = traced(t, a)
    if not is_unset(dtype):
        x = x.astype(dtype)
    elif x.dtype.kind == "b" or x.dtype == np.int32:
        x = x.astype(np.int64)
    if axis is None:
        x, axis = np.ravel(x), 0
    return running(t, x, axis_of(x.value, axis), np.multiply, 1)


@function("cumsum")
def _cumsum(t: Trace, a: Any, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
    value = t.lift(a)
    if not is_unset(dtype):
        value = t.cast(value, dtype_named(dtype))
    elif value.type.dtype in (DType.BOOL, DType.I32):
        value = t.cast(value, DType.I64)
    if axis is None:
        value, axis = t.lift(np.ravel(traced(t, t.wrap(value)))), 0
    return t.wrap(t.emit("cumsum", value, axis=axis_of(value, axis), reverse=False))


def _cumulative(name: str, neutral: int) -> Rule:
    def rule(
        t: Trace,
        x: Any,
        /,
        *,
        axis: int | None = None,
        dtype: Any = None,
        out: Any = None,
        include_initial: bool = False,
    ) -> Any:
        value = traced(t, x)
        if axis is None:
            if value.ndim != 1:
                raise refuse("GC0558", f"cumulative_{name[3:]}: name the axis of {value.ndim}")
            axis = 0
        found: Any = FUNCTIONS[name](t, value, axis, dtype)
        if not include_initial:
            return found
        shape = tuple(1 if i == axis % value.ndim else n for i, n in enumerate(value.shape))
        start = np.broadcast_to(traced(t, np.asarray(neutral, found.dtype)[()]), shape)
        return np.concatenate([start, found], axis=axis)

    return rule


FUNCTIONS["cumulative_sum"] = _cumulative("cumsum", 0)
FUNCTIONS["cumulative_prod"] = _cumulative("cumprod", 1)


# --- products


@function("cross", "linalg.cross")
def _cross(
    t: Trace,
    a: Any,
    b: Any,
    axisa: int = -1,
    axisb: int = -1,
    axisc: int = -1,
    axis: int | None = None,
) -> Any:
    if axis is not None:
        axisa = axisb = axisc = axis
    x, y = np.moveaxis(traced(t, a), axisa, -1), np.moveaxis(traced(t, b), axisb, -1)
    if x.shape[-1] not in (2, 3) or y.shape[-1] not in (2, 3):
        raise refuse("GC0558", f"cross: vectors have 2 or 3 components, not {x.shape[-1]}")
    p, q = ([v[..., i] for i in range(v.shape[-1])] for v in (x, y))
    if len(p) == len(q) == 2:
        return p[0] * q[1] - p[1] * q[0]
    p, q = (v if len(v) == 3 else [*v, 0.0] for v in (p, q))
    parts = [p[i] * q[j] - p[j] * q[i] for i, j in ((1, 2), (2, 0), (0, 1))]
    shape = np.broadcast_shapes(*(np.shape(part) for part in parts))
    found = np.stack([np.broadcast_to(traced(t, part), shape) for part in parts], axis=-1)
    return np.moveaxis(found, -1, axisc)


@function("kron")
def _kron(t: Trace, a: Any, b: Any) -> Any:
    x, y = traced(t, a), traced(t, b)
    rank = max(x.ndim, y.ndim)
    x, y = (np.reshape(v, (1,) * (rank - v.ndim) + v.shape) for v in (x, y))
    wide = [n for size in x.shape for n in (size, 1)], [n for size in y.shape for n in (1, size)]
    made = np.reshape(x, wide[0]) * np.reshape(y, wide[1])
    return np.reshape(made, tuple(m * n for m, n in zip(x.shape, y.shape, strict=True)))


@function("linalg.outer")
def _outer(t: Trace, x1: Any, x2: Any) -> Any:
    return traced(t, x1)[:, None] * traced(t, x2)[None, :]


@function("linalg.matmul")
def _matmul(t: Trace, x1: Any, x2: Any) -> Any:
    return np.matmul(traced(t, x1), traced(t, x2))


@function("linalg.tensordot")
def _tensordot(t: Trace, x1: Any, x2: Any, *, axes: Any = 2) -> Any:
    return np.tensordot(traced(t, x1), traced(t, x2), axes)


@function("linalg.vecdot")
def _vecdot(t: Trace, x1: Any, x2: Any, *, axis: int = -1) -> Any:
    return np.sum(traced(t, x1) * traced(t, x2), axis=axis)


@function("linalg.multi_dot")
def _multi_dot(t: Trace, arrays: Sequence[object], *, out: Any = None) -> Any:
    found = traced(t, arrays[0])
    for item in arrays[1:]:
        found = np.dot(found, traced(t, item))
    return found


@function("convolve")
def _convolve(t: Trace, a: Any, v: Any, mode: Any = "full") -> Any:
    x, y = traced(t, a), traced(t, v)
    if x.ndim != 1 or y.ndim != 1 or not x.shape[0] or not y.shape[0]:
        raise refuse("GC0558", "convolve takes two vectors that are not empty")
    if y.shape[0] > x.shape[0]:
        x, y = y, x
    return _slid(t, x, y[::-1], mode)


@function("correlate")
def _correlate(t: Trace, a: Any, v: Any, mode: Any = "valid") -> Any:
    x, y = traced(t, a), traced(t, v)
    if y.shape[0] > x.shape[0]:
        return _slid(t, y, x, mode)[::-1]
    return _slid(t, x, y, mode)


def _slid(t: Trace, x: Any, y: Any, mode: Any) -> Any:
    """Products of ``y`` with each window of ``x``: one row per window, one matrix product."""
    n, m = x.shape[0], y.shape[0]
    names = {0: "valid", 1: "same", 2: "full"}
    mode = names.get(mode, mode)
    if mode not in names.values():
        raise refuse("GC0558", f"convolve: the mode {mode!r} is none of valid, same, full")
    low = {"valid": 0, "same": m // 2, "full": m - 1}[mode]
    count = {"valid": n - m + 1, "same": n, "full": n + m - 1}[mode]
    high = count + m - 1 - n - low
    places = np.arange(count)[:, None] + np.arange(m)
    windows = moved(t, np.pad(x, (low, max(high, 0))), lambda ids: ids[places])
    return np.matmul(windows, y)
