"""A vector loop as LLVM code: rounds of several vectors, or a rotation of accumulators, and what is
left, masked.

Ordered folds need WAYS vectors before their accumulators repeat. A short body is written out for a
whole round; a long one once, its accumulators moving on by one place per vector, so that code size
does not grow with the folds.

Long sums are trees (``ir.loop.order``): loops over nodes around the rounds of a leaf. What is left
after the whole rounds belongs to the last leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeAlias

from gradc.codegen.llvm.bodies import is_long, weight
from gradc.codegen.llvm.nest.folds import Pieces, period
from gradc.codegen.llvm.nest.loop_facts import unroll_of, varying, width_of
from gradc.codegen.llvm.nest.memory import Lanes, first_lanes, i64, run
from gradc.codegen.llvm.text import Value, literal_vector
from gradc.ir.loop.kernel import Fold, For
from gradc.ir.loop.order import node_spans

if TYPE_CHECKING:
    from gradc.codegen.llvm.nest.nest import Nest

# Emits the iterations [begin, end) of one leaf, or of a loop that is one leaf.
_Leaf: TypeAlias = Callable[[list[Pieces], Value, Value], None]

_LONG = 800  # instructions of a loop written out; longer ones rotate


def own_spans(fold: Fold, extent: int) -> tuple[int, ...]:
    """How many iterations of a vector loop the nodes of each level of ``fold`` take in, the largest
    first.
    """
    order = fold.lane_order
    children = order.children
    return node_spans(extent, order.accumulators * children, children) if children else ()


def vector_spans(loop: For) -> tuple[int, ...]:
    """Those of all folds of a vector loop; each divides the one before."""
    found = {span for fold in loop.folds for span in own_spans(fold, loop.extent)}
    return tuple(sorted(found, reverse=True))


class VectorLoop:
    """A vector loop being emitted: rounds of ``unroll`` vectors of ``width``, then what is left,
    masked.
    """

    def __init__(self, nest: Nest, loop: For) -> None:
        self.nest = nest
        self.fn = nest.fn
        self.loop = loop
        self.extent = loop.extent if loop.limit is None else None
        self.width = width_of(loop, nest.isa)
        ordered = [period(fold) for fold in loop.folds if fold.is_tree]
        free = self.width * unroll_of(loop, nest.isa.costs)
        self.round = max([*ordered, self.width]) if ordered else free
        self.unroll = self.round // self.width
        self.weight = weight(loop.body, nest.isa.costs)
        self.spans = vector_spans(loop)
        nest.varying.update(varying(loop.body, {loop.index}))

    def emit(self) -> None:
        """Emits the loop; the results of its folds are in the environment afterwards."""
        pieces = [
            Pieces(fold, self.nest.scalars, self.width, self.unroll) for fold in self.loop.folds
        ]
        with self.fn.in_order() if is_long(self.loop.body, self.nest.isa) else nullcontext():
            if self.extent is None:
                self._dynamic(pieces)
            else:
                self._static(pieces, self.extent)
        for fold, piece in zip(self.loop.folds, pieces, strict=True):
            self.nest.env[fold.result] = piece.result()

    def _static(self, pieces: list[Pieces], extent: int) -> None:
        rounds = extent // self.round
        copies = min(rounds, 1) * self.unroll + -(-(extent % self.round) // self.width)
        is_large = self.weight * copies > _LONG and extent >= 2 * self.width
        if is_large and copies > 2 and not self.nest.uses_rows(self.loop):
            self._nodes(pieces, i64(0), i64(extent), self.spans, self._rotate_static)
            return
        if self.spans:
            self._nodes(pieces, i64(0), i64(extent), self.spans, self._static_leaf)
            return
        if self.nest.uses_rows(self.loop):
            rounds = 0
        if rounds > 1:
            self._rounds(pieces, i64(0), i64(rounds * self.round), nonempty=True)
        elif rounds:
            self._vectors(pieces, i64(0))
        self._rest(pieces, rounds * self.round, extent)

    def _rest(self, pieces: list[Pieces], begin: int, extent: int) -> None:
        """The iterations from ``begin`` on, the last of them masked."""
        for start in range(begin, extent, self.width):
            alive = extent - start
            mask = first_lanes(self.width, alive) if alive < self.width else None
            self._vector(pieces, i64(start), start % self.round, mask)

    def _dynamic(self, pieces: list[Pieces]) -> None:
        trips = self.nest.trips(self.loop)
        is_large = self.weight * 2 * self.unroll > _LONG
        leaf = self._rotate_dynamic if is_large else self._dynamic_leaf
        self._nodes(pieces, i64(0), trips, self.spans, leaf)

    # ---- nodes and leaves of sums

    def _nodes(
        self, pieces: list[Pieces], begin: Value, end: Value, spans: Sequence[int], leaf: _Leaf
    ) -> None:
        """``leaf`` over the iterations ``[begin, end)``, in loops over the nodes."""
        if not spans:
            leaf(pieces, begin, end)
            return
        fn, step = self.fn, spans[0]
        with fn.loop(
            begin,
            end,
            step,
            _flat(pieces),
            nonempty=begin.name != "0",
            metadata=self.nest.metadata(),
        ) as open_:
            _refill(pieces, open_.carried)
            above = [list(piece.values) for piece in pieces]
            closing = [step in own_spans(piece.fold, self.loop.extent) for piece in pieces]
            for piece, closes in zip(pieces, closing, strict=True):
                if closes:
                    piece.clear()
            stop = fn.intrinsic("llvm.smin", fn.binary("add", open_.index, i64(step)), end)
            self._nodes(pieces, open_.index, stop, spans[1:], leaf)
            for piece, closes, values in zip(pieces, closing, above, strict=True):
                if closes:
                    piece.add_to(values)
            open_.next = _flat(pieces)
        _refill(pieces, open_.results)

    def _static_leaf(self, pieces: list[Pieces], begin: Value, end: Value) -> None:
        fn, extent = self.fn, self.loop.extent
        whole = extent // self.round * self.round
        rest = whole < extent
        stop = fn.intrinsic("llvm.smin", end, i64(whole)) if rest else end
        self._rounds(pieces, begin, stop, nonempty=not rest)
        if rest:
            with fn.branch(fn.compare("icmp sgt", end, i64(whole)), _flat(pieces)) as arm:
                self._rest(pieces, whole, extent)
                arm.next = _flat(pieces)
            _refill(pieces, arm.results)

    def _dynamic_leaf(self, pieces: list[Pieces], begin: Value, end: Value) -> None:
        fn = self.fn
        whole = fn.binary("and", end, i64(-self.round))
        self._rounds(pieces, begin, whole, nonempty=False)
        for n in range(self.unroll):
            base = fn.binary("add", whole, i64(n * self.width)) if n else whole
            before = _flat(pieces)
            with fn.branch(fn.compare("icmp slt", base, end), before) as arm:
                self._vector(pieces, base, n * self.width, self._mask(base, end))
                arm.next = _flat(pieces)
            _refill(pieces, arm.results)

    def _mask(self, base: Value, trips: Value) -> Value:
        """The lanes of the vector at ``base`` that lie below ``trips``."""
        fn = self.fn
        numbers = fn.binary(
            "add", fn.splat(base, self.width), literal_vector("i64", run(1, self.width))
        )
        return fn.compare("icmp slt", numbers, fn.splat(trips, self.width))

    # ---- one vector at a time, the accumulators taking turns

    def _rotate_static(self, pieces: list[Pieces], begin: Value, end: Value) -> None:
        if begin.name != "0":
            self._rotate_dynamic(pieces, begin, end)
            return
        extent = self.loop.extent
        whole = extent // self.width
        self._rotation(pieces, begin, i64(whole * self.width), nonempty=True)
        if extent % self.width:
            mask = first_lanes(self.width, extent % self.width)
            self._vector(pieces, i64(whole * self.width), 0, mask)
        for piece in pieces:
            piece.turn(-whole * self.width)

    def _rotate_dynamic(self, pieces: list[Pieces], begin: Value, end: Value) -> None:
        fn = self.fn
        whole = fn.binary("and", end, i64(-self.width))
        self._rotation(pieces, begin, whole, nonempty=False)
        with fn.branch(fn.compare("icmp slt", whole, end), _flat(pieces)) as arm:
            self._vector(pieces, whole, 0, self._mask(whole, end))
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

    def _rotation(self, pieces: list[Pieces], begin: Value, end: Value, nonempty: bool) -> None:
        first = _flat(pieces)
        with self.fn.loop(
            begin, end, self.width, first, nonempty=nonempty, metadata=self.nest.metadata()
        ) as open_:
            _refill(pieces, open_.carried)
            self._vector(pieces, open_.index, 0, None)
            for piece in pieces:
                piece.turn(self.width)
            open_.next = _flat(pieces)
        _refill(pieces, open_.results)

    def _rounds(self, pieces: list[Pieces], begin: Value, end: Value, nonempty: bool) -> None:
        first = _flat(pieces)
        with self.fn.loop(
            begin, end, self.round, first, nonempty=nonempty, metadata=self.nest.metadata()
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
