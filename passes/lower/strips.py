"""Products whose factor another product makes, with rows between them or not, as one launch over
strips of rows. Plan to Plan, before places are chosen.

    from  a product S, rows of it (their maxima, sums, exponentials), a product with what they give
    to    a grid loop over strips of rows of S: the strip's part of the first product, its rows, its
          part of the second product; the strip itself is memory of the block

So attention is one launch, and scores never reach memory; its reverse sweep has the gradient of
scores and of queries in one. What other launches read as well is stored besides. Every element is
the same sum in the same order, and every row is folded whole, so no bit changes.

A strip reads both right factors whole, so they must be narrow beside it (``_REREAD``), and there
must be strips for half of all multiprocessors. Rows that keep something for themselves, products of
16-bit types (tensor cores take those), and strips that the memory of a block does not hold stay
what they are. Non-goals: recomputing what the reverse sweep needs; sums over the strip's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod

from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    Const,
    Factor,
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
from gradc.ir.loop.traffic import traffic
from gradc.ir.plan.plan import Launch, Plan, Step
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import DType
from gradc.passes.lower.chains import Chain, chains, is_flat, row_step

# Rows of a strip, the most first.
STRIPS = (32, 16)
# Elements of both right factors that are read for each row of a strip, at most.
_REREAD = 8
PAD = 4  # elements between rows of a strip, so that rows begin in different banks


def strips(plan: Plan, target: Target) -> Plan:
    """``plan`` with chains of products over strips; the same object if there are none."""
    if not target.strip_bytes:
        return plan
    work = _Strips(plan, target)
    steps = work.steps(plan.steps)
    if len(work.kernels) == len(plan.kernels):
        return plan
    # Kernels that nothing launches any more go when places are chosen, with all unused ones.
    return replace(plan, steps=steps, kernels=tuple(work.kernels))


class _Strips:
    def __init__(self, plan: Plan, target: Target) -> None:
        self.plan, self.target = plan, target
        self.kernels = list(plan.kernels)
        self._known: dict[tuple[object, ...], int] = {}

    def steps(self, steps: Sequence[Step]) -> tuple[Step, ...]:
        inner: list[Step | None] = [s.with_body(self.steps) for s in steps]
        for chain in chains(self.plan, steps, lambda chain: self._rows(chain) > 0):
            for position in chain.positions:
                inner[position] = None
            inner[chain.place] = self._launch(chain)
        return tuple(step for step in inner if step is not None)

    def _launch(self, chain: Chain) -> Launch:
        """The launch that does what those of ``chain`` do."""
        rows, first = self._rows(chain), chain.launches[0]
        number = self._known.get((*chain.key, rows))
        if number is None:
            number = self._known[*chain.key, rows] = len(self.kernels)
            self.kernels.append(_Writer(chain, rows).kernel())
        return replace(first, kernel=number, arguments=chain.arguments)

    def _rows(self, chain: Chain) -> int:
        """How many rows a strip has; 0 where there are to be none."""
        first, last = chain.first, chain.last
        fits = [
            rows
            for rows in STRIPS
            if first.m % rows == 0
            and rows * row_stride(first.n) * 4 <= self.target.strip_bytes
            and first.k + last.n <= _REREAD * rows
        ]
        counts = {rows: prod(first.batch) * first.m // rows for rows in fits}
        processors = self.target.processors.count
        for rows in fits:
            if counts[rows] >= processors:
                return rows
        return fits[-1] if fits and 2 * counts[fits[-1]] >= processors else 0


def row_stride(columns: int) -> int:
    """Elements from one row of a strip to the next."""
    return -(-columns // 4) * 4 + PAD


class _Writer:
    """Writes the kernel of a chain over strips of ``rows`` rows."""

    def __init__(self, chain: Chain, rows: int) -> None:
        self.chain, self.rows = chain, rows
        gemm = chain.first
        self.strips = gemm.m // rows
        self.count = prod(gemm.batch) * self.strips
        self._names = 0
        self.grid = self.var(DType.I64)
        size = rows * row_stride(gemm.n)
        self.strip = Buffer("strip", DType.F32, size, "update", "block")
        self.buffers = chain.buffers
        self.head: list[Stmt] = []
        self.batch = self._digits(gemm.batch)
        self.number = self._digit(1, self.strips, self.count)

    def var(self, dtype: DType) -> Var:
        self._names += 1
        return Var(f"v{self._names}", dtype)

    def kernel(self) -> Kernel:
        chain = self.chain
        body: list[Stmt] = [self._product(chain.first, 0)]
        if chain.rows is not None:
            body.append(self._rows(chain.rows))
        body.append(self._product(chain.last, len(chain.launches) - 1))
        grid = For(self.grid, self.count, "grid", (*self.head, *body))
        kernels = [chain.kernels[n] for n in range(len(chain.launches))]
        spans = tuple(dict.fromkeys(span for kernel in kernels for span in kernel.spans))
        name = f"{kernels[0].name.split('_')[0]}_strips"
        flops = sum(kernel.flops for kernel in kernels)
        buffers = (*chain.bound, self.strip)
        return Kernel(name, buffers, (grid,), flops, traffic((grid,)), spans)

    # ---- where a strip is

    def _digits(self, extents: Sequence[int]) -> list[Scalar]:
        """The indices of the batch that a strip belongs to."""
        found, step = [], self.strips * prod(extents)
        for extent in extents:
            step //= extent
            found.append(self._digit(step, extent, self.count))
        return found

    def _digit(self, step: int, extent: int, count: int) -> Scalar:
        """``grid // step % extent`` of a grid of ``count``."""
        if extent == 1:
            return Const(0, DType.I64)
        index = self.grid
        if step > 1:
            var = self.var(DType.I64)
            self.head.append(Let(var, "floordiv", (index, Const(step, DType.I64))))
            index = var
        if step * extent < count:
            var = self.var(DType.I64)
            self.head.append(Let(var, "mod", (index, Const(extent, DType.I64))))
            index = var
        return index

    def _at_row(self, step: int) -> Affine:
        """``step`` times the first row of the strip, counted over the whole batch."""
        return Affine.of(self.grid) * (step * self.rows)

    # ---- products

    def _product(self, gemm: Gemm, member: int) -> Gemm:
        """The strip's part of a product."""
        is_last = member > 0
        batch = dict(zip(gemm.batch_index, zip(gemm.batch, self.batch, strict=True), strict=True))
        i, j, acc = self.var(DType.I64), self.var(DType.I64), self.var(gemm.acc.dtype)

        def place(value: Affine) -> Affine:
            return self._placed(value, gemm, i, batch, {gemm.j: j, **copy.own})

        copy = _Copy(self, member, place, {gemm.j: j, gemm.acc: acc})
        row = self.var(DType.I64)
        copy.own[gemm.i] = row
        for var, (_, digit) in batch.items():
            copy.scalars[var] = digit
        epilogue = copy.body(gemm.epilogue, (i, j) if not is_last else None)
        if row in copy.used:
            at = _sum(self.number, self.rows) + Affine.of(i)
            epilogue = (Index(row, at), *epilogue)
        if is_last:
            left = Factor(self.strip, (), row_stride(gemm.k), 1)
        else:
            left = self._factor(gemm.left, gemm, batch, member, gemm.left.row)
        right = self._factor(gemm.right, gemm, batch, member, 0)
        return Gemm((), (), self.rows, gemm.n, gemm.k, left, right, i, j, acc, epilogue)

    def _factor(self, factor: Factor, gemm: Gemm, batch: _Batch, member: int, along: int) -> Factor:
        """A factor of the strip's part; its rows are ``along`` apart."""
        terms = list(zip(gemm.batch_index, factor.batch_strides, strict=True))
        terms.append((gemm.i, along))
        moves = Affine(0, tuple((v, n) for v, n in terms if n))
        i = self.var(DType.I64)
        at = self._placed(moves, gemm, i, batch, {})
        at = Affine(0, tuple((v, n) for v, n in at.terms if v is not i))
        buffer = self.buffers[member, factor.buffer]
        return Factor(buffer, (), factor.row, factor.column, factor.offset, None, at)

    def _placed(
        self, value: Affine, gemm: Gemm, i: Var, batch: _Batch, own: Mapping[Var, Var]
    ) -> Affine:
        """An address of a product, at the strip's row ``i``."""
        row = value.coefficient(gemm.i)
        total = Affine(value.constant)
        if row and is_flat(value, gemm):
            total = total + self._at_row(row) + Affine.of(i) * row
        else:
            total = total + (_sum(self.number, self.rows) + Affine.of(i)) * row
            for var, (_, digit) in batch.items():
                total = total + _sum(digit, value.coefficient(var))
        for var, step in value.terms:
            if var is not gemm.i and var not in batch:
                total = total + Affine.of(own[var]) * step
        return total

    # ---- rows

    def _rows(self, grid: For) -> For:
        """The loop over the rows of the strip."""
        (serial,) = grid.body
        assert isinstance(serial, For)
        row = self.var(DType.I64)

        def place(value: Affine) -> Affine:
            step = row_step(value, grid)
            total = Affine(value.constant) + self._at_row(step) + Affine.of(row) * step
            for var, n in value.terms:
                if var not in (grid.index, serial.index):
                    total = total + Affine.of(copy.own[var]) * n
            return total

        copy = _Copy(self, 1, place, {})
        return For(row, self.rows, "serial", copy.body(serial.body, row))


