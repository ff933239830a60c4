"""NumPy's order of elements: sort, argsort, partitions, medians and quantiles.

Importing this module adds to ``trace.FUNCTIONS``. The order is the op ``argsort``: equal elements
keep their order and NaN comes last. Values are then gathered, so a cotangent goes back to the
element that it belongs to.

Non-goals: results whose shape depends on values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gradc.ir.tensor.core import DType
from gradc.runtime.tracing.functions import axis_of
from gradc.runtime.tracing.reductions import is_unset
from gradc.runtime.tracing.shapes import function, traced
from gradc.runtime.tracing.trace import FUNCTIONS, Trace, refuse


def _flat_if_none(x: Any, axis: Any) -> tuple[Any, int]:
    if axis is None:
        return np.ravel(x), 0
    return x, axis_of(x.value, axis)


@function("argsort")
def _argsort(
    t: Trace, a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None
) -> Any:
    x, where = _flat_if_none(traced(t, a), axis)
    value = t.cast(x.value, DType.I32) if x.dtype == np.bool_ else x.value
    return t.wrap(t.cast(t.emit("argsort", value, axis=where), DType.I64))


@function("sort")
def _sort(
    t: Trace, a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None
) -> Any:
    x, where = _flat_if_none(traced(t, a), axis)
    if x.shape[where] < 2:
        return x
    return np.take_along_axis(x, np.argsort(x, axis=where), where)


@function("partition")
def _partition(
    t: Trace, a: Any, kth: Any, axis: Any = -1, kind: Any = None, order: Any = None
) -> Any:
    """The whole order, which is a partition at every place."""
    return np.sort(traced(t, a), axis=axis)


@function("argpartition")
def _argpartition(
    t: Trace, a: Any, kth: Any, axis: Any = -1, kind: Any = None, order: Any = None
) -> Any:
    return np.argsort(traced(t, a), axis=axis)


def _lines(x: Any, axis: Any) -> tuple[Any, tuple[int, ...]]:
    """The axes to be reduced as one last axis; and where they were."""
    given = range(x.ndim) if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = tuple(sorted(axis_of(x.value, a) for a in given))
    kept = [i for i in range(x.ndim) if i not in axes]
    shape = tuple(x.shape[i] for i in kept)
    return np.reshape(np.transpose(x, [*kept, *axes]), (*shape, -1)), axes


def _quantiles(method: str, q: Any, size: int) -> tuple[Any, Any]:
    """Whole places below, and how far the quantiles lie beyond them."""
    if method == "linear":
        at = q * (size - 1)
    elif method in ("lower", "higher", "nearest", "midpoint"):
        at = q * (size - 1)
        at = {
            "lower": np.floor(at),
            "higher": np.ceil(at),
            "nearest": np.rint(at),
            "midpoint": (np.floor(at) + np.ceil(at)) / 2,
        }[method]
    else:
        raise refuse("GC0560", f"quantiles by {method!r} cannot be traced", "use 'linear'")
    low = np.clip(np.floor(at), 0, max(size - 1, 0)).astype(int)
    return low, at - low


def _quantile_rule(scale: float) -> Callable[..., Any]:
    def rule(
        t: Trace,
        a: Any,
        q: Any,
        axis: Any = None,
        out: Any = None,
        overwrite_input: bool = False,
        method: str = "linear",
        keepdims: Any = False,
        *,
        weights: Any = None,
        interpolation: Any = None,
    ) -> Any:
        if weights is not None:
            help = "sort by numpy.argsort and sum the weights"
            raise refuse("GC0560", "quantiles with weights cannot be traced", help)
        method = method if interpolation is None else interpolation
        if hasattr(q, "value"):
            raise refuse("GC0560", "quantiles are traced for known q", "fix q before")
        lines, axes = _lines(traced(t, a), axis)
        size = lines.shape[-1]
        shares = np.asarray(q, float) / scale
        if np.any(shares < 0) or np.any(shares > 1):
            raise refuse("GC0558", f"quantiles lie between 0 and {scale:g}, not {q}")
        ordered = np.sort(lines, axis=-1)
        low, beyond = _quantiles(method, shares.reshape(-1), size)
        found = np.take(ordered, low, axis=-1)
        above = np.take(ordered, np.minimum(low + 1, size - 1), axis=-1)
        found = found + np.where(beyond > 0, beyond * (above - found), 0.0)
        lost = np.any(np.isnan(lines), axis=-1, keepdims=True)
        found = np.moveaxis(np.where(lost, np.nan, found), -1, 0)
        found = np.reshape(found, shares.shape + found.shape[1:])
        if is_unset(keepdims) or not keepdims:
            return found
        places = tuple(i + shares.ndim for i in axes)
        return np.expand_dims(found, places)

    return rule


FUNCTIONS["quantile"], FUNCTIONS["percentile"] = _quantile_rule(1.0), _quantile_rule(100.0)


@function("median")
def _median(
    t: Trace,
    a: Any,
    axis: Any = None,
    out: Any = None,
    overwrite_input: bool = False,
    keepdims: Any = False,
) -> Any:
    return np.quantile(traced(t, a), 0.5, axis=axis, keepdims=bool(keepdims))
