"""Sums of rows by number, inside a kernel: what ``scatter_add`` adds up, in an order that follows
from how many updates each row gets and from nothing else.

Non-goals: where the rows lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradc.ir.loop.kernel import Affine, Buffer, LoopKind, Scalar
from gradc.ir.tensor.core import DType

if TYPE_CHECKING:
    from gradc.ir.loop.builder import OpenLoop
    from gradc.ir.loop.nest import NestContext

LEAF = 64  # children of a node


def size_of(shape: Sequence[int]) -> int:
    """Number of elements."""
    total = 1
    for extent in shape:
        total *= extent
    return total


@dataclass(frozen=True)
class _Level:
    """A level above the rows: a table of nodes, and per node ``LEAF * above + children``.

    ``above`` is the place of the node that takes this one when it is full, 0 while there is none;
    place 0 is nobody's. ``used`` says how many places are taken: no more than nodes can be
    completed below.
    """

    table: Buffer
    state: Buffer
    used: Buffer


@dataclass(frozen=True)
class Node:
    """The open node at one place of a level: its elements and its state."""

    read: Callable[[Affine], Scalar]
    write: Callable[[Affine, Scalar], None]
    state: Buffer
    place: Affine


class RowSums:
    """Sums of rows by id, as trees: a row takes part in as many levels as it has updates for.

    A node is full after ``LEAF`` children; it is then added to the one above, which is found (or
    begun) through its state. So memory beyond the result is a number per row and about 1/``LEAF``
    of the updates.
    """

    def __init__(
        self, nest: NestContext, dtype: DType, places: int, count: int, block: Share
    ) -> None:
        """Sums of ``dtype`` for ``places`` rows, of ``count`` updates in all."""
        self.nest, self.block = nest, block
        self.k = nest.algebra(DType.I32)
        self.wide = nest.algebra(dtype.accumulator)
        left = count
        self.state = nest.scratch(places, DType.I32) if left > LEAF else None
        self.levels: list[_Level] = []
        while left > LEAF:
            left //= LEAF
            places = min(places, left) + 1
            table = nest.scratch(places * block.count, self.wide.dtype)
            state = nest.scratch(places, DType.I32)
            self.levels.append(_Level(table, state, nest.scratch(1, DType.I32)))

    def clear(self, row: Affine) -> None:
        """Nothing was added to ``row`` yet."""
        if self.state is not None:
            self.nest.store(self.state, row, self.k.const(0))

    def open(self) -> None:
        """No level has nodes yet."""
        for level in self.levels:
            self.nest.store(level.used, Affine(), self.k.const(0))

    def count(self, node: Node, number: int = 0) -> None:
        """One more child was added to ``node``, which lies below level ``number``."""
        k, nest = self.k, self.nest
        before = nest.load(node.state, node.place)
        if number == len(self.levels):
            # Never full: the state only tells the first child from others.
            nest.store(node.state, node.place, k.const(1))
            return
        after = k.add(before, k.const(1))
        is_full = k.eq(k.mod(after, k.const(LEAF)), k.const(0))
        nest.store(node.state, node.place, after)
        with self.only_if(is_full):
            self._close(node, number, k.floordiv(before, k.const(LEAF)))

    def _close(self, node: Node, number: int, known: Scalar) -> None:
        """Adds a full node to the one above, at place ``known`` or, if that is 0, a new one; clears
        it.
        """
        nest, k, level = self.nest, self.k, self.levels[number]
        is_new = k.eq(known, k.const(0))
        fresh = k.add(nest.load(level.used, Affine()), k.const(1))
        place = k.select(is_new, fresh, known)
        at = k.affine(place)
        with self.only_if(is_new):
            nest.store(level.used, Affine(), place)
            nest.store(level.state, at, k.const(0))
        above = self._node(level, at)
        is_first = k.eq(k.mod(nest.load(level.state, at), k.const(LEAF)), k.const(0))
        has_some = k.logical_not(is_first)
        with self.block.loop(nest, "vector") as column:
            with k.guard(has_some):
                have = above.read(column.at)
            above.write(column.at, self.wide.add(have, node.read(column.at)))
            node.write(column.at, self.wide.const(0))
        nest.store(node.state, node.place, k.mul(place, k.const(LEAF)))
        self.count(above, number + 1)

    def _node(self, level: _Level, place: Affine) -> Node:
        nest, start = self.nest, place * self.block.count
        return Node(
            lambda column: nest.load(level.table, start + column),
            lambda column, value: nest.store(level.table, start + column, value),
            level.state,
            place,
        )

    def path(self, row: Affine) -> list[tuple[Scalar, Node]]:
        """The open nodes above ``row``, each with whether there is one."""
        found: list[tuple[Scalar, Node]] = []
        k, state = self.k, self.state
        is_there: Scalar = k.const(True, DType.BOOL)
        for level in self.levels:
            assert state is not None
            with k.guard(is_there):
                place = k.floordiv(self.nest.load(state, row), k.const(LEAF))
            is_there = k.gt(place, k.const(0))
            row, state = k.affine(place), level.state
            found.append((is_there, self._node(level, row)))
        return found

    def total(self, path: Sequence[tuple[Scalar, Node]], lowest: Scalar, column: Affine) -> Scalar:
        """What a row adds up to: its open nodes from the lowest up."""
        total = lowest
        for is_there, node in path:
            with self.k.guard(is_there):
                have = node.read(column)
            total = self.wide.add(have, total)
        return total

    def only_if(self, condition: Scalar) -> AbstractContextManager[OpenLoop]:
        """What is run only where ``condition`` holds."""
        trips = self.k.select(condition, self.k.const(1), self.k.const(0))
        return self.nest.loop(1, "serial", self.k.affine(trips))


@dataclass(frozen=True)
class Share:
    """The rows of a table, or the columns, that one parallel iteration owns, from ``first`` on."""

    first: Affine
    count: int
    limit: Affine | None = None

    @classmethod
    def of(cls, number: Affine, count: int, owned: int) -> Share:
        """Those of iteration ``number``, of ``count`` in all, of which each owns ``owned``."""
        first = number * owned
        is_even = count % owned == 0 or count <= owned
        return cls(first, min(count, owned), None if is_even else first * -1 + count)

    def loop(self, nest: NestContext, kind: LoopKind) -> AbstractContextManager[OpenLoop]:
        """A loop over them."""
        return nest.loop(self.count, kind, self.limit)
