"""NumPy's functions that only move elements: pieces, joins, turns, repeats, triangles, padding, and
gathers of any kind.

Importing this module adds to ``trace.FUNCTIONS``. What is a view in the IR becomes one. The rest is
worked out by NumPy itself on the positions of the elements, of which one gather is made, so it
means what NumPy means.

Non-goals: arguments that decide a shape by value (``nonzero``, ``unique``).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from gradc.ir.tensor.core import DType, Value
from gradc.runtime.tracing.creation import array_of
from gradc.runtime.tracing.functions import axes_of, axes_of_rank, axis_of, reshape, truth
from gradc.runtime.tracing.trace import FUNCTIONS, OutOfRange, Trace, Traced, refuse

Rule = Callable[..., Any]


def function(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule under the names of NumPy's functions."""

    def add(rule: Rule) -> Rule:
        FUNCTIONS.update(dict.fromkeys(names, rule))
        return rule

    return add


def traced(t: Trace, a: Any) -> Any:
    """``a`` as a traced array: what a rule written in NumPy's own functions works on."""
    return a if isinstance(a, Traced) else t.wrap(t.lift(a))


def moved(t: Trace, a: Any, move: Callable[[Any], Any]) -> Any:
    """What NumPy's ``move`` does to the elements of ``a``; places that it fills with 0 are 0."""
    value = t.lift(a)
    shape = value.type.static_shape
    size = math.prod(shape)
    try:
        places = np.asarray(move(np.arange(1, size + 1).reshape(shape))) - 1
    except (ValueError, IndexError, TypeError) as problem:
        raise refuse("GC0558", str(problem)) from None
    if places.size == 0 or size == 0:
        return t.wrap(t.constant(0, value.type.dtype, places.shape))
    flat = reshape(t, value, (size,))
    ids = t.lift(places.astype(np.int64)) if places.ndim else t.constant(int(places), DType.I64)
    return t.wrap(t.emit("take", flat, ids, axis=0, fill="zero"))


# --- turns


@function("permute_dims")
def _permute(t: Trace, a: Any, axes: Any = None) -> Any:
    return np.transpose(traced(t, a), cast("Any", axes))


@function("matrix_transpose", "linalg.matrix_transpose")
def _matrix_transpose(t: Trace, x: Any) -> Any:
    return np.swapaxes(traced(t, x), -1, -2)


@function("moveaxis")
def _moveaxis(t: Trace, a: Any, source: Any, destination: Any) -> Any:
    value = t.lift(a)
    origin, target = (
        [axis_of(value, x) for x in (part if isinstance(part, (tuple, list)) else (part,))]
        for part in (source, destination)
    )
    if len(origin) != len(target) or len(set(origin)) != len(origin):
        raise refuse("GC0558", f"moveaxis: {source} and {destination} do not name the same axes")
    order = [i for i in range(value.type.rank) if i not in origin]
    for place, axis in sorted(zip(target, origin, strict=True)):
        order.insert(place, axis)
    return np.transpose(traced(t, a), order)


@function("rollaxis")
def _rollaxis(t: Trace, a: Any, axis: int, start: int = 0) -> Any:
    rank = t.lift(a).type.rank
    axis = axis_of(t.lift(a), axis)
    start = start + rank if start < 0 else start
    return _moveaxis(t, a, axis, start - 1 if axis < start else start)


@function("rot90")
def _rot90(t: Trace, m: Any, k: int = 1, axes: tuple[int, int] = (0, 1)) -> Any:
    return moved(t, m, lambda ids: np.rot90(ids, k, axes))


@function("fliplr")
def _fliplr(t: Trace, m: Any) -> Any:
    return np.flip(traced(t, m), 1)


@function("flipud")
def _flipud(t: Trace, m: Any) -> Any:
    return np.flip(traced(t, m), 0)


@function("roll")
def _roll(t: Trace, a: Any, shift: Any, axis: Any = None) -> Any:
    x = traced(t, a)
    if axis is None:
        return np.reshape(_roll(t, np.ravel(x), shift, 0), x.shape)
    shifts, axes = np.broadcast_arrays(np.atleast_1d(shift), np.atleast_1d(axis))
    for by, along in zip(shifts, axes, strict=True):
        where = axis_of(x.value, int(along))
        size = x.shape[where]
        cut = (size - operator.index(by)) % size if size else 0
        if cut:
            head, tail = np.split(x, [cut], axis=where)
            x = np.concatenate([tail, head], axis=where)
    return x


