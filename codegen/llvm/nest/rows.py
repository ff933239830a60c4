"""Rows that live in registers: ``register`` memory, whose every access lies at ``constant + lane``
(``ir.loop.registers``), as far as registers go.

A nest that accumulates several rows at once (the taps of a filter gradient) keeps them there. Short
rows become vector values: loads and stores disappear, and loops that store carry them. What is too
long or too much lies in the thread's scratch.

Invariant: lanes beyond a row's end hold anything; nothing reads them. Non-goals: long rows, several
widths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gradc.codegen.llvm.isa import Isa
from gradc.ir.loop.kernel import Buffer, For, Load, Stmt, Store
from gradc.ir.loop.registers import Touched, accesses
from gradc.ir.loop.registers import rows as rows_of
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
    """What is known of one buffer: its accesses, and the width of the loops that make them."""

    accesses: list[Touched]
    width: int


def find(
    body: Iterable[Stmt],
    isa: Isa,
    width_of: Callable[[For], int],
    vectorises: Callable[[For], bool],
) -> dict[VectorRow, int]:
    """The rows of a kernel to be kept in registers, each with its number of vectors."""
    found: dict[Buffer, _Found | None] = {}
    for access in accesses(body):
        buffer, loop = access.statement.buffer, access.loop
        if buffer.memory != "register":
            continue
        fits = buffer.dtype in _DTYPES and loop is not None and loop.extent >= 2
        if not fits or loop is None or not vectorises(loop):
            found[buffer] = None
            continue
        facts = found.setdefault(buffer, _Found([], width_of(loop)))
        if facts is not None and facts.width == width_of(loop):
            facts.accesses.append(access)
        else:
            found[buffer] = None
    rows: dict[VectorRow, int] = {}
    left = _MOST_REGISTERS
    for buffer, facts in found.items():
        extents = None if facts is None else rows_of(facts.accesses)
        if facts is None or extents is None:
            continue
        vectors = {start: -(-extent // facts.width) for start, extent in extents.items()}
        per_vector = max(1, facts.width * buffer.dtype.itemsize // isa.vector_bytes)
        cost = sum(vectors.values()) * per_vector
        if max(vectors.values()) <= _MOST_VECTORS and cost <= left:
            left -= cost
            rows.update((VectorRow(buffer, start), count) for start, count in vectors.items())
    return rows


def stored(body: Iterable[Stmt], rows: dict[VectorRow, int]) -> list[VectorRow]:
    """The register rows that ``body`` writes, in a fixed order."""
    written = {
        VectorRow(access.statement.buffer, access.statement.offset.constant)
        for access in accesses(body)
        if isinstance(access.statement, Store)
    }
    return [row for row in rows if row in written]


def touched(loop: For, rows: dict[VectorRow, int]) -> bool:
    """Whether the body of a vector loop uses register rows."""
    return any(
        VectorRow(statement.buffer, statement.offset.constant) in rows
        for statement in loop.body
        if isinstance(statement, (Load, Store))
    )
