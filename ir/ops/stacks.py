"""How ops are applied to operands of which some are stacked along a new first axis, where their
attributes alone do not say it: rules for ``Traits.batched``.

The result is stacked in the same way, and each position of it is the op at that position.

Non-goals: operands that are all stacked and attributes that say it (``Traits.stacked``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradc.ir.ops.attributes import get_int, get_ints, get_pairs
from gradc.ir.tensor.core import Attr, DType, Op, Value

if TYPE_CHECKING:
    from gradc.ir.ops.builder import Builder


def along_axis(
    b: Builder, op: Op, operands: Sequence[Value], _flags: Sequence[bool], _count: int
) -> Value:
    """One operand, one axis: that axis, one further on."""
    axis = get_int(op.attributes, "axis")
    return _again(b, op, operands, axis=axis + 1)


def over_axes(
    b: Builder, op: Op, operands: Sequence[Value], _flags: Sequence[bool], _count: int
) -> Value:
    """One operand, several axes: each one further on."""
    axes = tuple(axis + 1 for axis in get_ints(op.attributes, "axes"))
    return _again(b, op, operands, axes=axes)


def contract(
    b: Builder, op: Op, operands: Sequence[Value], flags: Sequence[bool], _count: int
) -> Value:
    """Stacks of both operands are a batch axis; of one, an axis of its own, moved to the front."""
    left, right = (int(flag) for flag in flags)
    batch, pairs = (
        tuple((i + left, j + right) for i, j in get_pairs(op.attributes, name))
        for name in ("batch", "contract")
    )
    if left and right:
        return b.one("contract", *operands, batch=((0, 0), *batch), contract=pairs)
    made = b.one("contract", *operands, batch=batch, contract=pairs)
    place = len(batch)
    if right:
        place = op.operands[0].type.rank - len(pairs)
    return _to_front(b, made, place)


def take(b: Builder, op: Op, operands: Sequence[Value], flags: Sequence[bool], count: int) -> Value:
    """Stacked tables are one table, whose rows are numbered on; ids out of range stay so."""
    axis = get_int(op.attributes, "axis")
    table, ids = operands
    if not flags[1]:
        return _again(b, op, operands, axis=axis + 1)
    if not flags[0]:
        return _to_front(b, _again(b, op, operands), axis)
    size = table.type.static_shape[axis + 1]
    rows = _front(b, table, axis + 1, 1)
    shape = rows.type.static_shape
    rows = b.one("reshape", rows, shape=(count * size, *shape[2:]))
    found = _again(b, op, (rows, _numbered(b, ids, size)), axis=0)
    rank = ids.type.rank
    # [count, ids, before the axis, behind it] to [count, before, ids, behind]
    order = (
        0,
        *range(rank, rank + axis),
        *range(1, rank),
        *range(rank + axis, found.type.rank),
    )
    return b.one("transpose", found, perm=order)


def scatter_add(
    b: Builder, op: Op, operands: Sequence[Value], flags: Sequence[bool], count: int
) -> Value:
    """The transpose of ``take``: all updates go to one table."""
    axis = get_int(op.attributes, "axis")
    ids, updates = operands
    if not flags[0]:
        return _again(b, op, operands, axis=axis + 1)
    if not flags[1]:
        shape = (count, *updates.type.static_shape)
        updates = b.one("broadcast", updates, shape=shape, dims=tuple(range(1, len(shape))))
    size, rank = get_int(op.attributes, "size"), ids.type.rank
    order = (
        0,
        *range(1 + axis, axis + rank),
        *range(1, 1 + axis),
        *range(axis + rank, updates.type.rank),
    )
    moved = b.one("transpose", updates, perm=order)
    made = b.one("scatter_add", _numbered(b, ids, size), moved, axis=0, size=count * size)
    shape = made.type.static_shape
    split = b.one("reshape", made, shape=(count, size, *shape[1:]))
    perm = (0, *range(2, 2 + axis), 1, *range(2 + axis, split.type.rank))
    return b.one("transpose", split, perm=perm)


def _again(b: Builder, op: Op, operands: Sequence[Value], **attributes: Attr) -> Value:
    """``op`` on other operands, some of its attributes changed."""
    (found,) = b.apply(op.name, operands, {**op.attributes, **attributes})
    return found


def _numbered(b: Builder, ids: Value, size: int) -> Value:
    """Ids into tables of ``size`` rows as ids into all tables of a stack, -1 for none."""
    shape = ids.type.static_shape
    wide = b.one("cast", ids, dtype=DType.I64)
    first = b.one("iota", axis=0, dtype=DType.I64, shape=shape)
    first = b.one("mul", first, b.constant(size, DType.I64, shape))
    is_inside = b.one(
        "logical_and",
        b.one("ge", wide, b.constant(0, DType.I64, shape)),
        b.one("lt", wide, b.constant(size, DType.I64, shape)),
    )
    return b.one("select", is_inside, b.one("add", wide, first), b.constant(-1, DType.I64, shape))


def _front(b: Builder, value: Value, axis: int, to: int) -> Value:
    """``axis`` moved to the place ``to``."""
    rest = [i for i in range(value.type.rank) if i != axis]
    perm = (*rest[:to], axis, *rest[to:])
    return value if perm == tuple(range(len(perm))) else b.one("transpose", value, perm=perm)


def _to_front(b: Builder, value: Value, axis: int) -> Value:
    return _front(b, value, axis, 0)