# --- shapes


def _at_least(rank: int) -> Rule:
    places = {1: (0,), 2: (0,), 3: (0, 2)}[rank]

    def rule(t: Trace, *arys: Any) -> Any:
        found = []
        for a in arys:
            x = traced(t, a)
            if x.ndim == 0:
                x = np.reshape(x, (1,) * rank)
            elif x.ndim == 1 and rank > 1:
                x = np.expand_dims(x, places)
            elif x.ndim == 2 and rank == 3:
                x = np.expand_dims(x, 2)
            found.append(x)
        return found[0] if len(found) == 1 else tuple(found)

    return rule


FUNCTIONS.update({f"atleast_{n}d": _at_least(n) for n in (1, 2, 3)})


@function("broadcast_arrays")
def _broadcast_arrays(t: Trace, *args: Any, subok: bool = False) -> tuple[Traced, ...]:
    values = [t.lift(a) for a in args]
    shape = t.broadcast_shape(values)
    return tuple(t.wrap(t.broadcast(v, shape)) for v in values)


@function("meshgrid")
def _meshgrid(
    t: Trace, *xi: Any, copy: bool = True, sparse: bool = False, indexing: str = "xy"
) -> tuple[Any, ...]:
    count = len(xi)
    lines = [
        np.reshape(traced(t, x), (1,) * n + (-1,) + (1,) * (count - n - 1))
        for n, x in enumerate(xi)
    ]
    if indexing == "xy" and count > 1:
        lines = [np.swapaxes(x, 0, 1) for x in lines]
    return tuple(lines) if sparse else tuple(np.broadcast_arrays(*lines))


@function("resize")
def _resize(t: Trace, a: Any, new_shape: Any) -> Any:
    return moved(t, a, lambda ids: np.resize(ids, new_shape))


# --- joins


@function("vstack")
def _vstack(t: Trace, tup: Sequence[object], **options: Any) -> Any:
    return np.concatenate([np.atleast_2d(traced(t, a)) for a in tup], axis=0, **options)


@function("hstack")
def _hstack(t: Trace, tup: Sequence[object], **options: Any) -> Any:
    parts = [np.atleast_1d(traced(t, a)) for a in tup]
    return np.concatenate(parts, axis=0 if parts[0].ndim == 1 else 1, **options)


@function("dstack")
def _dstack(t: Trace, tup: Sequence[object]) -> Any:
    return np.concatenate([np.atleast_3d(traced(t, a)) for a in tup], axis=2)


@function("column_stack")
def _column_stack(t: Trace, tup: Sequence[object]) -> Any:
    parts = [traced(t, a) for a in tup]
    return np.concatenate([p if p.ndim > 1 else np.reshape(p, (-1, 1)) for p in parts], axis=1)


@function("append")
def _append(t: Trace, arr: Any, values: Any, axis: int | None = None) -> Any:
    parts = [array_of(t, item) for item in (arr, values)]
    if axis is None:
        return np.concatenate([np.ravel(part) for part in parts])
    return np.concatenate(parts, axis=axis)


@function("block")
def _block(t: Trace, arrays: Any) -> Any:
    def depth(item: Any) -> int:
        return 1 + max(depth(x) for x in item) if isinstance(item, list) else 0

    levels = depth(arrays)

    def rank(item: Any) -> int:
        return max(rank(x) for x in item) if isinstance(item, list) else int(np.ndim(item))

    least = max(levels, rank(arrays))

    def join(item: Any, level: int) -> Any:
        if not isinstance(item, list):
            x = traced(t, item)
            return np.reshape(x, (1,) * (least - x.ndim) + x.shape)
        return np.concatenate([join(x, level - 1) for x in item], axis=-level)

    return join(arrays, levels)


