"""Words that put elements in order: stable, NaN last."""

from __future__ import annotations

from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.values import POISON, Item, Poison
from gradc.frontend.elaborate.words import Arguments, axis, numbers, word
from gradc.frontend.syntax import tree
from gradc.ir.tensor.core import DType, Value
from gradc.ir.tensor.dims import product


def _ordered(
    ctx: Context, call: tree.Call, given: Arguments, what: str
) -> tuple[Value, Value, int] | None:
    """The array, the places of its elements in order, and the axis of the lines."""
    value = numbers(ctx, given["x"], what, "convert it first: `cast(x, int)`")
    if value is None:
        return None
    over = axis(ctx, given["axis"], value.type.rank, f"`{value.type}`")
    if over is None:
        return None
    ids = ctx.op(call, "argsort", value, axis=over)
    return None if isinstance(ids, Poison) else (value, ids, over)


@word("argsort x axis", axis=-1)
def _argsort(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    found = _ordered(ctx, call, given, "argsort")
    return POISON if found is None else found[1]


@word("sort x axis", axis=-1)
def _sort(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    """What stands where ``argsort`` says, so that cotangents go back there."""
    found = _ordered(ctx, call, given, "sort")
    return POISON if found is None else along(ctx, call, *found)


def along(ctx: Context, call: tree.Call, value: Value, ids: Value, axis: int) -> Value | Poison:
    """The elements of each line along ``axis`` that ``ids``, of the same shape, name."""

    def op(name: str, *operands: Value | Poison, **attributes: object) -> Value | Poison:
        values = [x for x in operands if isinstance(x, Value)]
        if len(values) < len(operands):
            return POISON
        return ctx.op(call, name, *values, **attributes)  # type: ignore[arg-type]

    rank, size = value.type.rank, value.type.shape[axis]
    if rank == 1:
        return op("take", value, ids, axis=0, fill="zero")
    perm = (*(i for i in range(rank) if i != axis), axis)
    shape = tuple(value.type.shape[i] for i in perm)
    rows, count = product(shape[:-1]), product(shape)
    lines = op("reshape", op("transpose", value, perm=perm), shape=(count,))
    places = op("reshape", op("transpose", ids, perm=perm), shape=(rows, size))
    row = op("iota", axis=0, dtype=DType.I64, shape=(rows, size))
    start = op("mul", row, ctx.constant(call, size, DType.I64, (rows, size)))
    flat = op("add", start, op("cast", places, dtype=DType.I64))
    found = op("reshape", op("take", lines, flat, axis=0, fill="zero"), shape=shape)
    return op("transpose", found, perm=tuple(perm.index(i) for i in range(rank)))