_Batch = Mapping[Var, "tuple[int, Scalar]"]


def _sum(x: Scalar, factor: int) -> Affine:
    """``factor`` times an index or 0."""
    return Affine.of(x) * factor if isinstance(x, Var) else Affine()


class _Copy:
    """Copies statements of a member of the chain, with variables of their own, where the strip is.
    ``own`` maps variables, ``scalars`` indices of the batch.
    """

    def __init__(
        self,
        writer: _Writer,
        member: int,
        place: Callable[[Affine], Affine],
        own: dict[Var, Var],
    ) -> None:
        self.writer, self.member, self.place, self.own = writer, member, place, own
        self.scalars: dict[Var, Scalar] = {}
        self.used: set[Scalar] = set()

    def body(
        self, statements: Sequence[Stmt], at: tuple[Var, Var] | Var | None
    ) -> tuple[Stmt, ...]:
        """``at``: the row of the strip, and its column where that is known."""
        return tuple(made for s in statements for made in self._one(s, at))

    def _fresh(self, var: Var) -> Var:
        self.own[var] = self.writer.var(var.dtype)
        return self.own[var]

    def _scalar(self, x: Scalar) -> Scalar:
        if not isinstance(x, Var):
            return x
        found = self.scalars[x] if x in self.scalars else self.own[x]
        self.used.add(found)
        return found

    def _guard(self, guard: Var | None) -> Var | None:
        return None if guard is None else self.own[guard]

    def _one(self, s: Stmt, at: tuple[Var, Var] | Var | None) -> list[Stmt]:
        chain = self.writer.chain
        match s:
            case Let(var, verb, operands):
                given = tuple(map(self._scalar, operands))
                return [Let(self._fresh(var), verb, given)]
            case Index(var, value):
                placed = self.place(value)
                return [Index(self._fresh(var), placed)]
            case Load(var, buffer, offset, guard):
                if (self.member, buffer) in chain.on_chip:
                    place, buffer = self._on_chip(offset, at), self.writer.strip
                else:
                    place, buffer = self.place(offset), self.writer.buffers[self.member, buffer]
                return [Load(self._fresh(var), buffer, place, self._guard(guard))]
            case Store(buffer, offset, value, combine, guard):
                found: list[Stmt] = []
                x, on = self._scalar(value), self._guard(guard)
                if (self.member, buffer) in chain.on_chip:
                    found.append(Store(self.writer.strip, self._on_chip(offset, at), x))
                if (self.member, buffer) in self.writer.buffers:
                    bound = self.writer.buffers[self.member, buffer]
                    found.append(Store(bound, self.place(offset), x, combine, on))
                return found
            case For(index, extent, kind, body, folds, limit):
                end = None if limit is None else self.place(limit)
                own = self._fresh(index)
                inner = self.body(body, at)
                folded = [replace(f, value=self._scalar(f.value)) for f in folds]
                made = tuple(replace(f, result=self._fresh(f.result)) for f in folded)
                return [For(own, extent, kind, inner, made, end)]
        raise ValueError(f"a {type(s).__name__} in a chain")

    def _on_chip(self, offset: Affine, at: tuple[Var, Var] | Var | None) -> Affine:
        """Where an element of the matrix between two products lies in the strip."""
        stride = row_stride(self.writer.chain.first.n)
        if isinstance(at, tuple):
            return Affine.of(at[0]) * stride + Affine.of(at[1])
        assert at is not None
        # Rows: the terms that are no row are the column.
        column = column_of(offset, self.writer.chain)
        return Affine.of(at) * stride + Affine.of(self.own[column])


def column_of(offset: Affine, chain: Chain) -> Var:
    """The index of the column in an address of rows."""
    grid = chain.rows
    assert grid is not None
    (serial,) = grid.body
    assert isinstance(serial, For)
    (column,) = (v for v, _ in offset.terms if v not in (grid.index, serial.index))
    return column
