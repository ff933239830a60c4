"""Sums of products as loop nests: from ``ir.ops.products`` and a schedule to loop IR.

Non-goals: deciding (``schedule.py``); products of matrices (``gemm.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import product
from math import prod

from gradc.ir.loop.kernel import Affine, Buffer, Scalar
from gradc.ir.loop.nest import NestContext
from gradc.ir.loop.order import K_LEAF, K_NODE, node_spans
from gradc.ir.ops.products import Position, Products
from gradc.ir.tensor.core import DType
from gradc.passes.lower.schedule import ProductSchedule

# Stores what is made of a sum, the element of the result at an index.
Finish = Callable[[Sequence[Affine], Scalar], None]


class Writer:
    """What all orders write with."""

    def __init__(
        self,
        nest: NestContext,
        spec: Products,
        schedule: ProductSchedule,
        dtype: DType,
        finish: Finish,
    ) -> None:
        self.nest, self.spec, self.schedule = nest, spec, schedule
        self.k, self.dtype, self.wide = nest.k, dtype, dtype.accumulator
        self.finish = finish

    def grid(self) -> tuple[int, ...]:
        """The extents of the grid: groups and blocks of the shared axis are one of its axes."""
        spec, shared = self.spec, self.spec.shared
        parts = spec.outer[shared - 1] * (spec.outer[shared] // self.schedule.block)
        return (*spec.outer[: shared - 1], parts, *spec.outer[shared + 1 : spec.grid])

    def members(self, grid: Sequence[Affine]) -> list[list[Affine]]:
        """The indices along the grid's axes of each member of a block."""
        spec, shared, block = self.spec, self.spec.shared, self.schedule.block
        before, part, after = grid[: shared - 1], grid[shared - 1], grid[shared:]
        group, local = self.k.divmod(part, spec.outer[shared] // block)
        return [[*before, group, local * block + b, *after] for b in range(block)]

    def read(self, operand: int, at: Sequence[Affine]) -> Scalar:
        """The factor of one term; nothing is read where the term is absent."""
        k = self.k
        index: list[Affine] = []
        inside: list[Scalar] = []
        for position in (self.spec.left, self.spec.right)[operand]:
            found, is_there = self._place(position, at)
            index.append(found)
            inside += is_there
        with k.guard(k.both(*inside)):
            return self.nest.read(operand, index)

    def _place(self, position: Position, at: Sequence[Affine]) -> tuple[Affine, list[Scalar]]:
        """Where ``position`` is, and the condition that it is one."""
        k, found = self.k, affine(position, at)
        if position.extent is None:
            return found, []
        found, rest = k.divmod(found, position.divisor)
        return found, [k.both(k.inside(rest, 1), k.inside(found, position.extent))]

    def write(self, outer: Sequence[Affine], total: Scalar) -> None:
        """One element of the result."""
        index = [affine(position, outer) for position in self.spec.result]
        self.finish(index, self.k.cast(total, self.dtype))


def affine(position: Position, at: Sequence[Affine]) -> Affine:
    """The numerator of ``position``."""
    total = Affine()
    for axis, factor in position.terms:
        total = total + at[axis] * factor
    return total + position.constant


# --- chains ---------------------------------------------------------------------------------------


def write_chains(writer: Writer) -> None:
    """Parallel over the grid, vectors along the last outer axis, sums term by term."""
    nest, spec = writer.nest, writer.spec
    *others, width = spec.outer[spec.grid :]
    with nest.parallel(writer.grid()) as grid, ExitStack() as loops:
        members = writer.members(grid)
        places = [loops.enter_context(nest.loop(extent, "serial")).at for extent in others]
        with nest.loop(width, "vector") as j:
            outers = [[*member, *places, j.at] for member in members]
            totals = _sums(writer, outers)
            for outer, total in zip(outers, totals, strict=True):
                writer.write(outer, total)


def _sums(writer: Writer, outers: Sequence[Sequence[Affine]]) -> list[Scalar]:
    """The sum of each of ``outers``: a fold over the first inner axis of chains over the others."""
    nest, first, rest = writer.nest, writer.spec.inner[0], writer.spec.inner[1:]
    with nest.loop(first, "serial") as loop:
        if writer.schedule.written:
            taps = [[Affine(n) for n in tap] for tap in product(*map(range, rest))]
            places = [[loop.at, *tap] for tap in taps]
            terms: list[Scalar] = [_chain(writer, outer, places) for outer in outers]
        else:
            terms = _folds(writer, outers, [loop.at], rest)
        return [loop.fold("add", term) for term in terms]


def _folds(
    writer: Writer, outers: Sequence[Sequence[Affine]], at: list[Affine], left: Sequence[int]
) -> list[Scalar]:
    """A fold per axis, the innermost first."""
    if not left:
        return [_chain(writer, outer, [at]) for outer in outers]
    with writer.nest.loop(left[0], "serial") as loop:
        inner = _folds(writer, outers, [*at, loop.at], left[1:])
        return [loop.fold("add", term) for term in inner]


def _chain(writer: Writer, outer: Sequence[Affine], places: Sequence[Sequence[Affine]]) -> Scalar:
    """Products at ``places``, added from the left in the wider type."""
    k, wide = writer.k, writer.wide
    pairs = [[writer.read(n, [*outer, *place]) for n in (0, 1)] for place in places]
    total: Scalar | None = None
    for left, right in pairs:
        a, b = k.cast(left, wide), k.cast(right, wide)
        total = k.mul(a, b) if total is None else k.fma(a, b, total)
    return k.const(0, wide) if total is None else total


# --- rows -----------------------------------------------------------------------------------------


def write_rows(writer: Writer) -> None:
    """Parallel over the grid; per place a row of accumulators along the last inner axis.

    Some places and a block take their share of a row while it is at hand, as many as registers
    hold. A set of accumulators for each level of the tree.
    """
    nest, spec, step = writer.nest, writer.spec, writer.schedule.taps
    places = list(product(*map(range, spec.outer[spec.grid :])))
    steps, width = prod(spec.inner[:-1]), spec.inner[-1]
    sums = sums_of(nest, width * writer.schedule.block * step, steps, writer.wide)
    with nest.parallel(writer.grid()) as grid:
        members = writer.members(grid)
        for first in range(0, len(places), step):
            some = [[Affine(n) for n in place] for place in places[first : first + step]]
            _write_places(writer, sums, [[*member, *place] for place in some for member in members])


def _write_places(
    writer: Writer, sums: Sequence[Buffer], outers: Sequence[Sequence[Affine]]
) -> None:
    """Some elements of the result, a row of accumulators each."""
    nest, k, wide = writer.nest, writer.k, writer.wide
    steps, width = writer.spec.inner[:-1], writer.spec.inner[-1]

    def add_row(number: Affine) -> None:
        row = k.unflatten(number, steps)
        with nest.loop(width, "vector") as j:
            for n, outer in enumerate(outers):
                index = [*outer, *row, j.at]
                right = k.cast(writer.read(1, index), wide)
                left = writer.read(0, index)
                at = j.at + n * width
                had = nest.load(sums[-1], at)
                nest.store(sums[-1], at, k.fma(k.cast(left, wide), right, had))

    sum_rows(nest, sums, (width, len(outers)), prod(steps), add_row)
    for n, outer in enumerate(outers):
        with nest.loop(width, "vector") as j:
            total = j.fold("add", nest.load(sums[0], j.at + n * width))
        writer.write(outer, total)


def sums_of(nest: NestContext, size: int, count: int, dtype: DType) -> list[Buffer]:
    """Room for ``size`` sums of ``count`` terms each, at every level of their tree."""
    depth = 1 + len(node_spans(count, K_LEAF, K_NODE))
    return [nest.scratch(size, dtype) for _ in range(depth)]


def sum_rows(
    nest: NestContext,
    sums: Sequence[Buffer],
    shape: tuple[int, int],
    count: int,
    add: Callable[[Affine], None],
) -> None:
    """The terms 0 to ``count`` as a tree, element by element: ``add`` adds one to ``sums[-1]``, the
    leaf; ``sums[0]`` is the whole. Each holds ``shape[1]`` rows of ``shape[0]``.
    """
    spans = (max(count, 1), *node_spans(count, K_LEAF, K_NODE))
    width, rows = shape
    ends = [j * width for j in range(rows)]

    def node(level: int, first: Affine) -> None:
        below = spans[level + 1] if level + 1 < len(spans) else 1
        for start in ends:
            with nest.loop(width, "vector") as j:
                nest.store(sums[level], j.at + start, nest.k.const(0, sums[level].dtype))
        left = Affine(
            -(-count // below), tuple((var, -factor // below) for var, factor in first.terms)
        )
        limit = left if count % spans[level] else None
        with nest.loop(-(-min(spans[level], count) // below), "serial", limit) as child:
            at = first + child.at * below
            if below == 1:
                add(at)
                return
            node(level + 1, at)
            for start in ends:
                with nest.loop(width, "vector") as j:
                    part = nest.load(sums[level + 1], j.at + start)
                    nest.store(sums[level], j.at + start, part, "add")

    node(0, Affine())
