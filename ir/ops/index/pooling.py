"""Elements of pooling in the index algebra; the derivative of the greatest of a window."""

from __future__ import annotations

from fractions import Fraction
from itertools import product as choices_of
from typing import TYPE_CHECKING, Any

from gradc.ir.ops.attributes import get_pair, get_pairs
from gradc.ir.ops.index.element import Elements
from gradc.ir.ops.index.reduction import attained
from gradc.ir.ops.index.sums import (
    Entry,
    LinearIndex,
    constant,
    equation,
    number,
    plus,
    times,
)
from gradc.ir.tensor.core import DType, Op, Value

if TYPE_CHECKING:
    from gradc.ir.ops.builder import Builder


def avg_pool(r: Elements, op: Op, index: LinearIndex) -> Entry:
    """The mean over places of a window, zeros outside the image."""
    x = op.operands[0]
    size, stride = get_pair(op.attributes, "size"), get_pair(op.attributes, "stride")
    padding = get_pairs(op.attributes, "padding")

    def term(bound: LinearIndex) -> Entry:
        p, q, *inner = bound
        found = number(Fraction(1, size[0] * size[1]))
        for a, tap in ((0, p), (1, q)):
            at = plus(plus({}, index[2 + a], stride[a]), tap)
            met = plus(plus(at, constant(padding[a][0]), -1), inner[a], -1)
            found = times(found, equation(met))
        return times(found, r.read(x, [*index[:2], *inner])) if found else []

    return r.sum_over([*size, *x.type.shape[2:]], term)


def extremum_of_windows(b: Builder, op: Op, v: Value) -> Value:
    """Elements outside the image are minus infinity, and have no tangent."""
    size, stride = get_pair(op.attributes, "size"), get_pair(op.attributes, "stride")
    low, high = zip(*get_pairs(op.attributes, "padding"), strict=True)
    x, (n, c, *out) = op.operands[0], op.result.type.shape
    if any(low) or any(high):
        around: dict[str, Any] = {"low": (0, 0, *low), "high": (0, 0, *high), "interior": (0,) * 4}
        inside = b.one("pad", b.constant(True, DType.BOOL, x.type.shape), **around)
        least = b.constant(float("-inf"), x.type.dtype, inside.type.shape)
        x = b.one("select", inside, b.one("pad", x, **around), least)
        v = b.one("pad", v, **around)
    pieces = []
    for p, q in choices_of(range(size[0]), range(size[1])):
        limit = (n, c, *(a + (m - 1) * s + 1 for a, m, s in zip((p, q), out, stride, strict=True)))
        given: dict[str, Any] = {"start": (0, 0, p, q), "limit": limit, "stride": (1, 1, *stride)}
        pieces.append((b.one("slice", x, **given), b.one("slice", v, **given)))
    return b.one("div", *attained(b, pieces, op.result))