@function("insert")
def _insert(t: Trace, arr: Any, obj: Any, values: Any, axis: int | None = None) -> Any:
    x = traced(t, arr)
    if axis is None:
        x, axis = np.ravel(x), 0
    where = axis_of(x.value, axis)
    size = x.shape[where]
    places = np.arange(size)[obj] if isinstance(obj, slice) else np.asarray(obj)
    count = places.size
    if places.ndim == 0 or places.size == 1:
        count = np.ndim(values) and np.shape(values)[0 if np.ndim(values) == 1 else where]
        count = max(int(count), 1) if places.ndim == 0 and np.ndim(values) else max(places.size, 1)
        places = np.repeat(places.reshape(-1), count)
    order = np.insert(np.arange(size), obj if places.size == 1 else places, size + np.arange(count))
    shape = tuple(count if i == where else n for i, n in enumerate(x.shape))
    fresh = np.broadcast_to(traced(t, values), shape)
    return np.take(np.concatenate([x, fresh], axis=where), order, axis=where)


# --- pieces


@function("array_split")
def _array_split(t: Trace, ary: Any, indices_or_sections: Any, axis: int = 0) -> Any:
    x = traced(t, ary)
    if isinstance(indices_or_sections, (Sequence, np.ndarray)):
        return np.split(x, cast("Any", indices_or_sections), axis)
    count = operator.index(indices_or_sections)
    size = x.shape[axis_of(x.value, axis)]
    if count < 1:
        raise refuse("GC0558", f"array_split: {count} parts")
    each, more = divmod(size, count)
    cuts = np.cumsum([each + 1] * more + [each] * (count - more))[:-1]
    return np.split(x, [int(c) for c in cuts], axis)


def _split_along(axis: int) -> Rule:
    def rule(t: Trace, ary: Any, indices_or_sections: Any) -> Any:
        x = traced(t, ary)
        along = 0 if axis == 1 and x.ndim == 1 else axis
        return np.split(x, indices_or_sections, along)

    return rule


FUNCTIONS.update({"vsplit": _split_along(0), "hsplit": _split_along(1), "dsplit": _split_along(2)})


@function("unstack")
def _unstack(t: Trace, x: Any, *, axis: int = 0) -> tuple[Any, ...]:
    value = traced(t, x)
    return tuple(np.moveaxis(value, axis, 0)[i] for i in range(value.shape[axis]))


@function("delete")
def _delete(t: Trace, arr: Any, obj: Any, axis: int | None = None) -> Any:
    return moved(t, arr, lambda ids: np.delete(ids, obj, axis))


@function("compress")
def _compress(t: Trace, condition: Any, a: Any, axis: int | None = None, out: Any = None) -> Any:
    return moved(t, a, lambda ids: np.compress(_known(condition, "compress"), ids, axis))


@function("extract")
def _extract(t: Trace, condition: Any, arr: Any) -> Any:
    return moved(t, arr, lambda ids: np.extract(_known(condition, "extract"), ids))


def _known(condition: Any, name: str) -> Any:
    if isinstance(condition, Traced):
        message = f"numpy.{name} by a traced condition has a shape that depends on values"
        raise refuse("GC0560", message, "keep the shape: numpy.where(condition, x, 0)")
    return condition


# --- repeats


@function("repeat")
def _repeat(t: Trace, a: Any, repeats: Any, axis: int | None = None) -> Any:
    if np.ndim(repeats) or axis is None:
        return moved(t, a, lambda ids: np.repeat(ids, repeats, axis))
    x = traced(t, a)
    where = axis_of(x.value, axis)
    wide = (*x.shape[: where + 1], operator.index(repeats), *x.shape[where + 1 :])
    made = np.broadcast_to(np.expand_dims(x, where + 1), wide)
    flat = (*x.shape[:where], x.shape[where] * operator.index(repeats), *x.shape[where + 1 :])
    return np.reshape(made, flat)


@function("tile")
def _tile(t: Trace, A: Any, reps: Any) -> Any:
    x = traced(t, A)
    counts = [operator.index(n) for n in (reps if np.ndim(reps) else (reps,))]
    counts = [1] * (x.ndim - len(counts)) + counts
    x = np.reshape(x, (1,) * (len(counts) - x.ndim) + x.shape)
    wide = [n for pair in zip(counts, x.shape, strict=True) for n in pair]
    thin = [n for size in x.shape for n in (1, size)]
    flat = [n * size for n, size in zip(counts, x.shape, strict=True)]
    return np.reshape(np.broadcast_to(np.reshape(x, thin), wide), flat)


# --- diagonals and triangles


@function("diag")
def _diag(t: Trace, v: Any, k: int = 0) -> Any:
    return moved(t, v, lambda ids: np.diag(ids, k))


