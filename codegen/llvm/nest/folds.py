"""Folds of vector loops: the accumulators that ``ir.loop.order`` prescribes, cut into pieces of the
body's width.

Iteration i of a float sum or product belongs to accumulator ``i % (lanes * ways)`` of its order, on
every processor. A *piece* is a run of ``width`` such elements
in one register. Maxima, minima and integer folds do not depend on the order; their pieces are as
many as the loop is unrolled.

Invariant: an accumulator that never received a value stays the literal identity and costs nothing;
adding it would not change a bit, because an accumulator that started at +0 is never -0. A leaf
starts at +0, and so does the node it is added to.
"""

from __future__ import annotations

import math

from gradc.codegen.llvm.maths.scalars import COMPUTE, Scalars
from gradc.codegen.llvm.text import Value, constant, lanes_of
from gradc.ir.loop.kernel import Fold
from gradc.ir.tensor.core import DType


def identity(combine: str, dtype: DType) -> float | bool:
    """The neutral element, as the vector folds start with it (+0 for sums)."""
    if combine in ("add", "mul"):
        one = combine == "mul"
        return float(one) if dtype.is_float else one
    top = combine == "min"
    if dtype.is_float:
        return math.inf if top else -math.inf
    if dtype is DType.BOOL:
        return top
    bits = 8 * dtype.itemsize
    if dtype is DType.U32:
        return (1 << bits) - 1 if top else 0
    return (1 << (bits - 1)) - 1 if top else -(1 << (bits - 1))


def neutral(combine: str, dtype: DType) -> float | bool:
    """What a serial fold starts with so that its first step gives the first value, -0 included."""
    return -0.0 if combine == "add" and dtype.is_float else identity(combine, dtype)


def period(fold: Fold) -> int:
    """After how many iterations the accumulators of an ordered fold repeat."""
    return fold.lane_order.accumulators


class Pieces:
    """The accumulators of one fold while its loop is being emitted."""

    def __init__(self, fold: Fold, scalars: Scalars, width: int, unroll: int) -> None:
        self.fold = fold
        self.scalars = scalars
        self.dtype = fold.result.dtype
        self.ordered = fold.is_tree
        order = fold.lane_order
        self.ways = order.ways
        self.lanes = order.lanes if self.ordered else width
        self.width = min(width, self.lanes)
        count = self.lanes * self.ways // self.width if self.ordered else unroll
        self.start = scalars.const(identity(fold.combine, self.dtype), self.dtype, self.width)
        self.values = [self.start] * count

    def add(self, position: int, value: Value, mask: Value | None) -> None:
        """Folds in a vector of the loop that begins at iteration ``position`` (mod the period)."""
        k = self.scalars.floats("float")
        width = lanes_of(value.type)
        if mask is not None:
            idle = self.scalars.const(identity(self.fold.combine, self.dtype), self.dtype, width)
            value = self.scalars.fn.select(mask, value, idle)
        for start in range(0, width, self.width):
            slot = (position + start) // self.width % len(self.values)
            part = k.part(value, start, self.width)
            self.values[slot] = self._step(self.values[slot], part)

    def turn(self, iterations: int) -> None:
        """Renumbers the accumulators as if the loop began so many iterations later."""
        places = iterations // self.width % len(self.values)
        self.values = self.values[places:] + self.values[:places]

    def clear(self) -> None:
        """Begins a leaf or node: every accumulator is the identity."""
        self.values = [self.start] * len(self.values)

    def add_to(self, above: list[Value]) -> None:
        """Ends a leaf or node: its accumulators are added to those of the node above."""
        pairs = zip(above, self.values, strict=True)
        self.values = [self._merge(total, done) for total, done in pairs]

    def _step(self, total: Value, value: Value) -> Value:
        return self.scalars.combine(self.fold.combine, total, value, self.dtype)

    def _merge(self, a: Value, b: Value) -> Value:
        """Combines accumulators, leaving out what is still the identity."""
        if b == self.start:
            return a
        return b if a == self.start else self._step(a, b)

    def result(self) -> Value:
        """The ways combined pairwise, then the lanes by halving."""
        row = self.values
        if self.ordered:
            per_way = self.lanes // self.width
            ways = [row[n * per_way : (n + 1) * per_way] for n in range(self.ways)]
            while len(ways) > 1:
                ways = [
                    [self._merge(a, b) for a, b in zip(x, y, strict=True)]
                    for x, y in zip(ways[::2], ways[1::2], strict=True)
                ]
            row = ways[0]
        while len(row) > 1:
            half = len(row) // 2
            row = [self._merge(a, b) for a, b in zip(row[:half], row[half:], strict=True)]
        return self._across(row[0])

    def _across(self, total: Value) -> Value:
        fn = self.scalars.fn
        if total == self.start:
            return constant(COMPUTE[self.dtype], identity(self.fold.combine, self.dtype))
        lanes = lanes_of(total.type)
        while lanes > 1:
            lanes //= 2
            low = fn.shuffle(total, None, range(lanes))
            high = fn.shuffle(total, None, range(lanes, 2 * lanes))
            total = self._step(low, high)
        return fn.extract(total, 0)


def zero_trips(fold: Fold, scalars: Scalars) -> Value:
    """The result of a fold over nothing."""
    dtype = fold.result.dtype
    return scalars.const(identity(fold.combine, dtype), dtype)
