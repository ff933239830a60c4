"""NumPy's polynomials, tables and grids, what works element by element, functions of functions, and
arrays like others.

Importing this module adds to ``trace.FUNCTIONS``. Each is written in NumPy's own functions on
traced arrays.

Non-goals: results whose shape depends on values.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from gradc.ir.tensor.core import DType
from gradc.runtime.tracing.functions import axes_of, axis_of
from gradc.runtime.tracing.reductions import count_of, dtype_named, is_unset
from gradc.runtime.tracing.shapes import function, moved, traced
from gradc.runtime.tracing.trace import FUNCTIONS, Trace, Traced, refuse

Rule = Callable[..., Any]

# --- polynomials, tables, grids


@function("polyval")
def _polyval(t: Trace, p: Any, x: Any) -> Any:
    coefficients, at = traced(t, p), traced(t, x)
    found: Any = np.zeros_like(at)
    for n in range(coefficients.shape[0]):
        found = found * at + coefficients[n]
    return found


def _poly_sum(sign: int) -> Rule:
    def rule(t: Trace, a1: Any, a2: Any) -> Any:
        x, y = np.atleast_1d(traced(t, a1)), np.atleast_1d(traced(t, a2))
        n = max(x.shape[0], y.shape[0])
        x, y = (np.pad(v, (n - v.shape[0], 0)) for v in (x, y))
        return x + y if sign > 0 else x - y

    return rule


FUNCTIONS["polyadd"], FUNCTIONS["polysub"] = _poly_sum(1), _poly_sum(-1)


@function("polymul")
def _polymul(t: Trace, a1: Any, a2: Any) -> Any:
    return np.convolve(np.atleast_1d(traced(t, a1)), np.atleast_1d(traced(t, a2)))


@function("polyder")
def _polyder(t: Trace, p: Any, m: int = 1) -> Any:
    x = traced(t, p)
    for _ in range(m):
        x = x[:-1] * np.arange(x.shape[0] - 1, 0, -1)
    return x


@function("polyint")
def _polyint(t: Trace, p: Any, m: int = 1, k: Any = None) -> Any:
    x = traced(t, p)
    rest = np.zeros(m) if k is None else np.broadcast_to(k, (m,))
    for n in range(m):
        line = x / np.arange(x.shape[0], 0, -1)
        x = np.concatenate([line, np.atleast_1d(traced(t, rest[n]))])
    return x


@function("vander")
def _vander(t: Trace, x: Any, N: int | None = None, increasing: bool = False) -> Any:
    line = traced(t, x)
    count = line.shape[0] if N is None else N
    powers = [np.ones_like(line)]
    for _ in range(count - 1):
        powers.append(powers[-1] * line)
    powers = powers[:count]
    return np.stack(powers if increasing else powers[::-1], axis=1)


@function("interp")
def _interp(
    t: Trace,
    x: Any,
    xp: Any,
    fp: Any,
    left: Any = None,
    right: Any = None,
    period: Any = None,
) -> Any:
    if period is not None:
        raise refuse("GC0560", "numpy.interp with a period cannot be traced", "reduce x yourself")
    at, places, values = traced(t, x), traced(t, xp), traced(t, fp)
    last = places.shape[0] - 1
    if last == 0:
        inside: Any = np.broadcast_to(values[0], at.shape)
    else:
        high = np.clip(np.searchsorted(places, at, side="right"), 1, last)
        low = high - 1
        x0, x1, y0, y1 = (np.take(v, i, mode="clip") for v in (places, values) for i in (low, high))
        inside = y0 + (y1 - y0) / (x1 - x0) * (at - x0)
    inside = np.where(at < places[0], values[0] if left is None else left, inside)
    return np.where(at > places[-1], values[-1] if right is None else right, inside)


@function("linspace")
def _linspace(
    t: Trace,
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    retstep: bool = False,
    dtype: Any = None,
    axis: int = 0,
    *,
    device: Any = None,
) -> Any:
    a, b = (t.wrap(t.as_float(v)) for v in t.promote([start, stop]))
    across: Any = b - a
    pieces = num - 1 if endpoint else num
    step = across / pieces if pieces > 0 else across * np.nan
    shape = (-1,) + (1,) * across.ndim
    found = a + across * np.reshape(np.arange(num) / max(pieces, 1), shape)
    if endpoint and num > 1:
        found = np.concatenate([found[:-1], np.broadcast_to(b, across.shape)[None]])
    found = _laid(found, dtype, axis)
    return (found, step) if retstep else found


def _laid(found: Any, dtype: Any, axis: int) -> Any:
    """A grid along the first axis, of the type and along the axis that are asked for."""
    return np.moveaxis(found if is_unset(dtype) else found.astype(dtype), 0, axis)


@function("logspace")
def _logspace(
    t: Trace,
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    base: Any = 10.0,
    dtype: Any = None,
    axis: int = 0,
) -> Any:
    # A base for each of several grids: all three have their axes.
    a, b, base = np.broadcast_arrays(traced(t, start), traced(t, stop), traced(t, base))
    return _laid(np.power(base, np.linspace(a, b, num, endpoint)), dtype, axis)


@function("geomspace")
def _geomspace(
    t: Trace,
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    dtype: Any = None,
    axis: int = 0,
) -> Any:
    a, b = traced(t, start), traced(t, stop)
    sign = np.sign(a)  # both ends may be below zero
    found = np.exp(np.linspace(np.log(a * sign), np.log(b * sign), num, endpoint)) * sign
    return _laid(found, dtype, axis)


# --- element by element


@function("round", "around")
def _round(t: Trace, a: Any, decimals: int = 0, out: Any = None) -> Any:
    x = traced(t, a)
    if x.dtype.kind != "f":
        return x
    if decimals == 0:
        return np.rint(x)
    scale = 10.0 ** abs(operator.index(decimals))
    return np.rint(x * scale) / scale if decimals > 0 else np.rint(x / scale) * scale


@function("fix")
def _fix(t: Trace, x: Any, out: Any = None) -> Any:
    return np.trunc(traced(t, x))


@function("nan_to_num")
def _nan_to_num(
    t: Trace,
    x: Any,
    copy: bool = True,
    nan: float = 0.0,
    posinf: float | None = None,
    neginf: float | None = None,
) -> Any:
    value = traced(t, x)
    if value.dtype.kind != "f":
        return value.copy() if copy else value
    ends = np.finfo(value.dtype)
    found = np.where(np.isnan(value), nan, value)
    found = np.where(value == np.inf, ends.max if posinf is None else posinf, found)
    found = np.where(value == -np.inf, ends.min if neginf is None else neginf, found)
    if copy:
        return found
    value[...] = found
    return value


@function("sliding_window_view")
def _windows(
    t: Trace,
    x: Any,
    window_shape: Any,
    axis: Any = None,
    *,
    subok: bool = False,
    writeable: bool = False,
) -> Any:
    windows = np.lib.stride_tricks.sliding_window_view
    return moved(t, x, lambda ids: windows(ids, window_shape, axis))


def _written(item: Any, name: str) -> Any:
    if type(item) is Traced:
        return item
    help = "make it inside the function, e.g. by np.zeros"
    raise refuse(
        "GC0560", f"numpy.{name} writes into an array that is not the function's own", help
    )


@function("copyto")
def _copyto(t: Trace, dst: Any, src: Any, casting: str = "same_kind", where: Any = True) -> None:
    target = _written(dst, "copyto")
    target[...] = src if where is True else np.where(where, src, target)


@function("fill_diagonal")
def _fill_diagonal(t: Trace, a: Any, val: Any, wrap: bool = False) -> None:
    target = _written(a, "fill_diagonal")
    if target.ndim != 2 or wrap:
        raise refuse("GC0560", "numpy.fill_diagonal is traced for matrices, without wrap")
    places = np.arange(min(target.shape))
    target[places, places] = val


@function("put")
def _put(t: Trace, a: Any, ind: Any, v: Any, mode: str = "raise") -> None:
    if mode != "raise":
        raise refuse("GC0560", f"numpy.put with mode {mode!r} cannot be traced")
    _written(a, "put").flat[np.asarray(ind).ravel()] = v


@function("isneginf")
def _isneginf(t: Trace, x: Any, out: Any = None) -> Any:
    return traced(t, x) == -np.inf


@function("isposinf")
def _isposinf(t: Trace, x: Any, out: Any = None) -> Any:
    return traced(t, x) == np.inf


@function("isclose")
def _isclose(
    t: Trace, a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Any:
    x, y = traced(t, a), traced(t, b)
    near = np.abs(x - y) <= atol + rtol * np.abs(y)
    found = np.logical_or(x == y, np.logical_and(near, np.isfinite(y)))
    if equal_nan:
        found = np.logical_or(found, np.logical_and(np.isnan(x), np.isnan(y)))
    return found


@function("allclose")
def _allclose(t: Trace, a: Any, b: Any, *args: Any, **options: Any) -> Any:
    return np.all(np.isclose(traced(t, a), traced(t, b), *args, **options))


@function("array_equal")
def _array_equal(t: Trace, a1: Any, a2: Any, equal_nan: bool = False) -> Any:
    x, y = traced(t, a1), traced(t, a2)
    if x.shape != y.shape:
        return False
    same = x == y
    return np.all(np.logical_or(same, np.isnan(x) & np.isnan(y)) if equal_nan else same)


@function("unwrap")
def _unwrap(
    t: Trace, p: Any, discont: Any = None, axis: int = -1, *, period: float = 2 * np.pi
) -> Any:
    x = traced(t, p)
    where = axis_of(x.value, axis)
    steps = np.diff(x, axis=where)
    half = period / 2
    turned = np.mod(steps + half, period) - half
    turned = np.where(np.logical_and(turned == -half, steps > 0), half, turned)
    least = half if discont is None else discont
    more = np.where(np.abs(steps) < least, 0.0, turned - steps)
    head: tuple[Any, ...] = (slice(None),) * where
    first = x[(*head, slice(0, 1))]
    return np.concatenate(
        [first, x[(*head, slice(1, None))] + np.cumsum(more, axis=where)], axis=where
    )


@function("sinc")
def _sinc(t: Trace, x: Any) -> Any:
    return t.wrap(t.special("sine_over", t.as_float(t.lift(traced(t, x) * np.pi))))


@function("i0")
def _i0(t: Trace, x: Any) -> Any:
    return t.wrap(t.special("i0", t.as_float(t.lift(x))))


def _half_turn(sign: int) -> Rule:
    def rule(t: Trace, x: Any, axes: Any = None) -> Any:
        value = traced(t, x)
        where = axes_of(value.value, axes)
        shifts = [sign * (value.shape[i] // 2) for i in where]
        return np.roll(value, shifts, where) if where else value

    return rule


FUNCTIONS["fft.fftshift"], FUNCTIONS["fft.ifftshift"] = _half_turn(1), _half_turn(-1)

# --- functions of functions


@function("apply_along_axis")
def _apply_along(t: Trace, func1d: Rule, axis: int, arr: Any, *args: Any, **options: Any) -> Any:
    x = traced(t, arr)
    where = axis_of(x.value, axis)
    lines = np.moveaxis(x, where, -1)
    flat = np.reshape(lines, (-1, lines.shape[-1]))
    rows = [traced(t, func1d(flat[n], *args, **options)) for n in range(flat.shape[0])]
    made = np.reshape(np.stack(rows), lines.shape[:-1] + rows[0].shape)
    count = rows[0].ndim
    order = list(range(where)) + list(range(made.ndim - count, made.ndim))
    order += list(range(where, made.ndim - count))
    return np.transpose(made, order)


@function("apply_over_axes")
def _apply_over(t: Trace, func: Rule, a: Any, axes: Any) -> Any:
    x = traced(t, a)
    for axis in axes if isinstance(axes, (tuple, list)) else (axes,):
        found = func(x, axis)
        x = found if found.ndim == x.ndim else np.expand_dims(found, axis)
    return x


# --- complex numbers: real arrays are their own real parts


@function("real", "real_if_close")
def _real(t: Trace, val: Any, *_: Any) -> Any:
    return traced(t, val)


@function("imag")
def _imag(t: Trace, val: Any) -> Any:
    return np.zeros_like(traced(t, val))


@function("angle")
def _angle(t: Trace, z: Any, deg: bool = False) -> Any:
    x = traced(t, z)
    return np.where(x < 0, 180.0 if deg else np.pi, np.zeros_like(x))


def _is_kind(answer: bool) -> Rule:
    def rule(t: Trace, x: Any) -> Any:
        return np.full(np.shape(x), answer)

    return rule


FUNCTIONS["isreal"], FUNCTIONS["iscomplex"] = _is_kind(True), _is_kind(False)
FUNCTIONS["isrealobj"] = lambda t, x: True
FUNCTIONS["iscomplexobj"] = lambda t, x: False
FUNCTIONS["ndim"] = lambda t, a: t.lift(a).type.rank
FUNCTIONS["shape"] = lambda t, a: t.lift(a).type.static_shape
FUNCTIONS["copy"] = lambda t, a, order="K", subok=False: traced(t, a)


@function("size")
def _size(t: Trace, a: Any, axis: Any = None) -> int:
    value = t.lift(a)
    return count_of(value, axes_of(value, axis))


def _filled(fill: float) -> Rule:
    def rule(
        t: Trace,
        a: Any,
        dtype: Any = None,
        order: Any = "K",
        subok: Any = True,
        shape: Any = None,
        *,
        device: Any = None,
    ) -> Any:
        value = t.lift(a)
        kind = value.type.dtype if is_unset(dtype) else dtype_named(dtype)
        extents = value.type.static_shape if is_unset(shape) else shape
        extents = extents if isinstance(extents, (tuple, list)) else (extents,)
        number = bool(fill) if kind is DType.BOOL else fill if kind.is_float else int(fill)
        return t.wrap(t.constant(number, kind, tuple(int(n) for n in extents)))

    return rule


FUNCTIONS["zeros_like"] = FUNCTIONS["empty_like"] = _filled(0.0)
FUNCTIONS["ones_like"] = _filled(1.0)


@function("full_like")
def _full_like(
    t: Trace,
    a: Any,
    fill_value: Any,
    dtype: Any = None,
    order: Any = "K",
    subok: Any = True,
    shape: Any = None,
    *,
    device: Any = None,
) -> Any:
    value = t.lift(a)
    kind = value.type.dtype if is_unset(dtype) else dtype_named(dtype)
    extents = value.type.static_shape if is_unset(shape) else tuple(np.atleast_1d(shape).tolist())
    return t.wrap(t.broadcast(t.cast(t.lift(fill_value, kind), kind), extents))
