"""Loop nests to LLVM: a ``Kernel`` becomes one function of its buffers and a range of its grid
loop.

``void @name(ptr buffer..., ptr scratch, i64 begin, i64 end)``: private buffers and what matrix
products pack lie in ``scratch_bytes`` at ``scratch``, one after the other; ``[begin, end)`` counts
the iterations of the grid loop, or is (0, 1) where the kernel is not one such loop. Block loops run
in order: a processor has one level.

A ``vector`` loop is emitted with explicit vectors: values that do not depend on its index stay
scalars, the rest are vectors of ``width`` iterations; the last, incomplete one is masked. Serial
loops inside a vector loop are run once for all lanes (outer-loop vectorisation, several registers
wide). A vector loop that cannot be vectorised (it holds another one, or an inner trip count differs
from lane to lane) runs as a scalar loop.

Invariants: the bits are those of ``ir.loop.order`` whatever the width. Non-goals: hoisting and
common subexpressions of the loop IR (its builder did that), scheduling, alias analysis.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from contextlib import nullcontext

from gradc.codegen.exchange import KINDS
from gradc.codegen.llvm.bodies import is_long, rebind, walk
from gradc.codegen.llvm.gemm import gemm as matrix
from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.maths.scalars import COMPUTE, Scalars
from gradc.codegen.llvm.nest import beside, rows, transposed
from gradc.codegen.llvm.nest.folds import Pieces, neutral, period, zero_trips
from gradc.codegen.llvm.nest.indices import Indices
from gradc.codegen.llvm.nest.loop_facts import can_vectorise, varying, width_of
from gradc.codegen.llvm.nest.memory import Address, Lanes, Memory, i64, run
from gradc.codegen.llvm.nest.split import split
from gradc.codegen.llvm.nest.turns import in_turns
from gradc.codegen.llvm.nest.vectors import VectorLoop, own_spans, vector_spans
from gradc.codegen.llvm.text import Function, Module, Value, lanes_of, vector
from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    Const,
    Exchange,
    Fold,
    For,
    Gemm,
    Index,
    Kernel,
    Let,
    Load,
    Scalar,
    Stmt,
    Store,
    Var,
)
from gradc.ir.loop.order import node_spans
from gradc.ir.tensor.core import DType


def emit_kernel(module: Module, kernel: Kernel, name: str, isa: Isa) -> None:
    """Defines ``@name`` for ``kernel``. Raises ValueError for a verb its operands do not have."""
    only = kernel.body[0] if len(kernel.body) == 1 else None
    if isinstance(only, Gemm):
        epilogue = functools.partial(emit_epilogue, isa)
        matrix.emit_kernel(module, kernel, only, name, isa, epilogue)
        return
    given = kernel.bound
    fn = module.function(
        name,
        "void",
        [
            *(("ptr", f"b{n}") for n in range(len(given))),
            ("ptr noalias", "scratch"),
            ("i64", "begin"),
            ("i64", "end"),
        ],
        attributes="noinline",
    )
    *pointers, scratch, begin, end = fn.parameters
    places = dict(zip(given, pointers, strict=True))
    used = 0
    for buffer in kernel.private:
        places[buffer] = fn.address(scratch, "i8", i64(used))
        used += _lines(buffer)
    nest = Nest(fn, isa, places, fn.address(scratch, "i8", i64(used)))
    nest.keep_rows(kernel.body)
    if matrix.products(kernel):
        nest.products(kernel, begin, end)
    elif isinstance(only, For) and only.kind == "grid" and only.limit is None:
        nest.run(only, begin, end)
    else:
        nest.body(kernel.body)
    fn.ret()


def scratch_bytes(kernel: Kernel, isa: Isa) -> int:
    """Scratch that one thread needs for ``kernel``: its buffers, and the most that one of its
    products packs.
    """
    rows = sum(map(_lines, kernel.private))
    products = (s for s in kernel.body if isinstance(s, Gemm))
    return rows + max((matrix.scratch_bytes(p, isa) for p in products), default=0)


def _lines(buffer: Buffer) -> int:
    """Bytes of a buffer in whole cache lines."""
    return -(-buffer.size * buffer.dtype.itemsize // 64) * 64


def emit_epilogue(
    isa: Isa,
    fn: Function,
    gemm: Gemm,
    pointers: dict[Buffer, Value],
    batch: Sequence[Value],
    i: Value,
    j: Value,
    acc: Value,
    mask: Value | None,
    step: int,
    fence: int,
) -> None:
    """Emits the epilogue of ``gemm`` for the lanes of ``acc``, which are columns ``j``, ``j + 1``,
    ...; ``step`` divides ``j``, and no multiple of ``fence`` is between them.
    """
    nest = Nest(fn, isa, pointers)
    for index, extent in zip(gemm.batch_index, gemm.batch, strict=True):
        nest.indices.enter(index, extent)
    nest.indices.enter(gemm.i, gemm.m)
    nest.indices.enter(gemm.j, gemm.n, step, 0, fence)
    nest.env.update(zip(gemm.batch_index, batch, strict=True))
    nest.env[gemm.i] = i
    nest.env[gemm.acc] = acc
    with fn.in_order() if is_long(gemm.epilogue, isa) else nullcontext():
        nest.vector_body(gemm.epilogue, Lanes(gemm.j, j, lanes_of(acc.type), mask))


@dataclasses.dataclass(frozen=True, slots=True)
class _Span:
    """Iterations ``[begin, end)``; ``is_even`` where the end is the loop's extent, known now."""

    begin: Value
    end: Value
    is_even: bool = False
    nonempty: bool = False

    def below(self, fn: Function, begin: Value, step: int, extent: int) -> _Span:
        """The ``step`` iterations from ``begin`` on, as many as there are."""
        stop = fn.binary("add", begin, i64(step))
        is_even = self.is_even and extent % step == 0
        if not is_even:
            stop = fn.intrinsic("llvm.smin", stop, self.end)
        return _Span(begin, stop, is_even, True)


