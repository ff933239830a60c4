"""Elements of sums and products in the index algebra; the derivative of an extremum.

Danskin: the derivative of an extremum is that of the elements that attain it, shared among ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradc.ir.ops.attributes import get_int, get_ints
from gradc.ir.ops.index.element import Elements, Shapes
from gradc.ir.ops.index.sums import (
    ONE,
    Entry,
    LinearIndex,
    Unfit,
    factor,
    times,
)
from gradc.ir.tensor.core import Op, TensorType, Value

if TYPE_CHECKING:
    from gradc.ir.ops.builder import Builder


def sum(r: Elements, op: Op, index: LinearIndex) -> Entry:
    x = op.operands[0]
    axes = get_ints(op.attributes, "axes")

    def term(inner: LinearIndex) -> Entry:
        some, rest = iter(inner), iter(index)
        return r.read(x, [next(some) if a in axes else next(rest) for a in range(x.type.rank)])

    return r.sum_over([n for a, n in enumerate(x.type.shape) if a in axes], term)


def prod(r: Elements, op: Op, index: LinearIndex) -> Entry:
    """The product of all factors, whose number must be known."""
    x = op.operands[0]
    axes = get_ints(op.attributes, "axes")
    extents = [n for a, n in enumerate(x.type.shape) if a in axes]
    found = ONE
    for inner, ranges in r.binder.choices(extents):
        if ranges != ONE:
            raise Unfit("a product over a symbolic size")
        some, rest = iter(inner), iter(index)
        at = [next(some) if a in axes else next(rest) for a in range(x.type.rank)]
        found = times(found, r.read(x, at))
    return found


def cumsum(r: Elements, op: Op, index: LinearIndex) -> Entry:
    x, axis = op.operands[0], get_int(op.attributes, "axis")
    n = x.type.shape[axis]

    def term(inner: LinearIndex) -> Entry:
        (j,) = inner
        pair = [index[axis], j] if op.attributes["reverse"] else [j, index[axis]]
        element = r.read(x, [*index[:axis], j, *index[axis + 1 :]])
        return times(factor("not above", pair, [n, n]), element)

    return r.sum_over([n], term)


# A product is written out at this many factors along an axis; its tree is proved for every number.
FACTORS = 5


def attained(b: Builder, pieces: Sequence[tuple[Value, Value]], y: Value) -> tuple[Value, Value]:
    """Over pieces (elements, their tangents): tangents of those that equal y, and how many do."""
    total: Value | None = None
    count: Value | None = None
    for x, v in pieces:
        mask = b.one("eq", x, y)
        one = b.one("cast", mask, dtype=v.type.dtype)
        part = b.one("select", mask, v, b.constant(0.0, v.type.dtype, v.type.shape))
        total = part if total is None else b.one("add", total, part)
        count = one if count is None else b.one("add", count, one)
    assert total is not None and count is not None
    return total, count


def extremum_of_axes(b: Builder, op: Op, v: Value) -> Value:
    axes, shape = get_ints(op.attributes, "axes"), v.type.shape
    kept = tuple(a for a in range(len(shape)) if a not in axes)
    wide = b.one("broadcast", op.result, shape=shape, dims=kept)
    total, count = (b.one("sum", x, axes=axes) for x in attained(b, [(op.operands[0], v)], wide))
    return b.one("div", total, count)


def fit_prod(operands: Sequence[TensorType], shapes: Shapes, attributes: dict[str, Any]) -> None:
    """A few factors: more of them are a matter of the tree alone."""
    for axis in get_ints(attributes, "axes"):
        shapes[0][axis] = min(FACTORS, operands[0].static_shape[axis])
