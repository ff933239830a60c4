"""Repeats that threads run abreast: each its own rows through all trips, waiting for nobody.

A recurrent network's samples know nothing of each other: row r of what a step stores depends on
rows r of what was stored before. Where that holds of every launch in a Repeat, a thread may run all
trips of all launches on its own rows, so there is one fork and one join where there were two or
more a trip, and what a launch leaves in a core's caches is read there by the next one.

What counts as row r is read from addresses alone. All accesses of a launch are
``base + r * pitch + [low, high]``, r being the rows of a product or the iterations of the only loop
at the top of a kernel. Bytes that some launch writes, and all accesses that overlap with them, must
have one pitch, stay within it, and begin at the same row whatever the counters of Repeats are:
their strides are multiples of ``rows * pitch``. Then no byte that rows of one thread write is
touched for the rows of another. What is only read may lie anywhere.

Invariants: the kernels compute what they compute in any other cut, so no bit changes. Non-goals:
launches whose rows meet (sums over rows), which leave their Repeat as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gradc.codegen.llvm.gemm import gemm
from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.nest import nest
from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    Exchange,
    Factor,
    For,
    Gemm,
    Index,
    Kernel,
    Load,
    Stmt,
    Store,
    Var,
)
from gradc.ir.plan.plan import Argument, Launch, Plan, Repeat, Step
from gradc.ir.tensor.core import DType

# Rows of a thread from which on reading a factor from the last cache takes less than its products.
_MANY_ROWS = 8
# How much longer threads may multiply together than one of them would alone: fewer rows fill
# registers worse, and not every number of rows can be shared evenly.
_MORE_WORK = 1.5


@dataclass(frozen=True, slots=True)
class Abreast:
    """How a Repeat is shared among ``parts`` threads at most: by ``rows``, of which ``each`` stay
    together.
    """

    rows: int
    each: int
    parts: int


@dataclass(frozen=True, slots=True)
class _Access:
    """Bytes that row r of a launch touches: from ``base + r * pitch + low`` on, before
    ``... + high``. ``steps`` are how far the trips of each Repeat move them.
    """

    place: int  # a port, or the arena
    base: int
    pitch: int | None  # None if the address depends on data
    low: int
    high: int
    steps: tuple[int, ...]
    ends: tuple[int, int]  # of all bytes that any row and any trip touches
    is_store: bool


@dataclass(frozen=True, slots=True)
class _Touch:
    """The same within a kernel, in elements of a bound buffer."""

    position: int
    pitch: int | None
    low: int
    high: int
    is_store: bool


def rowwise(kernel: Kernel, rows: int) -> Kernel:
    """``kernel`` so that the iterations of a grid loop are its ``rows``, which are known to be
    apart.
    """
    only = kernel.body[0] if len(kernel.body) == 1 else None
    if not isinstance(only, For) or only.kind == "grid":
        return kernel
    if only.kind == "vector":
        only = _in_rows(only, rows)
    return replace(kernel, body=(replace(only, kind="grid"),))


def _in_rows(loop: For, rows: int) -> For:
    """A loop over all elements of ``rows`` rows as one over rows and one over their elements."""
    row, near = Var("row", DType.I64), Var("near", DType.I64)
    count = loop.extent // rows
    where = Index(loop.index, Affine(0, ((row, count), (near, 1))))
    inner = replace(loop, index=near, extent=count, body=(where, *loop.body))
    return For(row, rows, "serial", (inner,))


def shareable_rows(kernel: Kernel, isa: Isa) -> int:
    """How many rows ``kernel`` has if it is a product over panels, made for a Repeat, whose rows
    can be shared; 0 if not.
    """
    products = gemm.products(kernel)
    if not any(map(gemm.is_over_panels, products)):
        return 0
    are_all = all(gemm.rows_together(product, product.m, isa) for product in products)
    return products[0].m if are_all else 0


def shared(
    plan: Plan, isa: Isa, microseconds: Sequence[float], place: Callable[[int], tuple[int, int]]
) -> Mapping[int, Abreast]:
    """The Repeats of ``plan`` (by ``id``) that are run abreast, none inside another.
    ``microseconds`` is what a launch of each kernel takes, ``place`` says where a tensor lies.
    """
    found: dict[int, Abreast] = {}
    if plan.threads > 1 and plan.depth:
        finder = _Finder(plan, isa, microseconds, place)
        for step in plan.steps:
            finder.find(step, (), found)
    return found


class _Finder:
    def __init__(
        self,
        plan: Plan,
        isa: Isa,
        microseconds: Sequence[float],
        place: Callable[[int], tuple[int, int]],
    ) -> None:
        self.plan, self.isa = plan, isa
        self.microseconds, self.place = microseconds, place
        self._kernels: dict[tuple[int, int], _Rows | None] = {}

    def find(self, step: Step, trips: tuple[int, ...], found: dict[int, Abreast]) -> None:
        """Adds ``step``, or what Repeats in it are run abreast."""
        if not isinstance(step, Repeat):
            return
        made = self._abreast(step, trips)
        if made is not None:
            found[id(step)] = made
            return
        for inner in step.body:
            self.find(inner, (*trips, step.trips), found)

    def _rows(self, number: int, count: int) -> _Rows | None:
        if (number, count) not in self._kernels:
            made = _rows_of(self.plan.kernels[number], count)
            self._kernels[number, count] = made
        return self._kernels[number, count]

    def _abreast(self, step: Repeat, outer: tuple[int, ...]) -> Abreast | None:
        if any(True for _ in step.cells()):
            return None
        launches = [(launch, (*outer, *trips)) for launch, trips in step.walk()]
        count = _count(self.plan.kernels[launch.kernel] for launch, _ in launches)
        kernels = [self._rows(launch.kernel, count) for launch, _ in launches] if count > 1 else []
        known = [rows for rows in kernels if rows is not None]
        if not known or len(known) < len(kernels):
            return None
        parts = self._most_parts(launches, len(outer))
        here = self._shares(known, count, parts) if parts > 1 else None
        if here is None:
            return None
        accesses = list(self._accesses(launches, known, count))
        if not self._scratch_is_apart(launches, accesses) or not _are_apart(accesses, count):
            return None
        return here

    def _most_parts(self, launches: Sequence[tuple[Launch, tuple[int, ...]]], depth: int) -> int:
        """Among how many threads a Repeat may be shared by its work and its scratch."""
        work = sum(
            self.microseconds[launch.kernel] * math.prod(trips[depth:])
            for launch, trips in launches
        )
        parts = min(self.plan.threads, self.isa.costs.worthwhile_parts(work))
        for launch, _ in launches:
            need = nest.scratch_bytes(self.plan.kernels[launch.kernel], self.isa)
            if need and launch.scratch is not None:
                parts = min(parts, self.plan.tensors[launch.scratch].nbytes // need)
        return parts

    def _shares(self, kernels: Sequence[_Rows], count: int, parts: int) -> Abreast | None:
        """How so many threads share ``count`` rows; None if that is worth nothing."""
        products = [product for rows in kernels for product in rows.products]
        isa, most = self.isa, max(products, key=_work)
        rows = -(-count // parts)
        together = gemm.rows_together(most, rows, isa)
        if not together:
            return None
        each = -(-rows // together) * together
        parts = -(-count // each)
        alone = sum(gemm.row_cost(product, count, isa) for product in products)
        shared = sum(gemm.row_cost(product, each, isa) for product in products) * parts
        for product in products:
            need = gemm.row_scratch_bytes(product, each, isa)
            if need is None or need > gemm.scratch_bytes(product, isa):
                return None
        # Whether every thread can read all factors as fast as it multiplies.
        rights = {product.right.buffer for product in products}
        nbytes = sum(buffer.size * buffer.dtype.itemsize for buffer in rights)
        is_fed = each >= _MANY_ROWS or nbytes <= isa.caches[1]
        is_worth_it = parts > 1 and is_fed and shared <= _MORE_WORK * alone
        return Abreast(count, each, parts) if is_worth_it else None

    def _accesses(
        self,
        launches: Sequence[tuple[Launch, tuple[int, ...]]],
        kernels: Sequence[_Rows],
        count: int,
    ) -> Iterator[_Access]:
        """What all launches touch."""
        for (launch, trips), rows in zip(launches, kernels, strict=True):
            for touch in rows.touches:
                yield self._access(launch.arguments[touch.position], trips, touch, count)

    def _access(
        self, argument: Argument, trips: tuple[int, ...], touch: _Touch, count: int
    ) -> _Access:
        tensor = self.plan.tensors[argument.tensor]
        size = tensor.dtype.itemsize
        place, start = self.place(argument.tensor)
        levels = [n for n, trip in enumerate(trips) if trip > 1]
        steps = (*argument.strides, *argument.parity)
        ways = len(argument.strides)
        moves = [n for level in levels for n in (level, ways + level) if n < len(steps)]
        base = start + argument.offset * size
        if touch.pitch is None:
            whole = start, start + tensor.nbytes
            return _Access(place, base, None, 0, 0, (), whole, touch.is_store)
        low, high = argument.reach(trips)
        across = touch.pitch * (count - 1)
        ends = (
            start + (low + touch.low + min(0, across)) * size,
            start + (high + touch.high + max(0, across) + 1) * size,
        )
        bounds = touch.low * size, (touch.high + 1) * size
        by = tuple(steps[n] * size for n in moves)
        return _Access(place, base, touch.pitch * size, *bounds, by, ends, touch.is_store)

    def _scratch_is_apart(
        self,
        launches: Sequence[tuple[Launch, tuple[int, ...]]],
        accesses: Sequence[_Access],
    ) -> bool:
        """Whether what threads pack lies where no other thread does anything."""
        arena = len(self.plan.ports)
        seen: list[tuple[int, int, int]] = []
        for launch, _ in launches:
            if launch.scratch is None:
                continue
            _, low = self.place(launch.scratch)
            high = low + self.plan.tensors[launch.scratch].nbytes
            each = nest.scratch_bytes(self.plan.kernels[launch.kernel], self.isa)
            if any(a.place == arena and a.ends[0] < high and low < a.ends[1] for a in accesses):
                return False
            if any(a < high and low < b and (a, n) != (low, each) for a, b, n in seen):
                return False
            seen.append((low, high, each))
        return True


def _are_apart(accesses: Sequence[_Access], count: int) -> bool:
    """Whether no two rows meet in bytes that are written."""
    places = {access.place for access in accesses}
    for place in places:
        here = sorted((a for a in accesses if a.place == place), key=lambda a: a.ends)
        together: list[_Access] = []
        end = 0
        for access in here:
            if together and access.ends[0] >= end:
                if not _is_apart(together, count):
                    return False
                together = []
            end = max(end, access.ends[1]) if together else access.ends[1]
            together.append(access)
        if not _is_apart(together, count):
            return False
    return True


def _is_apart(accesses: Sequence[_Access], count: int) -> bool:
    """Whether no two rows meet in the bytes of these accesses, or none writes them."""
    if not any(access.is_store for access in accesses):
        return True
    pitch = accesses[0].pitch
    if pitch is None or pitch <= 0 or any(a.pitch != pitch for a in accesses):
        return False
    turn = pitch * count
    if any(step % turn for access in accesses for step in access.steps):
        return False
    origin = accesses[0].base + accesses[0].low
    starts = [(a.base + a.low - origin + turn // 2) % turn - turn // 2 for a in accesses]
    first = min(starts)
    ends = (start - first + a.high - a.low for start, a in zip(starts, accesses, strict=True))
    return all(end <= pitch for end in ends)


# ---- kernels ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rows:
    """A kernel by its rows: the products that it consists of, if it does, and what row r
    touches.
    """

    products: tuple[Gemm, ...]
    touches: tuple[_Touch, ...]


def _count(kernels: Iterable[Kernel]) -> int:
    """How many rows the products among ``kernels`` have; 0 if there are none, or not as many."""
    found = {product.m for kernel in kernels for product in gemm.products(kernel)}
    return found.pop() if len(found) == 1 else 0


def _rows_of(kernel: Kernel, count: int) -> _Rows | None:
    """``kernel`` by its ``count`` rows; None if it has no such."""
    reader = _Reader(kernel)
    products = gemm.products(kernel)
    if products:
        is_read = all(reader.product(product) for product in products)
        return _Rows(products, tuple(reader.touches)) if is_read else None
    only = kernel.body[0] if len(kernel.body) == 1 else None
    if not isinstance(only, For) or only.folds or only.limit is not None:
        return None
    if only.kind == "vector" and only.extent % count == 0:
        only = _in_rows(only, count)
    is_own = only.kind == "grid" or not kernel.private
    if only.extent != count or only.kind == "vector" or not is_own:
        return None
    is_read = reader.statements(only.body, only.index, {}, {})
    return _Rows((), tuple(reader.touches)) if is_read else None


def _work(product: Gemm) -> int:
    """Multiply-adds of a row."""
    return math.prod(product.batch) * product.n * product.k


class _Reader:
    """Collects what a row of a kernel touches."""

    def __init__(self, kernel: Kernel) -> None:
        self._positions = {buffer: n for n, buffer in enumerate(kernel.bound)}
        self.touches: list[_Touch] = []

    def product(self, product: Gemm) -> bool:
        """Adds what row i of a product touches; False if its factors are windows."""
        if product.left.patch is not None or product.right.patch is not None:
            return False
        extents = dict(zip(product.batch_index, product.batch, strict=True))
        step = Var("k", product.i.dtype)
        self._factor(product, product.left, (product.i, step), extents | {step: product.k})
        across = extents | {product.j: product.n}
        self._factor(product, product.right, (step, product.j), across | {step: product.k})
        if product.within is not None and product.within.origin is not None:
            buffer, place = product.within.origin
            self._add(buffer, Affine(place), product.i, {}, is_store=False)
        return self.statements(product.epilogue, product.i, across, {})

    def _factor(
        self, product: Gemm, factor: Factor, index: tuple[Var, Var], extents: Mapping[Var, int]
    ) -> None:
        terms = [(v, n) for v, n in zip(product.batch_index, factor.batch_strides, strict=True)]
        terms += [(index[0], factor.row), (index[1], factor.column)]
        offset = Affine(factor.offset, tuple((v, n) for v, n in terms if n))
        self._add(factor.buffer, offset, product.i, extents, is_store=False)

    def statements(
        self,
        body: Sequence[Stmt],
        row: Var,
        extents: Mapping[Var, int],
        numbers: Mapping[Var, Affine],
    ) -> bool:
        """Adds what ``body`` touches; False if it holds what has no rows."""
        known = dict(numbers)
        for statement in body:
            if isinstance(statement, Index):
                known[statement.var] = _expanded(statement.value, known)
            elif isinstance(statement, (Load, Store)):
                offset = _expanded(statement.offset, known)
                is_store = isinstance(statement, Store)
                self._add(statement.buffer, offset, row, extents, is_store)
            elif isinstance(statement, For):
                inner = {**extents, statement.index: statement.extent}
                if not self.statements(statement.body, row, inner, known):
                    return False
            elif isinstance(statement, (Gemm, Exchange)):
                return False
        return True

    def _add(
        self, buffer: Buffer, offset: Affine, row: Var, extents: Mapping[Var, int], is_store: bool
    ) -> None:
        position = self._positions.get(buffer)
        if position is None:
            return
        low = high = offset.constant
        pitch: int | None = 0
        for var, factor in offset.terms:
            if var is row:
                pitch = factor
            elif var in extents:
                reach = factor * max(0, extents[var] - 1)
                low, high = low + min(0, reach), high + max(0, reach)
            else:
                self.touches.append(_Touch(position, None, 0, 0, is_store))
                return
        self.touches.append(_Touch(position, pitch, low, high, is_store))


def _expanded(offset: Affine, known: Mapping[Var, Affine]) -> Affine:
    """``offset`` with numbers that are addresses themselves written out."""
    total = Affine(offset.constant)
    for var, factor in offset.terms:
        total = total + known.get(var, Affine.of(var)) * factor
    return total
