"""Which private memory may be registers, and to whom private memory belongs: what the verifier asks
and what lowering decides by.

Lanes of a vector loop that touch no element but their own can hold it: every access is unguarded,
not combining, at ``constant + index`` of the vector loop whose body it stands in, which has no
limit; and the rows so named are equal or disjoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from gradc.ir.loop.kernel import Buffer, For, Gemm, Load, Stmt, Store


@dataclass(frozen=True, slots=True)
class Touched:
    """A load or store, with the vector loop in whose body it stands and the grid and block loops
    around it, the outermost first.
    """

    statement: Load | Store
    loop: For | None
    parallel: tuple[For, ...]


def accesses(body: Iterable[Stmt], parallel: tuple[For, ...] = ()) -> Iterator[Touched]:
    """Every access below ``body``, in order."""
    return _accesses(body, None, parallel)


def _accesses(
    body: Iterable[Stmt], loop: For | None, parallel: tuple[For, ...]
) -> Iterator[Touched]:
    for statement in body:
        if isinstance(statement, (Load, Store)):
            yield Touched(statement, loop, parallel)
        elif isinstance(statement, For):
            around = (*parallel, statement) if statement.is_parallel else parallel
            here = statement if statement.kind == "vector" else None
            yield from _accesses(statement.body, here, around)
        elif isinstance(statement, Gemm):
            yield from _accesses(statement.epilogue, None, parallel)


def rows(found: Iterable[Touched]) -> dict[int, int] | None:
    """The rows that the accesses of one buffer name, start to length; None unless registers can
    hold them.
    """
    extents: dict[int, int] = {}
    for access in found:
        loop, statement = access.loop, access.statement
        combines = isinstance(statement, Store) and bool(statement.combine)
        if loop is None or loop.limit is not None or combines or statement.guard is not None:
            return None
        if statement.offset.terms != ((loop.index, 1),):
            return None
        if extents.setdefault(statement.offset.constant, loop.extent) != loop.extent:
            return None
    end = 0
    for start in sorted(extents):
        if start < end:
            return None
        end = start + extents[start]
    return extents


def owner(buffer: Buffer, parallel: Sequence[For]) -> For | None:
    """To whose iterations ``buffer`` belongs where these loops are open; None: to the kernel's one.

    Memory of a block belongs to the grid loop, that of a thread to the innermost.
    """
    if buffer.memory == "block":
        return next((loop for loop in parallel if loop.kind == "grid"), None)
    return parallel[-1] if parallel else None


def in_registers(
    body: tuple[Stmt, ...], buffers: Sequence[Buffer]
) -> tuple[tuple[Stmt, ...], tuple[Buffer, ...]]:
    """The kernel with all thread memory in registers that may be there."""
    touched: dict[Buffer, list[Touched]] = {}
    for access in accesses(body):
        touched.setdefault(access.statement.buffer, []).append(access)
    moved = {
        buffer: replace(buffer, memory="register")
        for buffer in buffers
        if buffer.memory == "thread" and rows(touched.get(buffer, ())) is not None
    }
    if not moved:
        return body, tuple(buffers)
    return _renamed(body, moved), tuple(moved.get(buffer, buffer) for buffer in buffers)


def _renamed(body: tuple[Stmt, ...], moved: dict[Buffer, Buffer]) -> tuple[Stmt, ...]:
    """Statements keep their identity where nothing below them changes."""
    found: list[Stmt] = []
    for statement in body:
        if isinstance(statement, (Load, Store)) and statement.buffer in moved:
            statement = replace(statement, buffer=moved[statement.buffer])
        elif isinstance(statement, For):
            inner = _renamed(statement.body, moved)
            if any(a is not b for a, b in zip(inner, statement.body, strict=True)):
                statement = replace(statement, body=inner)
        found.append(statement)
    return tuple(found)
