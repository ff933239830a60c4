"""What a kernel touches, found by enumerating its loops: for the checker of Plans, which trusts
nobody.

Every address is computed for every iteration. Loops too long for that are cut to their first and
last iterations (``is_exact`` says so); bounds are then taken from the coefficients, which is exact
for affine addresses. An access whose address depends on data is taken to touch any element; one in
a loop whose limit depends on data may not happen, so it counts as guarded.

Time within a kernel is the order of execution. Iterations of ``parallel`` and ``vector`` loops have
no order, so two accesses in different iterations of one of them conflict whatever the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    Exchange,
    For,
    Gemm,
    Index,
    Kernel,
    Load,
    Stmt,
    Store,
    Var,
)
from gradc.ir.loop.verbs import Array
from gradc.ir.tensor.core import DType

# Iterations enumerated per access before loops are cut.
MAX_POINTS = 1 << 21
_BORDER = 3


@dataclass(frozen=True, slots=True)
class EnclosingLoop:
    """A loop around an access."""

    index: Var
    extent: int
    kind: str
    limit: Affine | None = None


@dataclass(frozen=True, slots=True)
class Touch:
    """A load or store with the loops around it and its position in each body."""

    buffer: Buffer
    is_store: bool
    is_combining: bool
    is_guarded: bool
    offset: Affine
    loops: tuple[EnclosingLoop, ...]
    path: tuple[int, ...]
    is_factor: bool = False


@dataclass(slots=True)
class Footprint:
    """All accesses of a kernel, and what they touch."""

    kernel: Kernel
    accesses: list[Touch] = field(default_factory=list)

    def of(self, buffer: Buffer) -> list[Touch]:
        return [a for a in self.accesses if a.buffer is buffer]


def footprint(kernel: Kernel) -> Footprint:
    """The accesses of ``kernel`` in order."""
    found = Footprint(kernel)
    _collect(kernel.body, (), (), {}, found)
    return found


def _collect(
    body: Sequence[Stmt],
    loops: tuple[EnclosingLoop, ...],
    path: tuple[int, ...],
    known: Mapping[Var, Affine],
    found: Footprint,
    is_conditional: bool = False,
) -> None:
    known = dict(known)
    for position, statement in enumerate(body):
        at = (*path, position)
        if isinstance(statement, Index):
            known[statement.var] = _expanded(statement.value, known)
        elif isinstance(statement, (Load, Store)):
            offset = _expanded(statement.offset, known)
            is_store = isinstance(statement, Store)
            combining = isinstance(statement, Store) and bool(statement.combine)
            guarded = is_conditional or statement.guard is not None
            found.accesses.append(
                Touch(statement.buffer, is_store, combining, guarded, offset, loops, at)
            )
        elif isinstance(statement, For):
            limit = None if statement.limit is None else _expanded(statement.limit, known)
            around = {loop.index for loop in loops}
            on_data = limit is not None and any(var not in around for var, _ in limit.terms)
            loop = EnclosingLoop(
                statement.index, statement.extent, statement.kind, None if on_data else limit
            )
            may_not = is_conditional or on_data
            _collect(statement.body, (*loops, loop), at, known, found, may_not)
        elif isinstance(statement, Gemm):
            _collect_gemm(statement, loops, at, known, found)
        elif isinstance(statement, Exchange):
            _collect_exchange(statement, at, found)


def _collect_exchange(exchange: Exchange, at: tuple[int, ...], found: Footprint) -> None:
    """It reads what goes out, then writes every element of its buffer; so does what ends it."""
    buffer = exchange.buffer
    is_part = exchange.kind.startswith("share") and not exchange.ends
    sent = buffer.size // exchange.ranks if is_part else buffer.size
    for is_store, count in ((False, sent), (True, buffer.size)):
        each = EnclosingLoop(Var("part", DType.I64), count, "vector")
        place = Affine.of(each.index)
        touch = Touch(buffer, is_store, False, False, place, (each,), (*at, int(is_store)))
        found.accesses.append(touch)


def _collect_gemm(
    gemm: Gemm,
    loops: tuple[EnclosingLoop, ...],
    at: tuple[int, ...],
    known: Mapping[Var, Affine],
    found: Footprint,
) -> None:
    batch = [
        EnclosingLoop(v, n, "vector") for v, n in zip(gemm.batch_index, gemm.batch, strict=True)
    ]
    i, j = EnclosingLoop(gemm.i, gemm.m, "vector"), EnclosingLoop(gemm.j, gemm.n, "vector")
    depth = EnclosingLoop(Var("k", gemm.i.dtype), gemm.k, "serial")
    for factor, row, column in ((gemm.left, i, depth), (gemm.right, depth, j)):
        terms = Affine(factor.offset) + _expanded(factor.at, known)
        for loop, stride in zip(batch, factor.batch_strides, strict=True):
            terms = terms + Affine.of(loop.index) * stride
        inner: tuple[EnclosingLoop, ...] = (row, column)
        strides: tuple[int, ...]
        if factor.patch is None:
            strides = (factor.row, factor.column)
        else:  # what it can reach; of that, what it reads
            parts = factor.patch.reach
            inner = tuple(EnclosingLoop(Var("part", i.index.dtype), n, "serial") for n, _ in parts)
            strides = tuple(stride for _, stride in parts)
        for loop, stride in zip(inner, strides, strict=True):
            terms = terms + Affine.of(loop.index) * stride
        around = (*loops, *batch, *inner)
        path = at + (0,) * (len(around) - len(loops))
        found.accesses.append(
            Touch(factor.buffer, False, False, False, terms, around, path, is_factor=True)
        )
    if gemm.within is not None and gemm.within.origin is not None:
        buffer, place = gemm.within.origin
        found.accesses.append(
            Touch(buffer, False, False, False, Affine(place), loops, at, is_factor=True)
        )
    deep = at + (1,) * (len(batch) + 1)
    _collect(gemm.epilogue, (*loops, *batch, i, j), deep, known, found)


def _expanded(offset: Affine, known: Mapping[Var, Affine]) -> Affine:
    """``offset`` with scalars that are addresses themselves written out."""
    total = Affine(offset.constant)
    for var, coefficient in offset.terms:
        total = total + known.get(var, Affine.of(var)) * coefficient
    return total


def is_affine(access: Touch) -> bool:
    """Whether the address depends on the loops alone."""
    known = [loop.index for loop in access.loops]
    return all(var in known for var, _ in access.offset.terms)


def interval(access: Touch) -> tuple[int, int] | None:
    """The least and the greatest address, exact but for limits; None if some loop never runs."""
    low = high = access.offset.constant
    for loop in access.loops:
        if loop.extent == 0:
            return None
        reach = access.offset.coefficient(loop.index) * (loop.extent - 1)
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high


def within_limits(access: Touch) -> bool:
    """Whether no loop around the access is cut short at run time."""
    return all(loop.limit is None for loop in access.loops)


@dataclass(frozen=True, slots=True)
class Points:
    """Enumerated executions of an access, seen from the loops it shares with another one."""

    address: Array
    group: Array  # which iteration of the shared unordered loops
    time: Array  # which iteration of the shared serial loops
    is_exact: bool


def shared_loops(a: Touch, b: Touch) -> int:
    """How many loops, from the outermost, are around both accesses."""
    count = 0
    while (
        count < min(len(a.loops), len(b.loops))
        and a.loops[count].index is b.loops[count].index
        and a.path[:count] == b.path[:count]
    ):
        count += 1
    return count


def points(access: Touch, shared: int) -> Points:
    """Every execution of an affine access (of loops cut to their borders if there are too many)."""
    total = 1
    for loop in access.loops:
        total *= loop.extent
    exact = total <= MAX_POINTS
    axes = [_iterations(loop.extent, exact) for loop in access.loops]
    grids = np.meshgrid(*axes, indexing="ij") if axes else []
    values = {loop.index: grid for loop, grid in zip(access.loops, grids, strict=True)}
    shape = grids[0].shape if grids else ()
    address = _evaluate(access.offset, values, shape)
    active = np.ones(shape, bool)
    group, time = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for depth, loop in enumerate(access.loops):
        index = values[loop.index]
        if loop.limit is not None:
            active &= index < _evaluate(loop.limit, values, shape)
        if depth < shared and loop.kind == "serial":
            time = time * loop.extent + index
        elif depth < shared:
            group = group * loop.extent + index
    return Points(address[active], group[active], time[active], exact)


def reads_before_write(load: Touch, store: Touch, size: int) -> bool:
    """Whether no element is read after it was written, were both buffers the same memory of
    ``size`` elements."""
    shared = shared_loops(load, store)
    first, then = points(load, shared), points(store, shared)
    latest, groups = _extremes(first, size, last=True)
    earliest, other = _extremes(then, size, last=False)
    both = (latest >= 0) & (earliest < _NEVER)
    if not both.any():
        return True
    if (groups[0][both] != groups[1][both]).any() or (other[0][both] != other[1][both]).any():
        return False
    if (groups[0][both] != other[0][both]).any():
        return False
    same_place_is_fine = load.path[shared] < store.path[shared]
    if same_place_is_fine:
        return bool((latest[both] <= earliest[both]).all())
    return bool((latest[both] < earliest[both]).all())


def written_before_read(load: Touch, stores: Sequence[Touch], size: int) -> bool:
    """Whether every element that ``load`` reads was stored earlier, each by one of ``stores``."""
    around = [shared_loops(load, store) for store in stores]
    if any(_written_in_each_iteration(load, *one) for one in zip(stores, around, strict=True)):
        return True
    reached: Array = np.zeros(size, bool)
    for store, shared in zip(stores, around, strict=True):
        read, written = points(load, shared), points(store, shared)
        if not (read.is_exact and written.is_exact):
            return True  # too many to say; the executor's poisoned memory covers it
        soonest, _ = _extremes(written, size, last=False)
        needed, _ = _extremes(read, size, last=False)
        wanted = needed < _NEVER
        is_before = store.path[shared] < load.path[shared]
        fine = soonest <= needed if is_before else soonest < needed
        reached |= fine
        if reached[wanted].all():
            return True
    return False


def _written_in_each_iteration(load: Touch, store: Touch, shared: int) -> bool:
    """Whether each iteration of the loops around both stores all that it then reads, which looking
    at one iteration shows if both addresses move alike from one to the next."""
    around = [loop.index for loop in load.loops[:shared]]
    if store.path[shared] >= load.path[shared] or not within_limits(_inner(store, shared)):
        return False
    if any(load.offset.coefficient(v) != store.offset.coefficient(v) for v in around):
        return False
    read, written = (points(_inner(a, shared, is_wide=True), 0) for a in (load, store))
    if not (read.is_exact and written.is_exact and written.address.size):
        return False
    least, most = int(written.address.min()), int(written.address.max())
    if read.address.size and (read.address.min() < least or read.address.max() > most):
        return False
    seen = np.zeros(most - least + 1, bool)
    seen[written.address - least] = True
    return bool(seen[read.address - least].all())


def _inner(access: Touch, shared: int, is_wide: bool = False) -> Touch:
    """``access`` in one iteration of the loops it shares, the address seen from there; ``is_wide``:
    of inner loops that are cut short at run time, all iterations."""
    around = [loop.index for loop in access.loops[:shared]]
    terms = tuple((v, n) for v, n in access.offset.terms if v not in around)
    loops = access.loops[shared:]
    if is_wide:
        loops = tuple(replace(loop, limit=None) for loop in loops)
    return replace(access, loops=loops, offset=replace(access.offset, terms=terms))


_NEVER = np.int64(1) << 62


def _extremes(found: Points, size: int, last: bool) -> tuple[Array, tuple[Array, Array]]:
    """Per element the last (or first) time it is touched, and the least and greatest group that
    touches it."""
    time = np.full(size, -1 if last else _NEVER, np.int64)
    low, high = np.full(size, _NEVER, np.int64), np.full(size, -1, np.int64)
    # A guarded access may be computed outside; it does not happen there.
    inside = (found.address >= 0) & (found.address < size)
    address, group = found.address[inside], found.group[inside]
    (np.maximum if last else np.minimum).at(time, address, found.time[inside])
    np.minimum.at(low, address, group)
    np.maximum.at(high, address, group)
    return time, (low, high)


def covers(stores: Sequence[Touch], size: int) -> bool:
    """Whether the stores of a kernel reach every element of a buffer; True where that cannot be
    enumerated."""
    if any(not is_affine(s) for s in stores):
        return True
    seen = np.zeros(size, bool)
    for store in stores:
        if store.is_guarded:
            continue
        found = points(store, 0)
        if not found.is_exact:
            return True
        seen[found.address] = True
    return bool(seen.all())


def _iterations(extent: int, exact: bool) -> Array:
    if exact or extent <= 2 * _BORDER:
        return np.arange(extent, dtype=np.int64)
    head, tail = np.arange(_BORDER), np.arange(extent - _BORDER, extent)
    return np.concatenate([head, tail]).astype(np.int64)


def _evaluate(value: Affine, known: Mapping[Var, Array], shape: tuple[int, ...]) -> Array:
    total: Array = np.full(shape, value.constant, np.int64)
    for var, coefficient in value.terms:
        total = total + known[var] * coefficient
    return total
