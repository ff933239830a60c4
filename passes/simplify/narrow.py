"""Slices that read little of something large made from little: only what is read is made.

``sin(x[:, None] * y)`` reshaped to one axis and sliced to its last three elements would be computed
whole and then read in three places. Such a slice moves down through reshapes, transposes and
elementwise ops to the broadcast, or through a matrix product to its operands, so that the whole
never exists, and (before differentiation) nor does its cotangent. All moves are exact: a product's
element is summed over k in an order that depends on k alone (``ir.loop.kernel``). Products of
several summed axes, or several free ones on the right, stay whole: whether they become a matrix
product or plain loops, which sum otherwise, depends on whether those axes lie together in memory,
and axes of one element always do.

They apply where the slice reads at most one part in ``_FEW`` of a value that is at least as many
times larger than what it is made from. Elsewhere they would only do work twice: a row of a computed
matrix is read from the matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gradc.ir.ops.attributes import get_dims, get_ints, get_pairs
from gradc.ir.ops.contraction import free_axes
from gradc.ir.ops.registry import is_product, lookup, number_of
from gradc.ir.ops.traits import Moves
from gradc.ir.tensor.core import Op, Value
from gradc.ir.tensor.dims import Dim

_FEW = 16
# So many ops are looked at to find what a value is made from.
_MOST_OPS = 256


class Rewriter(Protocol):
    """What these rules use of the simplifier."""

    def emit(self, name: str, *operands: Value, hint: str = "", **attributes: Any) -> Value: ...
    def made_by(self, value: Value, name: str) -> Op | None: ...
    def maker(self, value: Value) -> Op | None: ...
    def sliced(
        self, value: Value, start: Sequence[Dim], limit: Sequence[Dim], stride: Sequence[int]
    ) -> Value: ...


@dataclass(frozen=True, slots=True)
class _Slice:
    """A slice in numbers; each limit lies just behind the last element that is read."""

    start: tuple[int, ...]
    limit: tuple[int, ...]
    stride: tuple[int, ...]


def slice_of_pointwise(r: Rewriter, op: Op) -> Value | None:
    """``f(x, y)[..] = f(x[..], y[..])``."""
    inner = r.maker(op.operands[0])
    if inner is None or not lookup(inner.name).is_elementwise or not _is_worth_it(r, op):
        return None
    start, limit = get_dims(op.attributes, "start"), get_dims(op.attributes, "limit")
    stride = get_ints(op.attributes, "stride")
    parts = [r.sliced(v, start, limit, stride) for v in inner.operands]
    return r.emit(inner.name, *parts, hint=op.result.hint, **inner.attributes)


def slice_of_transpose(r: Rewriter, op: Op) -> Value | None:
    """A slice of a transpose is a transpose of a slice."""
    inner = r.made_by(op.operands[0], "transpose")
    if inner is None or not _is_worth_it(r, op):
        return None
    perm = get_ints(inner.attributes, "perm")
    moved: dict[str, Any] = {
        name: tuple(get_dims(op.attributes, name)[perm.index(axis)] for axis in range(len(perm)))
        for name in ("start", "limit", "stride")
    }
    return r.emit("transpose", r.emit("slice", inner.operands[0], **moved), perm=perm)


def slice_of_contract(r: Rewriter, op: Op) -> Value | None:
    """A slice of a product is a product of slices."""
    inner = r.made_by(op.operands[0], "contract")
    if inner is None or not _is_worth_it(r, op):
        return None
    a, b = inner.operands
    batch = get_pairs(inner.attributes, "batch")
    left, right = (free_axes(inner.attributes, n, v.type.rank) for n, v in enumerate((a, b)))
    if len(get_pairs(inner.attributes, "contract")) > 1 or len(right) > 1:
        return None
    # Of each operand, which axis of the product stands at which of its own.
    places = (
        {**{i: n for n, (i, _) in enumerate(batch)}, **_numbered(left, len(batch))},
        {**{j: n for n, (_, j) in enumerate(batch)}, **_numbered(right, len(batch) + len(left))},
    )
    operands = []
    for operand, at in zip((a, b), places, strict=True):
        rows = [get_dims(op.attributes, name) for name in ("start", "limit")]
        stride = get_ints(op.attributes, "stride")
        ends: list[tuple[Dim, Dim, int]] = [(0, size, 1) for size in operand.type.shape]
        for axis, place in at.items():
            ends[axis] = (rows[0][place], rows[1][place], stride[place])
        start, limit = [end[0] for end in ends], [end[1] for end in ends]
        operands.append(r.sliced(operand, start, limit, [end[2] for end in ends]))
    return r.emit("contract", *operands, hint=op.result.hint, **inner.attributes)


def _numbered(axes: Sequence[int], first: int) -> dict[int, int]:
    return {axis: first + number for number, axis in enumerate(axes)}


def slice_of_broadcast(r: Rewriter, op: Op) -> Value | None:
    """A slice of a broadcast is a broadcast of a slice."""
    inner = r.made_by(op.operands[0], "broadcast")
    if inner is None or not _is_worth_it(r, op):
        return None
    source, whole = inner.operands[0], inner.result.type.shape
    dims = get_ints(inner.attributes, "dims")
    # An axis of size 1 may have been stretched: then there is nothing to cut.
    kept = [whole[axis] == size for axis, size in zip(dims, source.type.shape, strict=True)]
    moved: dict[str, Any] = {
        name: tuple(
            get_dims(op.attributes, name)[axis] if is_kept else other
            for axis, is_kept in zip(dims, kept, strict=True)
        )
        for name, other in (("start", 0), ("limit", 1), ("stride", 1))
    }
    part = r.emit("slice", source, **moved)
    return r.emit("broadcast", part, shape=op.result.type.shape, dims=dims)


def slice_of_reshape(r: Rewriter, op: Op) -> Value | None:
    """What a slice of a reshape does not reach is cut away before the reshape."""
    inner = r.made_by(op.operands[0], "reshape")
    bounds = _bounds(op)
    if inner is None or bounds is None or not _is_worth_it(r, op):
        return None
    source = inner.operands[0]
    before, after = source.type.static_shape, inner.result.type.static_shape
    cut: list[tuple[int, int]] = []
    shape: list[int] = []
    moved: list[int] = []
    for old, new in _groups(before, after):
        inside, sizes, offsets = _narrowed(
            before[old.start : old.stop], after[new.start : new.stop], bounds, new
        )
        cut += inside
        shape += sizes
        moved += offsets
    if all(part == (0, size) for part, size in zip(cut, before, strict=True)):
        return None
    ones = [1] * len(cut)
    part = r.sliced(source, [low for low, _ in cut], [high for _, high in cut], ones)
    wide = r.emit("reshape", part, shape=tuple(shape))
    start = tuple(low - away for low, away in zip(bounds.start, moved, strict=True))
    limit = tuple(high - away for high, away in zip(bounds.limit, moved, strict=True))
    return r.emit("slice", wide, start=start, limit=limit, stride=bounds.stride)


def _is_worth_it(r: Rewriter, op: Op) -> bool:
    """Whether little is read of what is large and made from little."""
    source = op.operands[0]
    if not all(isinstance(d, int) for v in (source, op.result) for d in v.type.shape):
        return False
    size = math.prod(source.type.static_shape)
    read = math.prod(op.result.type.static_shape)
    return 0 < read * _FEW <= size and _made_from(r, source, size // _FEW)


def _made_from(r: Rewriter, value: Value, most: int) -> bool:
    """Whether ``value`` is made, through views, products and elementwise ops, from at most ``most``
    elements.
    """
    seen: set[Value] = set()
    stack = [value]
    total = 0
    while stack:
        at = stack.pop()
        if at in seen:
            continue
        seen.add(at)
        op = r.maker(at)
        if op is not None and number_of(op) is not None:
            continue
        if op is not None and lookup(op.name).traits.moves is Moves.REPEATS:
            total += math.prod(op.operands[0].type.static_shape)
        elif op is not None and (
            is_product(op)
            or lookup(op.name).is_elementwise
            or lookup(op.name).traits.moves is Moves.PERMUTES
        ):
            stack += op.operands
        elif all(isinstance(d, int) for d in at.type.shape):
            total += math.prod(at.type.static_shape)
        else:
            return False
        if total > most or len(seen) > _MOST_OPS:
            return False
    return True


def _bounds(op: Op) -> _Slice | None:
    start, limit = get_dims(op.attributes, "start"), get_dims(op.attributes, "limit")
    lows = tuple(d for d in start if isinstance(d, int))
    highs = tuple(d for d in limit if isinstance(d, int))
    if len(lows) < len(start) or len(highs) < len(limit):
        return None
    stride = get_ints(op.attributes, "stride")
    rows = zip(lows, highs, stride, strict=True)
    return _Slice(lows, tuple(a + (b - 1 - a) // step * step + 1 for a, b, step in rows), stride)


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[range, range]]:
    """The runs of axes that a reshape turns into each other; the last takes trailing axes of size
    1.
    """
    groups: list[tuple[range, range]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        first, second = i, j
        left, right = before[i], after[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left *= before[i]
                i += 1
            else:
                right *= after[j]
                j += 1
        groups.append((range(first, i), range(second, j)))
    if groups and (i < len(before) or j < len(after)):
        old, new = groups.pop()
        groups.append((range(old.start, len(before)), range(new.start, len(after))))
    return groups


def _narrowed(
    before: Sequence[int], after: Sequence[int], bounds: _Slice, new: range
) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """For one group of axes: what is kept of the axes before, the axes after, and how far these
    moved.
    """
    starts = [bounds.start[axis] for axis in new]
    last = [bounds.limit[axis] - 1 for axis in new]
    low, high = _place(starts, after), _place(last, after) + 1
    whole = [(0, size) for size in before]
    if sum(size != 1 for size in after) > 1:
        return _in_blocks(before, after, low, high)
    axis = next((n for n, size in enumerate(after) if size != 1), None)
    if axis is None:
        return whole, list(after), [0] * len(after)
    kept: list[tuple[int, int]] = []
    moved, rest = 0, math.prod(before)
    for number, size in enumerate(before):
        rest //= size
        first, end = (low - moved) // rest, -(-(high - moved) // rest)
        kept.append((first, end))
        moved += first * rest
        if end - first > 1:
            kept += whole[number + 1 :]
            break
    sizes, offsets = [1] * len(after), [0] * len(after)
    sizes[axis] = math.prod(b - a for a, b in kept)
    offsets[axis] = moved
    return kept, sizes, offsets


def _in_blocks(
    before: Sequence[int], after: Sequence[int], low: int, high: int
) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Several axes to several: whole blocks along the first axes of both are kept."""
    first = next(n for n, size in enumerate(before) if size != 1)
    leading = next(n for n, size in enumerate(after) if size != 1)
    inner = math.prod(before[first + 1 :])
    outer = math.prod(after[leading + 1 :])
    unit = math.lcm(inner, outer)
    low, high = low // unit * unit, -(-high // unit) * unit
    kept = [(0, size) for size in before]
    kept[first] = (low // inner, high // inner)
    sizes, offsets = list(after), [0] * len(after)
    sizes[leading] = (high - low) // outer
    offsets[leading] = low // outer
    return kept, sizes, offsets


def _place(index: Sequence[int], shape: Sequence[int]) -> int:
    place = 0
    for at, size in zip(index, shape, strict=True):
        place = place * size + at
    return place
