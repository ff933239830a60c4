"""Statements that the threads of a block run together: an iteration of a grid loop, or a kernel
without one.

What stands outside of vector loops is the same for all threads: each computes it for itself, and
thread 0 alone stores. Iteration i of a vector loop belongs to thread i modulo their number.

Folds of vector loops. Of a sum of floats, thread n is accumulator n of ``FoldOrder``: it takes
iterations n, n + accumulators, ... in order, as a tree of leaves and nodes. Then accumulators are
combined as the order's steps say: within a warp by shuffles, between warps through shared memory.
Addition is commutative, so after each step both threads of a pair hold what the first of them has
to hold, and in the end all hold the result. Other folds do not depend on the order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from gradc.codegen.cuda.printer.conflicts import (
    Access,
    Overlaps,
    Pending,
    lane_accesses,
    store_accesses,
)
from gradc.codegen.cuda.printer.maps import FOUR, Four, width_of
from gradc.codegen.cuda.printer.nest import Nest, PrintError, identity
from gradc.codegen.cuda.verbs import MEMORY_BYTES, VALUE_TYPES, WARP
from gradc.ir.loop.kernel import Buffer, Exchange, Fold, For, Gemm, Load, Stmt, Store, Var
from gradc.ir.loop.order import node_spans
from gradc.ir.tensor.core import DType

_MOST_THREADS = 256
_BUSY = 2  # iterations a thread from which on it takes four neighbours at a time
_FOLDING = 64  # the most accumulators of an order
_HELD = {DType.BOOL: DType.I32}  # what a type is while threads pass it on


@dataclass(frozen=True, slots=True)
class Shape:
    """What a block has: its threads."""

    threads: int

    @staticmethod
    def of(statements: Sequence[Stmt]) -> Shape:
        """As many threads as vector loops use: those of the orders of their sums, or as many as
        iterations.
        """
        loops = [loop for loop in loops_in(statements) if loop.kind == "vector"]
        if not loops:
            return Shape(1)
        widest = max(loop.extent for loop in loops)
        most = _FOLDING if any(loop.folds for loop in loops) else _MOST_THREADS
        threads = WARP
        while threads < min(widest, most):
            threads *= 2
        return Shape(threads)


def loops_in(statements: Sequence[Stmt], without: Collection[For] = ()) -> list[For]:
    """All loops of statements, the outer ones first, but for some and what is in them."""
    found = []
    for statement in statements:
        if isinstance(statement, For) and statement not in without:
            found += [statement, *loops_in(statement.body, without)]
    return found


class BlockNest(Nest):
    """Writes what a block does. ``pending`` is what was touched since the last barrier."""

    threads = 1
    aligned: frozenset[Buffer] = frozenset()
    pending: Pending
    grid: Var | None = None  # the index of the grid loop

    def begin(self, shape: Shape, overlaps: Overlaps, aligned: frozenset[Buffer]) -> None:
        """Starts a text: no access so far. Memory that is ``aligned`` begins at multiples of 16
        bytes.
        """
        self.threads = shape.threads
        self.aligned = aligned
        self.pending = Pending(overlaps)
        self._rooms: dict[Fold, str] = {}
        self.shared: list[tuple[str, str, int]] = []

    # ---- statements

    def body(self, statements: Sequence[Stmt]) -> None:
        for statement in statements:
            if isinstance(statement, For):
                self._for(statement)
            elif isinstance(statement, Load):
                self._before([Access(statement.buffer, False, "all")])
                self.load(statement)
            elif isinstance(statement, Store):
                self._before(list(store_accesses(statement, "first")))
                self.store(statement, "t == 0" if self.threads > 1 else "")
            elif isinstance(statement, (Gemm, Exchange)):
                raise PrintError(f"a {type(statement).__name__} stands inside of a loop")
            else:
                self.plain(statement)

    def _before(self, accesses: Sequence[Access]) -> None:
        """Waits for others if that is needed, and notes the accesses."""
        if self.threads > 1 and self.pending.conflicts(accesses):
            self._barrier()
        self.pending.found.update(accesses)

    def _barrier(self) -> None:
        self.lines.add("barrier()")
        self.pending.found.clear()

    def _for(self, loop: For) -> None:
        if loop.kind != "vector":
            self._together(loop)
            return
        fours = self._takes_fours(loop)
        who = f"{'fours' if fours else 'lanes'} of {self._stride(loop)}"
        self._before(list(lane_accesses(loop, who, self.grid)))
        if loop.folds:
            self._folds(loop)
        elif fours:
            self._fours(loop)
        else:
            self._lanes(loop, str(self.threads))

    def _takes_fours(self, loop: For) -> bool:
        """Whether each thread takes four neighbours at a time."""
        if loop.folds or loop.extent < _BUSY * self.threads or self.threads == 1:
            return False
        return width_of(loop, self.pending.overlaps, self.aligned) == FOUR

    def _fours(self, loop: For) -> None:
        """Independent iterations, four neighbours at a time."""
        end, index = self.end(loop), self.words.define(loop.index)
        step = FOUR * self.threads
        with self.lines.block(f"for {index} in range({FOUR} * t, {end}, {step})"):
            Four(self._single(), loop, self.aligned).write()

    def _together(self, loop: For) -> None:
        """A serial loop that all threads run."""
        self._settled(
            lambda: self.serial(loop, lambda: self.body(loop.body)),
            loop.extent > 1,
            loop.limit is not None or not loop.extent,
        )

    def _settled(self, write: Callable[[], None], has_trips: bool, may_be_none: bool) -> None:
        """Writes a loop that all threads run; a barrier in it stands for every trip, of which there
        are several if it ``has_trips``, and none if so it may be.
        """
        entry = set(self.pending.found)
        lines, shared = len(self.lines.lines), len(self.shared)
        named, rooms = self.words.state(), dict(self._rooms)
        while True:
            # What the last trip has touched is pending when the next one begins.
            self.pending.found = set(entry)
            write()
            grown = entry | self.pending.found
            if grown == entry or not has_trips:
                if may_be_none:
                    self.pending.found |= entry
                return
            entry = grown
            del self.lines.lines[lines:], self.shared[shared:]
            self.words.reset(named)
            self._rooms = dict(rooms)

    # ---- vector loops

    def _stride(self, loop: For) -> int:
        """How many threads share the iterations of a loop."""
        ordered = [fold for fold in loop.folds if fold.is_tree]
        return min([self.threads, *(fold.lane_order.accumulators for fold in ordered)])

    def _single(self) -> Nest:
        """What one thread writes into the same text."""
        nest = Nest(self.lines, self.words, self.buffers)
        nest.bases = self.bases
        return nest

    def _lanes(self, loop: For, stride: str) -> None:
        """Independent iterations, spread over the threads."""
        end = self.end(loop)
        index = self.words.define(loop.index)
        nest = self._single()
        if self.threads == 1:
            with self.lines.block(f"for {index} in range({end})"):
                nest.body(loop.body)
            return
        with self.lines.block(f"for {index} in range(t, {end}, {stride})"):
            nest.body(loop.body)

    def _folds(self, loop: For) -> None:
        stride = self._stride(loop)
        orders = {f.lane_order.accumulators for f in loop.folds if f.is_tree}
        if len(orders) > 1:
            raise PrintError("sums of several types in one loop")
        end = self.end(loop)
        totals = [self.words.define(fold.result) for fold in loop.folds]
        for fold, total in zip(loop.folds, totals, strict=True):
            self.lines.add(f"{total} = {identity(fold)}")
        terms = -(-loop.extent // (orders.pop() if orders else stride))
        spans = node_spans(terms) if any(f.is_tree for f in loop.folds) else ()
        if stride < self.threads:
            with self.lines.block(f"if t < {stride}"):
                self._terms(loop, "0", end, totals, [s * stride for s in spans], stride)
        else:
            self._terms(loop, "0", end, totals, [s * stride for s in spans], stride)
        for fold, total in zip(loop.folds, totals, strict=True):
            self._combine(fold, total, stride)

    def _terms(
        self,
        loop: For,
        start: str,
        end: str,
        totals: Sequence[str],
        spans: Sequence[int],
        stride: int,
    ) -> None:
        """The terms of this thread's accumulators in [start, end), added to ``totals``."""
        lines = self.lines
        if not spans:
            index = self.words.define(loop.index)
            first = "t" if start == "0" else f"{start} + t"
            if self.threads == 1:
                first, stride = start, 1
            with lines.block(f"for {index} in range({first}, {end}, {stride})"):
                self._single().body(loop.body)
                for fold, total in zip(loop.folds, totals, strict=True):
                    value = self.words.scalar(fold.value)
                    lines.add(f"{total} = {self._step(fold, total, value)}")
            return
        first, step = self.words.names.new("first"), spans[0]
        loop_over = lines.block(f"for {first} in range({start}, {end}, {step})")
        with loop_over, self._parts(loop.folds, totals, identity) as parts:
            stop = self.words.names.new("stop")
            lines.add(f"{stop} = min({first} + {step}, {end})")
            self._terms(loop, first, stop, parts, spans[1:], stride)

    def _combine(self, fold: Fold, total: str, stride: int) -> None:
        """All threads' totals into one, that all of them have."""
        order = fold.lane_order
        self.lines.add(
            f"# {total} of all threads, in its sum's order"
            if fold.is_tree
            else f"# {total} of all threads"
        )
        steps: Sequence[int]
        if fold.is_tree:
            steps = [step for step in order.steps if step < stride]
        else:
            steps = [1 << n for n in reversed(range(stride.bit_length() - 1))]
        for step in steps:
            if step < WARP:
                other = self._shuffled(fold, total, step)
            else:
                other = self._exchanged(fold, total, f"t ^ {step}", step)
            self.lines.add(f"{total} = {self._step(fold, total, other)}")
        if stride < self.threads:
            shared = self._exchanged(fold, total, "0", 0)
            self.lines.add(f"{total} = {shared}")

    def _shuffled(self, fold: Fold, total: str, step: int) -> str:
        if fold.result.dtype is DType.BOOL:
            return f"(shuffle_xor(i32({total}), {step}) != i32(0))"
        return f"shuffle_xor({total}, {step})"

    def _exchanged(self, fold: Fold, total: str, at: str, step: int) -> str:
        """The total of another thread, through shared memory."""
        room = self._room(fold)
        self._before([Access(room, True, "own")])
        dtype = fold.result.dtype
        held = f"i32({total})" if dtype is DType.BOOL else total
        self.lines.add(f"store({room}, t, {held})")
        self._before([Access(room, False, "other")])
        place = at if step == 0 else f"bitxor(t, {step})"
        found = f"load({room}, {place})"
        return f"({found} != i32(0))" if dtype is DType.BOOL else found

    def _room(self, fold: Fold) -> str:
        """Shared memory with an element per thread."""
        room = self._rooms.get(fold)
        if room is None:
            room = self._rooms[fold] = self.words.names.new("totals")
            self.shared.append(
                (room, VALUE_TYPES[_HELD.get(fold.result.dtype, fold.result.dtype)], self.threads)
            )
        return room

    @property
    def shared_bytes(self) -> int:
        """Bytes of what this text declares itself."""
        used = 0
        for _, dtype, count in self.shared:
            used = -(-used // 16) * 16 + count * MEMORY_BYTES[dtype]
        return used
