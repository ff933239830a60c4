"""NumPy's statistics, tests and places: means with weights, covariances, what skips NaN, extremes'
places, counts.

Importing this module adds to ``trace.FUNCTIONS``. Each is written in NumPy's own functions on
traced arrays.

Non-goals: results whose shape depends on values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gradc.ir.tensor.core import DType
from gradc.runtime.tracing.functions import axes_of, axis_of
from gradc.runtime.tracing.reductions import count_of, is_unset
from gradc.runtime.tracing.shapes import function, traced
from gradc.runtime.tracing.trace import FUNCTIONS, Trace, Traced, refuse

Rule = Callable[..., Any]

# --- statistics


@function("average")
def _average(
    t: Trace,
    a: Any,
    axis: Any = None,
    weights: Any = None,
    returned: bool = False,
    keepdims: Any = False,
) -> Any:
    x = traced(t, a)
    keep = bool(keepdims) and not is_unset(keepdims)
    if weights is None:
        mean = np.mean(x, axis=axis, keepdims=keep)
        total: Any = np.full(mean.shape, float(count_of(x.value, axes_of(x.value, axis))))
        return (mean, total) if returned else mean
    w = traced(t, weights)
    if w.shape != x.shape:
        shape = [1] * x.ndim
        shape[axis_of(x.value, axis)] = -1
        w = np.broadcast_to(np.reshape(w, shape), x.shape)
    total = np.sum(w, axis=axis, keepdims=keep)
    mean = np.sum(x * w, axis=axis, keepdims=keep) / total
    return (mean, total) if returned else mean


@function("ptp")
def _ptp(t: Trace, a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    x, keep = traced(t, a), bool(keepdims) and not is_unset(keepdims)
    return np.max(x, axis=axis, keepdims=keep) - np.min(x, axis=axis, keepdims=keep)


@function("cov")
def _cov(
    t: Trace,
    m: Any,
    y: Any = None,
    rowvar: bool = True,
    bias: bool = False,
    ddof: int | None = None,
    fweights: Any = None,
    aweights: Any = None,
    *,
    dtype: Any = None,
) -> Any:
    if fweights is not None:
        raise refuse("GC0560", "numpy.cov with fweights cannot be traced", "repeat the columns")
    x = np.atleast_2d(traced(t, m))
    if not is_unset(dtype):
        x = x.astype(dtype)
    if not rowvar and np.ndim(m) > 1:
        x = x.T
    if y is not None:
        other = np.atleast_2d(traced(t, y))
        x = np.concatenate([x, other.T if not rowvar and np.ndim(y) > 1 else other])
    less = (0 if bias else 1) if ddof is None else ddof
    if aweights is None:
        x = x - np.mean(x, axis=1, keepdims=True)
        return np.squeeze(np.matmul(x, x.T) / float(max(x.shape[1] - less, 0)))
    w = traced(t, aweights)
    total = np.sum(w)
    x = x - np.sum(x * w, axis=1, keepdims=True) / total
    factor = total - less * np.sum(w * w) / total
    return np.squeeze(np.matmul(x * w, x.T) / factor)


@function("corrcoef")
def _corrcoef(
    t: Trace,
    x: Any,
    y: Any = None,
    rowvar: bool = True,
    bias: Any = None,  # neither of them changes anything
    ddof: Any = None,
    *,
    dtype: Any = None,
) -> Any:
    c = np.cov(traced(t, x), y, rowvar, dtype=None if is_unset(dtype) else dtype)
    if np.ndim(c) == 0:
        return c / c
    d = np.sqrt(np.diag(c))
    return np.clip(c / d[:, None] / d[None, :], -1, 1)


def _without_nan(name: str, neutral: float) -> Rule:
    base: Any = getattr(np, name)

    def rule(t: Trace, a: Any, axis: Any = None, *args: Any, **options: Any) -> Any:
        x = traced(t, a)
        return base(np.where(np.isnan(x), neutral, x), axis, *args, **options)

    return rule


for _name, _neutral in (("sum", 0.0), ("prod", 1.0), ("cumsum", 0.0), ("cumprod", 1.0)):
    FUNCTIONS[f"nan{_name}"] = _without_nan(_name, _neutral)


def _nan_extreme(name: str, neutral: float) -> Rule:
    base: Any = getattr(np, name)

    def rule(t: Trace, a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
        x, keep = traced(t, a), bool(keepdims) and not is_unset(keepdims)
        found = base(np.where(np.isnan(x), neutral, x), axis=axis, keepdims=keep)
        return np.where(np.all(np.isnan(x), axis=axis, keepdims=keep), np.nan, found)

    return rule


FUNCTIONS["nanmax"] = _nan_extreme("max", -np.inf)
FUNCTIONS["nanmin"] = _nan_extreme("min", np.inf)


def _nan_moment(name: str) -> Rule:
    base: Any = getattr(np, name)

    def rule(
        t: Trace,
        a: Any,
        axis: Any = None,
        dtype: Any = None,
        out: Any = None,
        *args: Any,
        **options: Any,
    ) -> Any:
        x = traced(t, a)
        known = ~np.isnan(x)
        clean = np.where(known, x, 0.0)
        return base(clean, axis, dtype, None, *args, where=known, **options)

    return rule


for _name in ("mean", "var", "std"):
    FUNCTIONS[f"nan{_name}"] = _nan_moment(_name)


@function("any")
def _any(t: Trace, a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    return _held(t, a, axis, keepdims, np.max)


@function("all")
def _all(t: Trace, a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    return _held(t, a, axis, keepdims, np.min)


def _held(t: Trace, a: Any, axis: Any, keepdims: Any, extreme: Rule) -> Any:
    x = traced(t, a)
    truths = np.where(x if x.dtype.kind == "b" else x != 0, 1, 0)
    start = 0 if extreme is np.max else 1
    keep = bool(keepdims) and not is_unset(keepdims)
    return extreme(truths, axis=axis, keepdims=keep, initial=start) > 0


@function("count_nonzero")
def _count_nonzero(t: Trace, a: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    return np.sum(traced(t, a) != 0, axis=axis, keepdims=keepdims)


@function("argmin")
def _argmin(t: Trace, a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = False) -> Any:
    return _arg(t, -traced(t, a), axis, keepdims)


@function("argmax")
def _argmax(t: Trace, a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = False) -> Any:
    return _arg(t, traced(t, a), axis, keepdims)


def _arg(t: Trace, x: Any, axis: Any, keepdims: Any) -> Any:
    rank = x.ndim
    flat: Any = np.ravel(x) if axis is None else x
    where = axis_of(flat.value, 0 if axis is None else axis)
    if not flat.shape[where]:
        raise refuse("GC0558", "argmax of no elements")
    found: Any = t.wrap(t.cast(t.emit("argmax", flat.value, axis=where), DType.I64))
    if is_unset(keepdims) or not keepdims:
        return found
    return np.reshape(found, (1,) * rank) if axis is None else np.expand_dims(found, where)


for _name, _neutral in (("argmax", -np.inf), ("argmin", np.inf)):
    FUNCTIONS[f"nan{_name}"] = _without_nan(_name, _neutral)


@function("searchsorted")
def _searchsorted(t: Trace, a: Any, v: Any, side: Any = "left", sorter: Any = None) -> Any:
    line, x = traced(t, a), traced(t, v)
    if sorter is not None:
        line = np.take(line, sorter)
    below = line < x[..., None] if side == "left" else line <= x[..., None]
    return np.sum(below, axis=-1)


@function("digitize")
def _digitize(t: Trace, x: Any, bins: Any, right: bool = False) -> Any:
    if isinstance(bins, Traced) or np.any(np.diff(bins) < 0):
        raise refuse("GC0560", "numpy.digitize is traced for rising bins that are known")
    return np.searchsorted(bins, traced(t, x), side="left" if right else "right")


@function("bincount")
def _bincount(t: Trace, x: Any, weights: Any = None, minlength: int = 0) -> Any:
    if isinstance(x, Traced):
        raise refuse("GC0560", "numpy.bincount needs bins that are known", "fix their number")
    ids = np.asarray(x)
    size = max(int(ids.max(initial=-1)) + 1, minlength)
    values = traced(t, weights)
    return t.wrap(
        t.emit("scatter_add", t.lift(ids.astype(np.int64)), values.value, axis=0, size=size)
    )
