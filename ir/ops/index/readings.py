"""Formula rules: how elements of ops read in formulas, written over ``Formulas``."""

from __future__ import annotations

from fractions import Fraction

from gradc.ir.ops.attributes import get_int, get_ints, get_pairs
from gradc.ir.ops.index.formula import Formula, Formulas, Index, Unsaid
from gradc.ir.tensor.core import DType, Op


def constant(reader: Formulas, op: Op, _at: tuple[Index, ...]) -> Formula:
    return reader.literal(op.attributes["value"], op.result.type.dtype)


def sum(reader: Formulas, op: Op, at: tuple[Index, ...]) -> Formula:
    axes, shape = get_ints(op.attributes, "axes"), op.operands[0].type.static_shape
    kept = iter(at)
    place = [reader.fresh(n) if axis in axes else next(kept) for axis, n in enumerate(shape)]
    return reader.total(reader.read(op.operands[0], place), [(place[a], shape[a]) for a in axes])


def contract(reader: Formulas, op: Op, at: tuple[Index, ...]) -> Formula:
    a, b = op.operands
    places: list[dict[int, Index]] = [{}, {}]
    bound: list[tuple[Index, int]] = []
    shape = a.type.static_shape
    result = iter(at)
    for i, j in get_pairs(op.attributes, "batch"):
        places[0][i] = places[1][j] = next(result)
    for i, j in get_pairs(op.attributes, "contract"):
        places[0][i] = places[1][j] = index = reader.fresh(shape[i])
        bound.append((index, shape[i]))
    for side, value in enumerate((a, b)):
        for axis in range(value.type.rank):
            if axis not in places[side]:
                places[side][axis] = next(result)
    factors = [
        reader.read(v, [places[side][axis] for axis in range(v.type.rank)])
        for side, v in enumerate((a, b))
    ]
    return reader.total(reader.product(*factors), bound)


def select(reader: Formulas, op: Op, at: tuple[Index, ...]) -> Formula:
    """One side alone where the other is NaN: that is a guard."""
    condition, a, b = op.operands
    for branch, other in ((a, b), (b, a)):
        if reader.is_nan(branch):
            reader.condition(condition, at)
            return reader.read(other, at)
    holds = reader.truth(condition, at)
    return reader.chosen(holds, a, b, at)


def cast(reader: Formulas, op: Op, at: tuple[Index, ...]) -> Formula:
    origin = op.operands[0].type.dtype
    if origin.is_float:
        return reader.read(op.operands[0], at)
    if origin is DType.BOOL:
        return reader.condition(op.operands[0], at)
    index = reader.index(op.operands[0], at)
    if index is None:
        raise Unsaid
    return reader.number(index)


def same(reader: Formulas, op: Op, at: tuple[Index, ...]) -> Formula:
    """What stands for its operand."""
    return reader.read(op.operands[0], at)


def take(reader: Formulas, op: Op, at: tuple[Index, ...]) -> Formula:
    table, ids = op.operands
    axis = get_int(op.attributes, "axis")
    index = reader.index(ids, at[axis : axis + ids.type.rank])
    if index is None or isinstance(index, Fraction):
        raise Unsaid
    reader.assume_in_range(index)
    return reader.read(table, (*at[:axis], index, *at[axis + ids.type.rank :]))


def scatter_add(reader: Formulas, op: Op, at: tuple[Index, ...]) -> Formula:
    ids, updates = op.operands
    axis = get_int(op.attributes, "axis")
    shape = ids.type.static_shape
    over = [reader.fresh(n) for n in shape]
    index = reader.index(ids, over)
    if index is None or isinstance(index, Fraction):
        raise Unsaid
    update = reader.read(updates, (*at[:axis], *over, *at[axis + 1 :]))
    body = reader.product(reader.equals(index, at[axis]), update)
    return reader.total(body, list(zip(over, shape, strict=True)))
