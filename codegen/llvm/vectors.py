"""A vector loop as LLVM code: rounds of several vectors, or a rotation of accumulators, and what is left, masked.

Ordered folds need WAYS vectors before their accumulators repeat. A short body is written out for a whole round; a
long one once, its accumulators moving on by one place per vector, so that code size does not grow with the folds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from gradc.codegen.llvm.folds import Pieces, is_ordered, period
from gradc.codegen.llvm.loop_facts import unroll_of, varying, weight, width_of
from gradc.codegen.llvm.memory import Lanes, first_lanes, i64, literal_vector, run
from gradc.codegen.llvm.text import Value
from gradc.ir.loops import For

if TYPE_CHECKING:
    from gradc.codegen.llvm.nest import Nest

_LONG = 800  # instructions of a loop written out; longer ones rotate


class VectorLoop:
    """A vector loop being emitted: rounds of ``unroll`` vectors of ``width``, then what is left, masked."""

    def __init__(self, nest: Nest, loop: For) -> None:
        self.nest = nest
        self.fn = nest.fn
        self.loop = loop
        self.extent = loop.extent if loop.limit is None else None
        self.width = width_of(loop, nest.isa)
        ordered = [period(fold) for fold in loop.folds if is_ordered(fold)]
        free = self.width * unroll_of(loop)
        self.round = max([*ordered, self.width]) if ordered else free
        self.unroll = self.round // self.width
        self.weight = weight(loop)
        nest.varying.update(varying(loop.body, {loop.index}))

    def emit(self) -> None:
        """Emits the loop; the results of its folds are in the environment afterwards."""
        pieces = [
            Pieces(fold, self.nest.scalars, self.width, self.unroll) for fold in self.loop.folds
        ]
        if self.extent is None:
            self._dynamic(pieces)
        else:
            self._static(pieces, self.extent)
        for fold, piece in zip(self.loop.folds, pieces, strict=True):
            self.nest.env[fold.result] = piece.result()

    def _static(self, pieces: list[Pieces], extent: int) -> None:
        rounds = extent // self.round
        copies = min(rounds, 1) * self.unroll + -(-(extent % self.round) // self.width)
        is_long = self.weight * copies > _LONG and extent >= 2 * self.width
        if is_long and copies > 2 and not self.nest.uses_rows(self.loop):
            self._rotate_static(pieces, extent)
            return
        if self.nest.uses_rows(self.loop):
            rounds = 0
        if rounds > 1:
            self._rounds(pieces, i64(rounds * self.round), nonempty=True)
        elif rounds:
            self._vectors(pieces, i64(0))
        for start in range(rounds * self.round, extent, self.width):
            alive = extent - start
            mask = first_lanes(self.width, alive) if alive < self.width else None
            self._vector(pieces, i64(start), start % self.round, mask)

    def _dynamic(self, pieces: list[Pieces]) -> None:
        fn = self.fn
        trips = self.nest.trips(self.loop)
        if self.weight * 2 * self.unroll > _LONG:
            self._rotate_dynamic(pieces, trips)
            return
        whole = fn.binary("and", trips, i64(-self.round))
        self._rounds(pieces, whole, nonempty=False)
        for n in range(self.unroll):
            base = fn.binary("add", whole, i64(n * self.width)) if n else whole
            before = _flat(pieces)
            with fn.branch(fn.compare("icmp slt", base, trips), before) as arm:
                self._vector(pieces, base, n * self.width, self._mask(base, trips))
                arm.next = _flat(pieces)
            _refill(pieces, arm.results)

    def _mask(self, base: Value, trips: Value) -> Value:
        """The lanes of the vector at ``base`` that lie below ``trips``."""
        fn = self.fn
        numbers = fn.binary("add", fn.splat(base, self.width), literal_vector(run(1, self.width)))
        return fn.compare("icmp slt", numbers, fn.splat(trips, self.width))

    # ---- one vector at a time, the accumulators taking turns

    def _rotate_static(self, pieces: list[Pieces], extent: int) -> None:
        whole = extent // self.width
        self._rotation(pieces, i64(whole * self.width), nonempty=True)
        if extent % self.width:
            mask = first_lanes(self.width, extent % self.width)
            self._vector(pieces, i64(whole * self.width), 0, mask)
        for piece in pieces:
            piece.turn(-whole * self.width)

    def _rotate_dynamic(self, pieces: list[Pieces], trips: Value) -> None:
        fn = self.fn
        whole = fn.binary("and", trips, i64(-self.width))
        self._rotation(pieces, whole, nonempty=False)
        with fn.branch(fn.compare("icmp slt", whole, trips), _flat(pieces)) as arm:
            self._vector(pieces, whole, 0, self._mask(whole, trips))
            arm.next = _flat(pieces)
        _refill(pieces, arm.results)
        # Undo the turns, whose number is known only now, one binary digit after the other.
        for piece in pieces:
            step = self.width
            while step % (len(piece.values) * piece.width):
                bit = fn.binary("and", whole, i64(step))
                turned = fn.compare("icmp ne", bit, i64(0))
                straight = list(piece.values)
                piece.turn(-step)
                piece.values = [
                    fn.select(turned, a, b) for a, b in zip(piece.values, straight, strict=True)
                ]
                step *= 2

    def _rotation(self, pieces: list[Pieces], end: Value, nonempty: bool) -> None:
        first = _flat(pieces)
        with self.fn.loop(
            i64(0), end, self.width, first, nonempty=nonempty, metadata=self.nest.metadata()
        ) as open_:
            _refill(pieces, open_.carried)
            self._vector(pieces, open_.index, 0, None)
            for piece in pieces:
                piece.turn(self.width)
            open_.next = _flat(pieces)
        _refill(pieces, open_.results)

    def _rounds(self, pieces: list[Pieces], end: Value, nonempty: bool) -> None:
        first = _flat(pieces)
        with self.fn.loop(
            i64(0), end, self.round, first, nonempty=nonempty, metadata=self.nest.metadata()
        ) as open_:
            _refill(pieces, open_.carried)
            self._vectors(pieces, open_.index)
            open_.next = _flat(pieces)
        _refill(pieces, open_.results)

    def _vectors(self, pieces: list[Pieces], index: Value) -> None:
        """One whole round."""
        for n in range(self.unroll):
            if index.name.startswith("%"):
                base = self.fn.binary("add", index, i64(n * self.width)) if n else index
            else:
                base = i64(int(index.name) + n * self.width)
            self._vector(pieces, base, n * self.width, None)

    def _vector(self, pieces: list[Pieces], base: Value, position: int, mask: Value | None) -> None:
        """``width`` iterations from ``base`` on."""
        lanes = Lanes(self.loop.index, base, self.width, mask)
        before, self.nest.lanes = self.nest.lanes, lanes
        step, start = (self.width, 0) if base.name.startswith("%") else (0, int(base.name))
        self.nest.indices.enter(self.loop.index, self.loop.extent, step, start)
        self.nest.body(self.loop.body)
        for piece in pieces:
            value = self.fn.splat(self.nest.value(piece.fold.value), self.width)
            piece.add(position, value, mask)
        self.nest.lanes = before


def _flat(pieces: Iterable[Pieces]) -> list[Value]:
    return [value for piece in pieces for value in piece.values]


def _refill(pieces: Iterable[Pieces], values: Iterable[Value]) -> None:
    source: Iterator[Value] = iter(values)
    for piece in pieces:
        piece.values = [next(source) for _ in piece.values]
