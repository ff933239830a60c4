"""Words that put elements in order: stable, NaN last."""

from __future__ import annotations

from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.values import POISON, Argument, Item, Poison
from gradc.frontend.elaborate.words import Arguments, array, axis, word
from gradc.frontend.syntax import tree
from gradc.ir.tensor.core import DType, Value
from gradc.ir.tensor.dims import product


def _numbers(ctx: Context, argument: Argument, what: str) -> Value | None:
    value = array(ctx, argument)
    if value is None or value.type.dtype is not DType.BOOL:
        return value
    message = f"`{what}` takes numbers, and this holds `bool`"
    ctx.error("GC0303", message, argument.node, help="convert it first: `cast(x, int)`")
    return None


@word("argsort x axis", axis=-1)
def _argsort(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    value = _numbers(ctx, given["x"], "argsort")
    if value is None:
        return POISON
    over = axis(ctx, given["axis"], value.type.rank, f"`{value.type}`")
    return POISON if over is None else ctx.op(call, "argsort", value, axis=over)


@word("sort x axis", axis=-1)
def _sort(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    """What stands where ``argsort`` says, so that cotangents go back there."""
    value = _numbers(ctx, given["x"], "sort")
    if value is None:
        return POISON
    over = axis(ctx, given["axis"], value.type.rank, f"`{value.type}`")
    if over is None:
        return POISON
    ids = ctx.op(call, "argsort", value, axis=over)
    return ids if isinstance(ids, Poison) else along(ctx, call, value, ids, over)


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