@function("diagflat")
def _diagflat(t: Trace, v: Any, k: int = 0) -> Any:
    return moved(t, v, lambda ids: np.diagflat(ids, k))


@function("diagonal")
def _diagonal(t: Trace, a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    return moved(t, a, lambda ids: np.diagonal(ids, offset, axis1, axis2))


@function("linalg.diagonal")
def _last_diagonal(t: Trace, x: Any, *, offset: int = 0) -> Any:
    return _diagonal(t, x, offset, -2, -1)


@function("trace")
def _trace(
    t: Trace,
    a: Any,
    offset: int = 0,
    axis1: int = 0,
    axis2: int = 1,
    dtype: Any = None,
    out: Any = None,
) -> Any:
    return np.sum(_diagonal(t, a, offset, axis1, axis2), axis=-1, dtype=dtype)


@function("linalg.trace")
def _last_trace(t: Trace, x: Any, *, offset: int = 0, dtype: Any = None) -> Any:
    return _trace(t, x, offset, -2, -1, dtype)


def _triangle(keep: Callable[..., Any]) -> Rule:
    def rule(t: Trace, m: Any, k: int = 0) -> Any:
        x = traced(t, m)
        if x.ndim == 1:
            x = np.broadcast_to(x, (x.shape[0], x.shape[0]))
        if x.ndim == 0:
            raise refuse("GC0558", "a triangle is taken of an array with axes")
        return np.where(keep(np.ones(x.shape[-2:], bool), k), x, np.zeros_like(x))

    return rule


FUNCTIONS.update({"tril": _triangle(np.tril), "triu": _triangle(np.triu)})


# --- padding


@function("pad")
def _pad(t: Trace, array: Any, pad_width: Any, mode: Any = "constant", **options: Any) -> Any:
    x = traced(t, array)
    widths = pad_width
    if isinstance(pad_width, dict):
        widths = [pad_width.get(i, pad_width.get(i - x.ndim, 0)) for i in range(x.ndim)]
        widths = [w if isinstance(w, (tuple, list)) else (w, w) for w in widths]
    if (
        mode in ("edge", "reflect", "symmetric", "wrap", "empty")
        and options.get("reflect_type", "even") == "even"
    ):
        return moved(t, x, lambda ids: np.pad(ids, widths, mode, **options))
    if mode != "constant":
        raise refuse("GC0560", f"numpy.pad with mode {mode!r} cannot be traced", "use 'constant'")
    pairs = np.broadcast_to(np.asarray(widths), (x.ndim, 2)).astype(int)
    if pairs.size and pairs.min() < 0:
        raise refuse("GC0558", "numpy.pad: widths must not be negative")
    low, high = (tuple(int(n) for n in pairs[:, side]) for side in (0, 1))
    padded = t.wrap(t.emit("pad", x.value, low=low, high=high, interior=(0,) * x.ndim))
    filling = options.get("constant_values", 0)
    if not isinstance(filling, Traced) and not np.any(filling):
        return padded
    if isinstance(filling, Traced) or np.ndim(filling) == 0:
        inside = np.pad(np.ones(x.shape, bool), pairs)
        return np.where(inside, padded, filling)
    return padded + np.pad(np.zeros(x.shape), pairs, constant_values=filling)


# --- gathers


@function("take")
def _take(
    t: Trace,
    a: Any,
    indices: Any,
    axis: int | None = None,
    out: Any = None,
    mode: str = "raise",
) -> Any:
    """numpy.take. Known places are checked now; traced ones out of range read NaN in mode
    ``raise``.
    """
    x = traced(t, a)
    if axis is None:
        x, axis = np.ravel(x), 0
    where = axis_of(x.value, axis)
    size = x.shape[where]
    if not isinstance(indices, Traced):
        ids = np.asarray(indices)
        if ids.dtype.kind not in "iu" and ids.size:
            raise refuse("GC0560", f"take needs integers, not {ids.dtype}")
        places = _in_range(ids.astype(np.int64), size, mode)
        if places.ndim == 0:
            return x[(slice(None),) * where + (int(places),)]
        return _taken(t, x.value, t.lift(places), where)
    value = t.lift(indices)
    if value.type.dtype is DType.BOOL or value.type.dtype.is_float:
        raise refuse("GC0560", f"take needs integers, not {value.type}")
    chosen: Any = t.wrap(value)
    if mode == "clip":
        chosen = np.clip(chosen, 0, size - 1)
    elif mode == "wrap":
        chosen = np.mod(chosen, size)
    else:
        chosen = np.where(chosen < 0, chosen + size, chosen)
    return _taken(t, x.value, t.lift(chosen), where)


def _taken(t: Trace, value: Value, ids: Value, axis: int) -> Any:
    return t.wrap(t.emit("take", value, t.cast(ids, DType.I64), axis=axis))


def _in_range(ids: Any, size: int, mode: str) -> Any:
    if mode == "clip":
        return np.clip(ids, 0, size - 1)
    if mode == "wrap":
        return np.mod(ids, max(size, 1))
    if ids.size and not (-size <= ids.min() and ids.max() < size):
        raise OutOfRange(f"take: an index is out of range for an axis of {size}")
    return np.where(ids < 0, ids + size, ids)


def rows_of(t: Trace, ids: Value, axis: int, size: int) -> Value:
    """Places along ``axis`` as places in the flattened array, whose axis has ``size`` elements."""
    shape = ids.type.static_shape
    whole = tuple(size if i == axis else n for i, n in enumerate(shape))
    strides = [math.prod(whole[i + 1 :]) for i in range(len(whole))]
    base = np.zeros(shape, np.int64)
    for i, n in enumerate(shape):
        if i != axis:
            line = (np.arange(n) * strides[i]).reshape(
                [-1 if j == i else 1 for j in range(len(shape))]
            )
            base = base + line
    along: Any = t.wrap(t.cast(ids, DType.I64))
    return t.lift(along * strides[axis] + base)


@function("take_along_axis")
def _take_along(t: Trace, arr: Any, indices: Any, axis: int | None = -1) -> Any:
    x, ids = traced(t, arr), traced(t, indices)
    if axis is None:
        x, axis = np.ravel(x), 0
    where = axis_of(x.value, axis)
    shape = list(
        np.broadcast_shapes(
            *(tuple(1 if i == where else n for i, n in enumerate(v.shape)) for v in (x, ids))
        )
    )
    size, count = x.shape[where], ids.shape[where]
    x = np.broadcast_to(x, [size if i == where else n for i, n in enumerate(shape)])
    ids = np.broadcast_to(ids, [count if i == where else n for i, n in enumerate(shape)])
    ids = traced(t, np.where(ids < 0, ids + size, ids))
    flat: Any = np.ravel(x)
    return _taken(t, flat.value, rows_of(t, ids.value, where, size), 0)


@function("choose")
def _choose(t: Trace, a: Any, choices: Any, out: Any = None, mode: str = "raise") -> Any:
    items = [traced(t, c) for c in choices]
    ids = traced(t, a)
    if mode == "clip":
        ids = np.clip(ids, 0, len(items) - 1)
    elif mode == "wrap":
        ids = np.mod(ids, len(items))
    found = items[-1]
    for n in range(len(items) - 2, -1, -1):
        found = np.where(ids == n, items[n], found)
    return np.broadcast_to(found, np.broadcast_shapes(ids.shape, found.shape))


@function("select")
def _select(t: Trace, condlist: Any, choicelist: Any, default: Any = 0) -> Any:
    if len(condlist) != len(choicelist):
        raise refuse("GC0558", "select: as many conditions as choices")
    found = traced(t, default)
    for condition, choice in reversed(list(zip(condlist, choicelist, strict=True))):
        found = np.where(condition, choice, found)
    return found


@function("piecewise")
def _piecewise(t: Trace, x: Any, condlist: Any, funclist: Any, *args: Any, **options: Any) -> Any:
    value = traced(t, x)
    conditions = condlist if isinstance(condlist, (list, tuple)) else [condlist]
    functions = list(funclist)
    rest: Any = functions.pop() if len(functions) > len(conditions) else 0

    def of(item: Any) -> Any:
        return item(value, *args, **options) if callable(item) else item

    found = np.broadcast_to(traced(t, of(rest)), value.shape)
    for condition, item in zip(conditions, functions, strict=True):
        found = np.where(condition, of(item), found)
    return found


__all__ = ["axes_of", "axes_of_rank", "function", "moved", "rows_of", "traced", "truth"]
