"""Elements of elementwise ops in the index algebra: those that are polynomials of their operands.

All others are opaque functions, of which only equality is known.
"""

from __future__ import annotations

from gradc.ir.ops.index.element import Elements
from gradc.ir.ops.index.sums import (
    ONE,
    Entry,
    Factor,
    LinearIndex,
    factor,
    scaled,
    times,
)
from gradc.ir.tensor.core import DType, Op


def add(r: Elements, op: Op, index: LinearIndex) -> Entry:
    return [one for x in op.operands for one in r.read(x, index)]


def sub(r: Elements, op: Op, index: LinearIndex) -> Entry:
    a, b = op.operands
    return [*r.read(a, index), *scaled(r.read(b, index), -1)]


def neg(r: Elements, op: Op, index: LinearIndex) -> Entry:
    return scaled(r.read(op.operands[0], index), -1)


def mul(r: Elements, op: Op, index: LinearIndex) -> Entry:
    a, b = op.operands
    return times(r.read(a, index), r.read(b, index))


def div(r: Elements, op: Op, index: LinearIndex) -> Entry:
    a, b = op.operands
    below = r.argument(b, index)
    return times(r.read(a, index), _inverse(below))


def _inverse(below: Factor) -> Entry:
    return factor(f"1/({below.name})", below.index, below.shape, below.leaves)


def select(r: Elements, op: Op, index: LinearIndex) -> Entry:
    condition, a, b = op.operands
    holds, otherwise = r.read(condition, index), r.read(b, index)
    found = times(holds, r.read(a, index))
    return [*found, *otherwise, *scaled(times(holds, otherwise), -1)]


def cast(r: Elements, op: Op, index: LinearIndex) -> Entry:
    before, after = op.operands[0].type.dtype, op.result.type.dtype
    if before is not DType.BOOL and before.is_float != after.is_float:
        return r.opaque(op, index)
    return r.read(op.operands[0], index)


def negation(r: Elements, op: Op, index: LinearIndex) -> Entry:
    return [*ONE, *scaled(r.read(op.operands[0], index), -1)]
