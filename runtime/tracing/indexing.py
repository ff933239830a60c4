"""Indexing as NumPy has it, reading and assigning: slices, integers, new axes, arrays of ids,
masks.

Negative ids count from the end, and known ids out of range raise IndexError where they stand. Ids
that are traced wrap likewise; out of range they read NaN (0 for integers), since no error can be
raised from compiled code. A traced mask has no fixed count, so it may be assigned under, and read
through ``numpy.where``.

Assignment makes a new value: along each axis what lies before, the new part, what lies after.

Non-goals: assignment at traced arrays of ids (``numpy.add.at`` adds there).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex, cast

import numpy as np

from gradc.ir.tensor.core import DType, Value
from gradc.runtime.tracing.functions import reshape
from gradc.runtime.tracing.trace import FUNCTIONS, PROTOCOLS, OutOfRange, Trace, Traced, refuse
from gradc.runtime.tracing.views import View

Part = Any  # a slice, an int, an array of known ids, or a traced id


def _parts(t: Trace, value: Value, key: object) -> tuple[Value, list[Part]]:
    """``value`` with the new axes of ``key``, and a part for each of its axes."""
    given: list[Part] = []
    for part in key if isinstance(key, tuple) else (key,):
        given += _as_parts(t, part)
    used = sum(part is not None and part is not Ellipsis for part in given)
    if sum(part is Ellipsis for part in given) > 1:
        raise OutOfRange("an index can only have a single ellipsis ('...')")
    if used > value.type.rank:
        raise OutOfRange(f"too many indices for {value.type}: {used} were given")
    if not any(part is Ellipsis for part in given):
        given.append(Ellipsis)
    at = next(n for n, part in enumerate(given) if part is Ellipsis)
    given[at : at + 1] = [slice(None)] * (value.type.rank - used)
    sizes = iter(value.type.static_shape)
    shape = tuple(1 if part is None else next(sizes) for part in given)
    parts = [slice(None) if part is None else part for part in given]
    return reshape(t, value, shape), [_checked(p, n) for p, n in zip(parts, shape, strict=True)]


def _as_parts(t: Trace, part: object) -> list[Part]:
    """One entry of a key as parts that use one axis each (None: a new one)."""
    if part is None or part is Ellipsis or isinstance(part, slice):
        return [part]
    if isinstance(part, Traced):
        if part.value.type.dtype is DType.BOOL:
            help = "numpy.where(mask, x, 0) keeps the shape; to assign, write x[mask] = value alone"
            raise refuse("GC0560", "a mask that is traced selects an unknown number", help)
        if part.value.type.dtype.is_float:
            raise refuse("GC0560", f"an index must be integers, not {part.value.type}")
        return [part]
    if isinstance(part, (bool, np.bool_)):
        if not part:
            raise refuse("GC0560", "an index of False beside others cannot be traced")
        return [None]
    if isinstance(part, (list, tuple)) and any(isinstance(p, Traced) for p in part):
        return [FUNCTIONS["stack"](t, list(part))]
    if not isinstance(part, (np.ndarray, list, tuple)):
        try:
            return [operator.index(cast("SupportsIndex", part))]
        except TypeError:
            raise OutOfRange(f"an index must be integers, not {type(part).__name__}") from None
    array = np.asarray(part)
    if array.dtype.kind == "b":
        return list(np.nonzero(array)) if array.ndim else _as_parts(t, bool(array))
    if array.size and array.dtype.kind not in "iu":
        raise OutOfRange(f"an index must be integers, not {array.dtype}")
    return [int(array)] if array.ndim == 0 else [array.astype(np.int64)]


def _checked(part: Part, size: int) -> Part:
    """``part`` with known ids from 0; raises OutOfRange."""
    if isinstance(part, int) and not isinstance(part, Traced):
        if not -size <= part < size:
            raise OutOfRange(f"index {part} is out of range for an axis of {size}")
        return part % size
    if type(part) is np.ndarray and part.size:
        low, high = int(part.min()), int(part.max())
        if low < -size or high >= size:
            wrong = low if low < -size else high
            raise OutOfRange(f"index {wrong} is out of range for an axis of {size}")
        return np.where(part < 0, part + size, part)
    return part


def _is_basic(part: Part) -> bool:
    return isinstance(part, slice) or type(part) is int


def _getitem(t: Trace, a: object, key: object) -> Traced:
    if isinstance(key, (bool, np.bool_)) and not key:
        value = t.lift(a)
        return t.wrap(t.constant(0, value.type.dtype, (0, *value.type.static_shape)))
    value, parts = _parts(t, t.lift(a), key)
    if all(_is_basic(part) for part in parts):
        return t.wrap(_basic(t, value, parts))
    return t.wrap(_advanced(t, value, parts))


def _basic(t: Trace, value: Value, parts: Sequence[Part]) -> Value:
    """Slices and integers; negative steps reverse the axis first."""
    start, limit, stride, shape, flipped = [], [], [], [], []
    for axis, (part, size) in enumerate(zip(parts, value.type.static_shape, strict=True)):
        span = range(*part.indices(size)) if isinstance(part, slice) else range(part, part + 1)
        if isinstance(part, slice):
            shape.append(len(span))
        if span.step < 0:
            flipped.append(axis)
            span = range(size - 1 - span.start, size - 1 - span.stop, -span.step)
        start.append(min(span.start, size))
        limit.append(max(min(span.start, size), min(span.stop, size)))
        stride.append(span.step)
    if flipped:
        value = t.emit("reverse", value, axes=tuple(flipped))
    whole = all(s == 0 for s in start) and limit == list(value.type.static_shape)
    if not whole or any(s != 1 for s in stride):
        low, high, step = tuple(start), tuple(limit), tuple(stride)
        value = t.emit("slice", value, start=low, limit=high, stride=step)
    return reshape(t, value, tuple(shape))


def _advanced(t: Trace, value: Value, parts: list[Part]) -> Value:
    """Arrays of ids on some axes, slices on the others."""
    slices = [part if isinstance(part, slice) else slice(None) for part in parts]
    value = _basic(t, value, slices)
    axes = [n for n, part in enumerate(parts) if not isinstance(part, slice)]
    if len(axes) == 1:
        ids = _ids(t, parts[axes[0]], value.type.static_shape[axes[0]])
        return t.emit("take", value, t.cast(ids, DType.I32), axis=axes[0])
    sizes = value.type.static_shape
    rest = [n for n in range(len(sizes)) if n not in axes]
    linear = _linear(t, [parts[n] for n in axes], [sizes[n] for n in axes])
    turned = t.emit("transpose", value, perm=(*axes, *rest))
    count = int(np.prod([sizes[n] for n in axes]))
    flat = reshape(t, turned, (count, *(sizes[n] for n in rest)))
    found = t.emit("take", flat, t.cast(linear, DType.I32), axis=0)
    is_together = axes == list(range(axes[0], axes[0] + len(axes)))
    if not is_together or axes[0] == 0:
        return found
    rank, first = linear.type.rank, axes[0]
    perm = (*range(rank, rank + first), *range(rank), *range(rank + first, found.type.rank))
    return t.emit("transpose", found, perm=perm)


def _ids(t: Trace, part: Part, size: int) -> Value:
    """Ids as a value, negative ones counted from the end."""
    if not isinstance(part, Traced):
        return t.lift(np.asarray(part, np.int64))
    ids = t.cast(t.lift(part), DType.I64)
    shape = ids.type.static_shape
    is_low = t.emit("lt", ids, t.constant(0, DType.I64, shape))
    return t.emit("select", is_low, t.emit("add", ids, t.constant(size, DType.I64, shape)), ids)


def _linear(t: Trace, parts: Sequence[Part], sizes: Sequence[int]) -> Value:
    """One id for the axes of ``parts`` together; one past the end where any of them is out of
    range.
    """
    if not any(isinstance(part, Traced) for part in parts):
        whole = np.broadcast_arrays(*parts)
        return t.lift(np.ravel_multi_index(tuple(whole), tuple(sizes)).astype(np.int64))
    ids = [_ids(t, part, size) for part, size in zip(parts, sizes, strict=True)]
    shape = t.broadcast_shape(ids)
    total: Value | None = None
    is_there: Value | None = None
    for each, size in zip(ids, sizes, strict=True):
        wide = t.broadcast(each, shape)
        here = t.emit(
            "logical_and",
            t.emit("ge", wide, t.constant(0, DType.I64, shape)),
            t.emit("lt", wide, t.constant(size, DType.I64, shape)),
        )
        is_there = here if is_there is None else t.emit("logical_and", is_there, here)
        if total is not None:
            wide = t.emit("add", t.emit("mul", total, t.constant(size, DType.I64, shape)), wide)
        total = wide
    assert total is not None and is_there is not None, "an index has parts"
    beyond = t.constant(int(np.prod(sizes)), DType.I64, shape)
    return t.emit("select", is_there, total, beyond)


# --- assignment


def _setitem(t: Trace, a: object, key: object, item: object) -> Value:
    """The value of ``a`` after ``a[key] = item``."""
    old = t.lift(a)
    new = t.cast(t.lift(item, old.type.dtype), old.type.dtype)
    if isinstance(key, Traced) and key.value.type.dtype is DType.BOOL:
        return _under_mask(t, old, t.lift(key), new)
    value, parts = _parts(t, old, key)
    if any(isinstance(p, Traced) and p.ndim for p in parts):
        help = "numpy.add.at(y, ids, values) adds at traced ids; numpy.where chooses"
        raise refuse("GC0560", "assignment at traced ids cannot be traced", help)
    if any(type(part) is np.ndarray for part in parts):
        return reshape(t, _scattered(t, value, parts, new), old.type.static_shape)
    shape = [
        len(range(*p.indices(n)))
        for p, n in zip(parts, value.type.static_shape, strict=True)
        if isinstance(p, slice)
    ]
    new = _fitted(t, new, tuple(shape))
    made = _placed(t, value, parts, 0, new)
    return reshape(t, made, old.type.static_shape)


def _fitted(t: Trace, new: Value, shape: tuple[int, ...]) -> Value:
    """``new`` stretched to the part it is assigned to; leading axes of 1 are dropped, as NumPy
    does.
    """
    own = new.type.static_shape
    while len(own) > len(shape) and own[0] == 1:
        own = own[1:]
    new = reshape(t, new, own)
    try:
        fits = np.broadcast_shapes(own, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        message = f"an array of shape {list(own)} cannot be assigned to a part of {list(shape)}"
        raise refuse("GC0558", message)
    return t.broadcast(new, shape)


def _under_mask(t: Trace, old: Value, mask: Value, new: Value) -> Value:
    """``old[mask] = new`` for what is one value for all places, or one for each row that the mask
    marks.
    """
    rest = old.type.static_shape[mask.type.rank :]
    if old.type.static_shape[: mask.type.rank] != mask.type.static_shape:
        raise OutOfRange(f"a mask of {mask.type} does not suit {old.type}")
    if new.type.rank > len(rest):
        help = "numpy.where(mask, values, y) with values of the shape of y"
        raise refuse("GC0560", "a traced mask marks an unknown number of places", help)
    shape = old.type.static_shape
    wide = reshape(t, mask, (*mask.type.static_shape, *(1 for _ in rest)))
    return t.emit("select", t.broadcast(wide, shape), t.broadcast(new, shape), old)


def _placed(t: Trace, value: Value, parts: Sequence[Part], axis: int, new: Value) -> Value:
    """``value`` with ``new`` at ``parts`` of its axes from ``axis`` on."""
    if axis == len(parts):
        return reshape(t, new, value.type.static_shape)
    part, sizes = parts[axis], value.type.static_shape
    if isinstance(part, slice) and part.indices(sizes[axis]) == (0, sizes[axis], 1):
        return _placed(t, value, parts, axis + 1, new)
    if isinstance(part, Traced):
        return _placed_at(t, value, parts, axis, new)
    span = range(*part.indices(sizes[axis])) if isinstance(part, slice) else range(part, part + 1)
    if not span:
        return value
    own = [slice(None)] * len(sizes)
    own[axis] = part if isinstance(part, slice) else slice(part, part + 1)
    inner = _placed(t, _basic(t, value, own), parts, axis + 1, new)
    if span.step != 1:
        places = np.arange(sizes[axis])
        places[list(span)] = sizes[axis] + np.arange(len(span))
        both = t.emit("concat", value, inner, axis=axis)
        return t.emit("take", both, t.lift(places.astype(np.int32)), axis=axis)
    pieces = [inner]
    if span.start:
        own[axis] = slice(0, span.start)
        pieces.insert(0, _basic(t, value, own))
    if span.stop < sizes[axis]:
        own[axis] = slice(span.stop, None)
        pieces.append(_basic(t, value, own))
    return t.emit("concat", *pieces, axis=axis) if len(pieces) > 1 else inner


def _placed_at(t: Trace, value: Value, parts: Sequence[Part], axis: int, new: Value) -> Value:
    """The same at one traced id: every place is asked whether it is meant."""
    sizes = value.type.static_shape
    whole = [slice(None)] * axis + [slice(None)] + list(parts[axis + 1 :])
    stretched = [*new.type.static_shape]
    kept = sum(isinstance(p, slice) for p in parts[:axis])
    stretched.insert(kept, 1)
    wide = list(stretched)
    wide[kept] = sizes[axis]
    spread = t.emit(
        "broadcast",
        reshape(t, new, tuple(stretched)),
        shape=tuple(wide),
        dims=tuple(range(len(wide))),
    )
    all_rows = _placed(t, value, whole, axis + 1, spread)
    places = t.emit("iota", axis=axis, dtype=DType.I64, shape=sizes)
    meant = t.broadcast(_ids(t, parts[axis], sizes[axis]), sizes)
    return t.emit("select", t.emit("eq", places, meant), all_rows, value)


def _scattered(t: Trace, value: Value, parts: Sequence[Part], new: Value) -> Value:
    """Assignment at known arrays of ids: every place reads itself or the new element that is last
    put there.
    """
    sizes = value.type.static_shape
    if any(isinstance(part, Traced) for part in parts):
        raise refuse("GC0560", "assignment at traced ids and arrays of ids cannot be traced")
    places = np.arange(int(np.prod(sizes))).reshape(sizes)[tuple(parts)]
    return _at_places(t, value, places, _fitted(t, new, places.shape))


def _at_places(t: Trace, value: Value, places: Any, new: Value) -> Value:
    """``value`` with the elements of ``new`` at ``places`` of the whole of it."""
    sizes = value.type.static_shape
    count = int(np.prod(sizes))
    source = np.arange(count)
    source[places.ravel()] = count + np.arange(places.size)
    flat = [reshape(t, value, (count,)), reshape(t, new, (places.size,))]
    both = t.emit("concat", *flat, axis=0)
    found = t.emit("take", both, t.lift(source.astype(np.int32)), axis=0)
    return reshape(t, found, sizes)


def _put_back(t: Trace, view: View, new: Value) -> Value:
    """The value of what ``view`` is of, after ``new`` was put into all of the view."""
    value = view.base.value
    sizes = value.type.static_shape
    whole = np.arange(int(np.prod(sizes)))
    assert view.same is not None, "parts of complex numbers are put back by name"
    places = np.asarray(view.same(whole.reshape(sizes)))
    order = tuple(int(n) for n in np.argsort([-step for step in places.strides], kind="stable"))
    if np.array_equal(places.transpose(order).ravel(), whole):
        turned = new if order == tuple(range(len(order))) else t.emit("transpose", new, perm=order)
        return reshape(t, turned, sizes)
    return _at_places(t, value, places, new)


FUNCTIONS["getitem"] = _getitem
PROTOCOLS["setitem"] = _setitem
PROTOCOLS["put back"] = _put_back
