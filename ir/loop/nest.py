"""``NestContext``: what an op with a loop nest of its own (``registry.Nest``) writes its kernel
with.

It joins the loop builder with the op's operands, which are read element by element wherever they
lie, and its results, which are buffers. Non-goals: deciding what else the kernel computes
(``passes``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol, TypeAlias

from gradc.ir.loop.builder import IndexAlgebra, LoopBuilder, OpenLoop
from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    Const,
    Exchange,
    ExchangeKind,
    LoopKind,
    Scalar,
    Var,
    row_major_offset,
)
from gradc.ir.tensor.core import DType, Op

Read: TypeAlias = Callable[[int, Sequence[Affine]], Scalar]


class Cutting(Protocol):
    """How work is cut, which the ops that write nests ask and lowering answers
    (``passes.lower.schedule``). Results have the same bits whatever it says.
    """

    def columns(self, count: int) -> int:
        """How many of ``count`` independent columns one iteration of the grid owns."""

    def places(self, count: int, nbytes: int) -> int:
        """How many of ``count`` rows of a table, of ``nbytes`` each, one iteration of the grid
        owns: each looks through all that is added to the table.
        """

    def row(self, count: int, itemsize: int) -> int:
        """How many of ``count`` running values an iteration of the grid keeps in a row."""

    def lines(self, count: int, length: int, is_run: bool) -> tuple[int, int]:
        """How many of ``count`` lines go side by side as lanes, and how many such passes one
        iteration of the grid makes; ``is_run``: elements of a line are neighbours in memory.
        """


class NestContext:
    """What ``Nest.build`` writes a kernel with: loops, reads of operands, writes of results,
    scratch.

    Every element of every result must be written before the kernel ends. Grid loops come
    outermost only and their iterations must not touch the same result element. Scratch is private
    to one iteration of the grid loop and starts uninitialised. ``schedule`` says how
    work is cut.
    """

    def __init__(
        self,
        builder: LoopBuilder,
        op: Op,
        read: Read,
        results: Sequence[Buffer],
        schedule: Cutting,
    ) -> None:
        self.builder = builder
        self.schedule = schedule
        self.k = IndexAlgebra(builder, op.results[0].type.dtype)
        self._op = op
        self._read = read
        self._results = tuple(results)

    def algebra(self, dtype: DType) -> IndexAlgebra:
        """The algebra whose literals have ``dtype``."""
        return IndexAlgebra(self.builder, dtype)

    def loop(
        self, extent: int, kind: LoopKind, limit: Affine | None = None
    ) -> AbstractContextManager[OpenLoop]:
        """``with ctx.loop(n, "vector") as i:``, then ``i.at`` is the index and ``i.fold("add",
        value)`` folds.
        """
        return self.builder.loop(extent, kind, limit)

    @contextmanager
    def parallel(self, extents: Sequence[int]) -> Iterator[list[Affine]]:
        """One grid loop over all of ``extents``; gives the multi-index."""
        total = 1
        for extent in extents:
            total *= extent
        with self.loop(total, "grid") as loop:
            yield self.k.unflatten(loop.at, extents)

    def read(self, operand: int, index: Sequence[Affine]) -> Scalar:
        """The element of an operand."""
        return self._read(operand, index)

    def write(
        self,
        index: Sequence[Affine],
        value: Scalar,
        combine: Literal["", "add", "max", "min", "mul"] = "",
        result: int = 0,
        guard: Scalar | None = None,
    ) -> None:
        """Stores an element of a result; ``combine`` updates what was written before.

        Skipped where ``guard`` is false; a literal guard is decided now.
        """
        shape = self._op.results[result].type.static_shape
        if isinstance(guard, Const):
            if not guard.value:
                return
            guard = None
        offset = row_major_offset(index, shape)
        self.builder.store(self._results[result], offset, value, combine, guard)

    def written(self, index: Sequence[Affine], result: int = 0) -> Scalar:
        """Reads back an element of a result that this kernel wrote before."""
        shape = self._op.results[result].type.static_shape
        return self.builder.load(self._results[result], row_major_offset(index, shape))

    def exchange(self, kind: ExchangeKind, ranks: int, result: int = 0) -> None:
        """Exchanges the parts of a result between the ranks, after all of them are written."""
        self.builder.exchange(Exchange(kind, self._results[result], ranks))

    def scratch(self, size: int, dtype: DType) -> Buffer:
        """Working memory of ``size`` elements."""
        return self.builder.buffer(f"s{len(self.builder.buffers)}", dtype, size, "update", "thread")

    def load(self, buffer: Buffer, offset: Affine) -> Var:
        """Reads scratch."""
        return self.builder.load(buffer, offset)

    def store(
        self,
        buffer: Buffer,
        offset: Affine,
        value: Scalar,
        combine: Literal["", "add", "max", "min", "mul"] = "",
        guard: Var | None = None,
    ) -> None:
        """Writes scratch."""
        self.builder.store(buffer, offset, value, combine, guard)
