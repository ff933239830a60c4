"""Scratch rows that live in registers: short scratch buffers whose every access lies at ``constant
+ lane``.

A nest that accumulates several rows at once (the taps of a filter gradient) keeps them in scratch.
Where each access is ``scratch[constant + index]`` in a short vector loop, unguarded, and the rows
so named are equal or disjoint, the rows become vector values: loads and stores disappear, and loops
that store carry them.

Invariant: lanes beyond a row's end hold anything; nothing reads them. Non-goals: long rows, several
widths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from gradc.codegen.llvm.isa import Isa
from gradc.ir.loop.kernel import Buffer, For, Gemm, Load, Stmt, Store
from gradc.ir.tensor.core import DType

_MOST_VECTORS = 4  # per row: its loops are written out
_MOST_REGISTERS = 56  # more than there are: what spills is still whole vectors at fixed places
_DTYPES = (DType.F32, DType.F64, DType.I32)


@dataclass(frozen=True, slots=True)
class VectorRow:
    """The elements of ``buffer`` from ``start`` on that one vector loop walks."""

    buffer: Buffer
    start: int


@dataclass(slots=True)
class _Found:
    """What is known of one buffer: its rows with their lengths, and the width of the loops that
    touch them.
    """

    extents: dict[int, int]
    width: int


def find(
    body: Iterable[Stmt],
    isa: Isa,
    width_of: Callable[[For], int],
    vectorises: Callable[[For], bool],
) -> dict[VectorRow, int]:
    """The rows of a kernel to be kept in registers, each with its number of vectors."""
    found: dict[Buffer, _Found | None] = {}
    for access, loop in _accesses(body, None):
        buffer = access.buffer
        if buffer.access != "scratch":
            continue
        plain = _is_plain(access, loop)
        if not plain or loop is None or not vectorises(loop):
            found[buffer] = None
            continue
        _note(found, buffer, access.offset.constant, loop.extent, width_of(loop))
    rows: dict[VectorRow, int] = {}
    left = _MOST_REGISTERS
    for buffer, facts in found.items():
        if facts is None or not _are_disjoint(facts.extents):
            continue
        vectors = {start: -(-extent // facts.width) for start, extent in facts.extents.items()}
        per_vector = max(1, facts.width * buffer.dtype.itemsize // isa.vector_bytes)
        cost = sum(vectors.values()) * per_vector
        if max(vectors.values()) <= _MOST_VECTORS and cost <= left:
            left -= cost
            rows.update((VectorRow(buffer, start), count) for start, count in vectors.items())
    return rows


def _accesses(body: Iterable[Stmt], loop: For | None) -> Iterator[tuple[Load | Store, For | None]]:
    """Every access with the vector loop whose body it stands in (None if it stands elsewhere)."""
    for statement in body:
        if isinstance(statement, (Load, Store)):
            yield statement, loop
        elif isinstance(statement, For):
            yield from _accesses(statement.body, statement if statement.kind == "vector" else None)
        elif isinstance(statement, Gemm):
            yield from _accesses(statement.epilogue, None)


def _is_plain(access: Load | Store, loop: For | None) -> bool:
    if loop is None or loop.limit is not None or loop.extent < 2:
        return False
    combines = isinstance(access, Store) and bool(access.combine)
    direct = access.offset.terms == ((loop.index, 1),)
    return direct and access.guard is None and not combines and access.buffer.dtype in _DTYPES


def _note(
    found: dict[Buffer, _Found | None], buffer: Buffer, start: int, extent: int, width: int
) -> None:
    facts = found.setdefault(buffer, _Found({}, width))
    if facts is None:
        return
    if facts.width != width or facts.extents.setdefault(start, extent) != extent:
        found[buffer] = None


def _are_disjoint(extents: dict[int, int]) -> bool:
    ends = 0
    for start in sorted(extents):
        if start < ends:
            return False
        ends = start + extents[start]
    return True


def stored(body: Iterable[Stmt], rows: dict[VectorRow, int]) -> list[VectorRow]:
    """The register rows that ``body`` writes, in a fixed order."""
    written = {
        VectorRow(access.buffer, access.offset.constant)
        for access, _ in _accesses(body, None)
        if isinstance(access, Store)
    }
    return [row for row in rows if row in written]


def touched(loop: For, rows: dict[VectorRow, int]) -> bool:
    """Whether the body of a vector loop uses register rows."""
    return any(
        VectorRow(statement.buffer, statement.offset.constant) in rows
        for statement in loop.body
        if isinstance(statement, (Load, Store))
    )
