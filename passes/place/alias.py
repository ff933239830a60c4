"""Which buffers of a kernel may be the same memory: a read one and a written one of the same
element size.

Sharing is safe if no element is read after an iteration has written it. For each load and each
store, let C be the loops around both. Either they stand in the same body, the load first, at the
same address, and no two iterations meet; or the load's part of the body comes before the store's,
and different iterations of C touch disjoint stretches. Both are decided from the coefficients of
the addresses; anything else counts as unsafe. The factors of a matrix product are read in an order
of the backend's choosing, so they are never shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradc.ir.loop.kernel import Affine, Buffer, For, Gemm, Kernel, Load, Stmt, Store, Var


@dataclass(frozen=True, slots=True)
class _Access:
    """A load or store: loops around it (outer first), its position in each body, its address."""

    loops: tuple[Var, ...]
    path: tuple[int, ...]
    offset: Affine


@dataclass(slots=True)
class _Accesses:
    loads: dict[Buffer, list[_Access]]
    stores: dict[Buffer, list[_Access]]
    extents: dict[Var, int]
    factors: dict[Buffer, None]


def shareable(kernel: Kernel) -> frozenset[tuple[int, int]]:
    """Pairs (read, written) of positions among the bound buffers that may be the same
    memory."""
    found = _collect(kernel.body)
    named = kernel.bound
    pairs = []
    for r, read in enumerate(named):
        if read.access != "read" or read in found.factors:
            continue
        for w, written in enumerate(named):
            if written.access == "read" or written.dtype.itemsize != read.dtype.itemsize:
                continue
            if _is_safe(found.loads.get(read, ()), found.stores.get(written, ()), found.extents):
                pairs.append((r, w))
    return frozenset(pairs)


def _collect(body: Sequence[Stmt]) -> _Accesses:
    found = _Accesses({}, {}, {}, {})
    _walk(body, (), (), found)
    return found


def _walk(
    body: Sequence[Stmt], loops: tuple[Var, ...], path: tuple[int, ...], found: _Accesses
) -> None:
    for position, statement in enumerate(body):
        at = (*path, position)
        if isinstance(statement, Load):
            access = _Access(loops, at, statement.offset)
            found.loads.setdefault(statement.buffer, []).append(access)
        elif isinstance(statement, Store):
            access = _Access(loops, at, statement.offset)
            found.stores.setdefault(statement.buffer, []).append(access)
        elif isinstance(statement, For):
            found.extents[statement.index] = statement.extent
            _walk(statement.body, (*loops, statement.index), at, found)
        elif isinstance(statement, Gemm):
            found.factors.update(dict.fromkeys(statement.read))
            inner = (*statement.batch_index, statement.i, statement.j)
            extents = (*statement.batch, statement.m, statement.n)
            found.extents.update(zip(inner, extents, strict=True))
            # One position for all of its loops: the epilogue is one body.
            deep = at + (0,) * (len(inner) - 1)
            _walk(statement.epilogue, (*loops, *inner), deep, found)


def _is_safe(loads: Sequence[_Access], stores: Sequence[_Access], extents: dict[Var, int]) -> bool:
    return all(_pair_is_safe(load, store, extents) for load in loads for store in stores)


def _pair_is_safe(load: _Access, store: _Access, extents: dict[Var, int]) -> bool:
    shared = 0
    while (
        shared < min(len(load.loops), len(store.loops))
        and load.loops[shared] is store.loops[shared]
        and load.path[:shared] == store.path[:shared]
    ):
        shared += 1
    if load.path[shared] >= store.path[shared]:
        return False
    common = load.loops[:shared]
    steps = _known_steps(load.offset, load.loops), _known_steps(store.offset, store.loops)
    if steps[0] is None or steps[1] is None:
        return False
    if any(load.offset.coefficient(v) != store.offset.coefficient(v) for v in common):
        return False
    low_load, high_load = _range(load.offset, load.loops[shared:], extents)
    low_store, high_store = _range(store.offset, store.loops[shared:], extents)
    if not common:
        return True
    width = max(high_load, high_store) - min(low_load, low_store) + 1
    if len(load.loops) == len(store.loops) == shared and load.offset.constant != (
        store.offset.constant
    ):
        return False
    return _is_spread([(abs(load.offset.coefficient(v)), extents[v]) for v in common], width)


def _known_steps(offset: Affine, loops: Iterable[Var]) -> tuple[int, ...] | None:
    """The coefficients of the loops; None if the address depends on anything else."""
    known = tuple(loops)
    if any(var not in known for var, _ in offset.terms):
        return None
    return tuple(offset.coefficient(var) for var in known)


def _range(offset: Affine, loops: Iterable[Var], extents: dict[Var, int]) -> tuple[int, int]:
    low = high = offset.constant
    for var in loops:
        reach = offset.coefficient(var) * (max(extents[var], 1) - 1)
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high


def _is_spread(steps: list[tuple[int, int]], width: int) -> bool:
    """Whether stretches of ``width`` at all combinations of the steps are disjoint."""
    for step, extent in sorted(steps):
        if extent <= 1:
            continue
        if step < width:
            return False
        width += step * (extent - 1)
    return True