@dataclasses.dataclass(frozen=True, slots=True)
class _Cells:
    """Accumulators of one fold in memory: those of the whole, then of each level below it."""

    fold: Fold
    places: list[Value]
    count: int
    levels: list[int]


class Nest:
    """Emits statements into one function. ``env`` holds the values of the variables in sight."""

    def __init__(
        self, fn: Function, isa: Isa, places: dict[Buffer, Value], scratch: Value | None = None
    ) -> None:
        """``scratch`` is where products among the statements pack."""
        self.fn = fn
        self.scratch = scratch
        self.isa = isa
        self.places = places
        self.scalars = Scalars(fn, isa)
        self.memory = Memory(fn, self.scalars)
        self.indices = Indices(fn, self.memory)
        self.env: dict[Var, Value] = {}
        self.runs: dict[Var, Address] = {}
        self.given: dict[Load, Value] = {}  # loads made already
        self.lanes: Lanes | None = None
        self.varying: set[Var] = set()
        self.beside: dict[Store, beside.Beside] = {}
        self.rows: dict[rows.VectorRow, list[Value]] = {}
        self._row_vectors: dict[rows.VectorRow, int] = {}
        self._gemms = 0

    def keep_rows(self, body: Sequence[Stmt]) -> None:
        """Decides which scratch rows live in registers; their contents are anything until
        stored.
        """
        width = functools.partial(width_of, isa=self.isa)
        self._row_vectors = rows.find(body, self.isa, width, can_vectorise)
        widths = {
            statement.buffer: width(loop)
            for loop in walk(body)
            if isinstance(loop, For) and loop.kind == "vector"
            for statement in loop.body
            if isinstance(statement, (Load, Store))
        }
        for row, count in self._row_vectors.items():
            dtype = row.buffer.dtype
            nothing = self.scalars.const(0, dtype, widths[row.buffer])
            self.rows[row] = [nothing] * count

    def row_of(self, statement: Load | Store) -> tuple[list[Value], int] | None:
        """The register row that a statement of a vector body accesses, and which vector of it."""
        row = self.rows.get(rows.VectorRow(statement.buffer, statement.offset.constant))
        if row is None or self.lanes is None:
            return None
        return row, int(self.lanes.base.name) // self.lanes.count

    def uses_rows(self, loop: For) -> bool:
        """Whether a vector loop works on register rows, so that it must be written out."""
        return rows.touched(loop, self._row_vectors)

    # ---- statements -----------------------------------------------------------------------------

    def body(self, statements: Iterable[Stmt]) -> None:
        """Emits statements in order."""
        statements = tuple(statements)
        groups, self.beside = self.beside, beside.found(statements) if self.lanes else {}
        for statement in statements:
            if isinstance(statement, Let):
                self._let(statement)
            elif isinstance(statement, Index):
                self.indices.define(statement.var, statement.value)
                self._set_place(statement.var, self._place(statement.value))
            elif isinstance(statement, Load):
                self._load(statement)
            elif isinstance(statement, Store):
                self._store(statement)
            elif isinstance(statement, For):
                self._for(statement)
            elif isinstance(statement, Gemm):
                self._gemm(statement)
            else:
                self._exchange(statement)
        self.beside = groups

    def vector_body(self, statements: Sequence[Stmt], lanes: Lanes) -> None:
        """Emits statements for the iterations that ``lanes`` says."""
        before, self.lanes = self.lanes, lanes
        self.varying.update(varying(statements, {lanes.index}))
        self.body(statements)
        self.lanes = before

    def value(self, scalar: Scalar) -> Value:
        """An operand: a literal, a loop index, or a variable."""
        if isinstance(scalar, Const):
            return self.scalars.const(scalar.value, scalar.dtype)
        if self.lanes is not None and scalar is self.lanes.index:
            return self.memory.number(
                Address(self.lanes.base, run(1, self.lanes.count)), self.lanes
            )
        place = self.runs.get(scalar)
        return self.env[scalar] if place is None else self.memory.number(place, self.lanes)

    def _place(self, offset: Affine) -> Address:
        place = self.memory.place(offset, self.env, self.lanes, self.runs)
        if place.is_uniform or not self.indices.is_small(offset.terms):
            return place
        return dataclasses.replace(place, is_small=True)

    def _set_place(self, var: Var, place: Address) -> None:
        """Defines an index variable; a run of numbers stays one as long as it is only added to."""
        self.runs.pop(var, None)
        is_run = place.pattern and place.offsets is None
        if self.lanes is not None and (is_run or place.turn is not None):
            self.runs[var] = place
        else:
            self.env[var] = self.memory.number(place, self.lanes)

    def _divides(self, statement: Let) -> bool:
        """Emits a quotient or remainder of an index by a positive literal; False if the statement
        is not one.
        """
        if statement.verb not in ("floordiv", "mod") or statement.var.dtype is not DType.I64:
            return False
        source, by = statement.operands
        if isinstance(source, Const) or not isinstance(by, Const) or by.value <= 0:
            return False
        place = self._place(Affine.of(source))
        divisor = int(by.value)
        var, verb = statement.var, statement.verb
        self._set_place(var, self.indices.divide(var, verb, source, place, divisor, self.lanes))
        return True

    def _let(self, statement: Let) -> None:
        if self._divides(statement):
            return
        operands = [self.value(x) for x in statement.operands]
        dtypes = [x.dtype for x in statement.operands]
        result = self.scalars.verb(statement.verb, statement.var.dtype, operands, dtypes)
        self.env[statement.var] = result

    def _load(self, statement: Load) -> None:
        if statement in self.given:
            self.env[statement.var] = self.given[statement]
            return
        row = self.row_of(statement)
        if row is not None:
            vectors, number = row
            self.env[statement.var] = vectors[number]
            return
        guard = None if statement.guard is None else self.value(statement.guard)
        base, dtype = self.places[statement.buffer], statement.buffer.dtype
        place = self._place(statement.offset)
        self.env[statement.var] = self.memory.load(base, dtype, place, self.lanes, guard)

    def _store(self, statement: Store) -> None:
        row = self.row_of(statement)
        if row is not None and self.lanes is not None:
            vectors, number = row
            vectors[number] = self.fn.splat(self.value(statement.value), self.lanes.count)
            return
        guard = None if statement.guard is None else self.value(statement.guard)
        base, dtype = self.places[statement.buffer], statement.buffer.dtype
        place, value = self._place(statement.offset), self.value(statement.value)
        group, lanes = self.beside.get(statement), self.lanes
        if group is not None and lanes is not None and lanes.is_front and group.takes(place):
            if group.keep(statement, place, self.fn.splat(value, lanes.count)):
                first, joined = group.joined(self.fn)
                self.memory.store_joined(base, dtype, first, lanes, joined)
            return
        self.memory.store(base, dtype, place, self.lanes, guard, value, statement.combine)

    def products(self, kernel: Kernel, begin: Value, end: Value) -> None:
        """Products that share their pieces: of each those of the range that are its own, in turns:
        they write the same places of memory, and read them.
        """
        found = matrix.products(kernel)
        names = [self._product(product) for product in found]
        sizes = [
            (matrix.units(product, self.isa), matrix.column_blocks(product, self.isa))
            for product in found
        ]
        in_turns(self.fn, sizes, (begin, end), lambda n, *some: self._call_product(names[n], *some))

    def _gemm(self, statement: Gemm) -> None:
        """A product among other statements: all its pieces."""
        self._call_product(self._product(statement), i64(0), i64(matrix.units(statement, self.isa)))

    def _product(self, statement: Gemm) -> str:
        """A product among other statements becomes a function of its own; returns its name."""
        if self.env or self.lanes is not None:
            raise ValueError("a Gemm must stand at the top of its kernel")
        name = f"{self.fn.name}.gemm{self._gemms}"
        self._gemms += 1
        # To the function of the product, this kernel's scratch is memory like any other.
        shared = {b: Buffer(b.name, b.dtype, b.size, "update") for b in self.places}
        product = rebind(statement, shared)
        kernel = Kernel(name, tuple(shared.values()), (product,))
        emit_epilogue_here = functools.partial(emit_epilogue, self.isa)
        matrix.emit_kernel(self.fn.module, kernel, product, name, self.isa, emit_epilogue_here)
        return name

    def _call_product(self, name: str, begin: Value, end: Value) -> None:
        """Pieces of a product."""
        if self.scratch is None:
            raise ValueError("a Gemm must stand at the top of its kernel")
        pointers = ", ".join(map(str, (*self.places.values(), self.scratch)))
        self.fn.line(f"call void @{name}({pointers}, {begin}, {end})")

    def _exchange(self, statement: Exchange) -> None:
        """A call of what joins the ranks (``codegen.exchange``); nothing where there is one."""
        if statement.ranks == 1:
            return
        kind = KINDS.index("await" if statement.ends else statement.kind)
        part = statement.buffer.size // statement.ranks * statement.buffer.dtype.itemsize
        self.fn.module.declare("gradc_exchange", "void", ("i64", "ptr", "i64", "i64"))
        given = f"i64 {kind}, {self.places[statement.buffer]}, i64 {statement.ranks}"
        self.fn.line(f"call void @gradc_exchange({given}, i64 {part})")

    # ---- loops ----------------------------------------------------------------------------------

    def _for(self, loop: For) -> None:
        turned = transposed.find(loop, self.isa.costs) if self.lanes is None else None
        if turned is not None and not self.uses_rows(turned.inner):
            transposed.emit(self, turned)
        elif loop.kind != "vector" or self.lanes is not None:
            self.run(loop, i64(0), self.trips(loop))
        elif not can_vectorise(loop):
            self._one_by_one(loop)
        elif loop.extent == 1 and loop.limit is None:
            self._once(loop)
        else:
            for piece in split(loop):
                VectorLoop(self, piece).emit()

    def trips(self, loop: For) -> Value:
        """The trip count, never negative."""
        extent = i64(loop.extent)
        if loop.limit is None:
            return extent
        limit = self.memory.number(self._place(loop.limit), None)
        bounded = self.fn.intrinsic("llvm.smin", limit, extent)
        return self.fn.intrinsic("llvm.smax", bounded, i64(0))

    def metadata(self) -> str:
        """A ``!llvm.loop`` node that keeps LLVM from unrolling or vectorising again."""
        module = self.fn.module
        return module.metadata(
            '{self}, !{!"llvm.loop.unroll.disable"}, !{!"llvm.loop.vectorize.enable", i1 false}',
            distinct=True,
        )

    def run(self, loop: For, begin: Value, end: Value) -> None:
        """The loop over [begin, end) in order, its folds from the left; for all lanes at once in a
        vector body.
        """
        static = loop.limit is None and begin.name == "0" and not end.name.startswith("%")
        if static and end.name in ("0", "1"):
            self._few(loop, int(end.name))
            return
        before = dict(self.rows)
        kept = [] if loop.is_parallel else rows.stored(loop.body, self._row_vectors)
        first = [self._neutral(fold) for fold in loop.folds]
        first += [vector for row in kept for vector in self.rows[row]]
        trees = any(fold.is_tree for fold in loop.folds)
        spans = node_spans(loop.extent) if trees else ()
        span = _Span(begin, end, is_even=static, nonempty=static)
        results = self._serial(loop, span, first, kept, spans)
        if loop.is_parallel:
            self.rows = before
        self._refill_rows(kept, results[len(loop.folds) :])
        for fold, result in zip(loop.folds, results, strict=False):
            if not static:
                some = self.fn.compare("icmp slt", begin, end)
                none = self.fn.splat(zero_trips(fold, self.scalars), lanes_of(result.type))
                result = self.fn.select(some, result, none)
            self.env[fold.result] = result

    def _serial(
        self,
        loop: For,
        at: _Span,
        first: list[Value],
        kept: list[rows.VectorRow],
        spans: Sequence[int],
    ) -> list[Value]:
        """Iterations in order, from what ``first`` says: the folds, then the rows. ``spans`` are
        those of the nodes.
        """
        fn, count = self.fn, len(loop.folds)
        step = spans[0] if spans else 1
        with fn.loop(
            at.begin, at.end, step, first, nonempty=at.nonempty, metadata=self.metadata()
        ) as open_:
            if spans:
                inner = list(open_.carried)
                for n, fold in enumerate(loop.folds):
                    if fold.is_tree:
                        inner[n] = self._neutral(fold)
                below = at.below(fn, open_.index, step, loop.extent)
                found = self._serial(loop, below, inner, kept, spans[1:])
                for n, fold in enumerate(loop.folds):
                    total = found[n]
                    if fold.is_tree:
                        have, dtype = open_.carried[n], fold.result.dtype
                        total = self.scalars.combine(fold.combine, have, total, dtype)
                    open_.next.append(total)
                open_.next += found[count:]
            else:
                self.env[loop.index] = open_.index
                self.indices.enter(loop.index, loop.extent)
                self._refill_rows(kept, open_.carried[count:])
                self.body(loop.body)
                for fold, total in zip(loop.folds, open_.carried, strict=False):
                    value, dtype = self.value(fold.value), fold.result.dtype
                    open_.next.append(self.scalars.combine(fold.combine, total, value, dtype))
                open_.next += [vector for row in kept for vector in self.rows[row]]
        return open_.results

    def _refill_rows(self, kept: Sequence[rows.VectorRow], values: Sequence[Value]) -> None:
        source = iter(values)
        for row in kept:
            self.rows[row] = [next(source) for _ in self.rows[row]]

    def _neutral(self, fold: Fold) -> Value:
        value = neutral(fold.combine, fold.result.dtype)
        wide = self.lanes is not None and fold.result in self.varying
        lanes = self.lanes.count if wide and self.lanes else 0
        return self.scalars.const(value, fold.result.dtype, lanes)

    def _few(self, loop: For, trips: int) -> None:
        """No trip or one: no loop."""
        if trips:
            self.env[loop.index] = i64(0)
            self.indices.enter(loop.index, 1, 0)
            self.body(loop.body)
        for fold in loop.folds:
            value = self.value(fold.value) if trips else zero_trips(fold, self.scalars)
            if trips and fold.result in self.varying and self.lanes is not None:
                value = self.fn.splat(value, self.lanes.count)
            self.env[fold.result] = value

    def _once(self, loop: For) -> None:
        """A vector loop of one iteration: scalars, folded onto the identity as the vector loop
        would.
        """
        self.env[loop.index] = i64(0)
        self.indices.enter(loop.index, 1, 0)
        self.body(loop.body)
        for fold in loop.folds:
            start = zero_trips(fold, self.scalars)
            value = self.value(fold.value)
            result = self.scalars.combine(fold.combine, start, value, fold.result.dtype)
            self.env[fold.result] = result

    def _one_by_one(self, loop: For) -> None:
        """A vector loop as a scalar one; its accumulators lie in memory, where iteration i finds
        its own.
        """
        fn, trips = self.fn, self.trips(loop)
        spans = vector_spans(loop)
        cells: list[_Cells] = []
        for fold in loop.folds:
            count = period(fold) if fold.is_tree else 1
            levels = [span for span in spans if span in own_spans(fold, loop.extent)]
            places = [fn.alloca(COMPUTE[fold.result.dtype], count) for _ in (0, *levels)]
            cells.append(_Cells(fold, places, count, levels))
        for cell in cells:
            self._clear(cell, 0)
        self._one_by_one_span(loop, _Span(i64(0), trips), cells, spans)
        for cell in cells:
            self.env[cell.fold.result] = self._collect(cell.fold, cell.places[0], cell.count)

    def _one_by_one_span(
        self, loop: For, at: _Span, cells: Sequence[_Cells], spans: Sequence[int]
    ) -> None:
        fn = self.fn
        step = spans[0] if spans else 1
        with fn.loop(at.begin, at.end, step, metadata=self.metadata()) as open_:
            if spans:
                closing = [(c, c.levels.index(step)) for c in cells if step in c.levels]
                for cell, level in closing:
                    self._clear(cell, level + 1)
                below = at.below(fn, open_.index, step, loop.extent)
                self._one_by_one_span(loop, below, cells, spans[1:])
                for cell, level in closing:
                    self._close(cell, level)
                return
            self.env[loop.index] = open_.index
            self.indices.enter(loop.index, loop.extent)
            self.body(loop.body)
            for cell in cells:
                slot = fn.binary("and", open_.index, i64(cell.count - 1))
                self._add_to_cell(cell, -1, slot, self.value(cell.fold.value))

    def _clear(self, cell: _Cells, level: int) -> None:
        start = zero_trips(cell.fold, self.scalars)
        count = i64(cell.count)
        with self.fn.loop(i64(0), count, 1, nonempty=True, metadata=self.metadata()) as clear:
            self._put(start, cell.places[level], clear.index)

    def _close(self, cell: _Cells, level: int) -> None:
        """Adds the accumulators of a finished leaf or node to those of the node above."""
        count = i64(cell.count)
        with self.fn.loop(i64(0), count, 1, nonempty=True, metadata=self.metadata()) as each:
            done = self._get(cell.fold, cell.places[level + 1], each.index)
            self._add_to_cell(cell, level, each.index, done)

    def _add_to_cell(self, cell: _Cells, level: int, slot: Value, value: Value) -> None:
        fold, place = cell.fold, cell.places[level]
        old = self._get(fold, place, slot)
        dtype = fold.result.dtype
        self._put(self.scalars.combine(fold.combine, old, value, dtype), place, slot)

    def _collect(self, fold: Fold, cell: Value, count: int) -> Value:
        """The accumulators in memory, combined."""
        if count == 1:
            return self._get(fold, cell, i64(0))
        pieces = Pieces(fold, self.scalars, fold.lane_order.lanes, 1)
        element = COMPUTE[fold.result.dtype]
        for n in range(len(pieces.values)):
            at = self.fn.address(cell, element, i64(n * pieces.width))
            pieces.values[n] = self.fn.load(at, vector(element, pieces.width), 4)
        return pieces.result()

    def _put(self, value: Value, cell: Value, slot: Value) -> None:
        self.fn.store(value, self.fn.address(cell, value.type, slot), 1)

    def _get(self, fold: Fold, cell: Value, slot: Value) -> Value:
        element = COMPUTE[fold.result.dtype]
        return self.fn.load(self.fn.address(cell, element, slot), element, 1)
