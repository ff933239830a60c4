"""Loops that read along one index and write along the other: square tiles, turned round in
registers.

``for i: for j (vector): ... x[i + n*j] ...`` reads a new cache line for every lane. Where the order
of the iterations does not matter, tiles of ``width x width`` iterations are done together: the
strided loads are taken along i, where they are contiguous, and transposed; everything else is
emitted once per i of the tile, as before.

Invariants: for one j the order over i is kept, and for one i the order over j; stores of different
(i, j) that could meet otherwise are refused. Non-goals: guarded loads, long bodies, loops with
folds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradc.codegen.llvm.bodies import weight
from gradc.codegen.llvm.gemm.pack import transpose
from gradc.codegen.llvm.maths.scalars import STORED
from gradc.codegen.llvm.nest.loop_facts import lanes_of_body
from gradc.codegen.llvm.nest.memory import Lanes, first_lanes, i64
from gradc.codegen.llvm.text import Value, vector
from gradc.ir.loop.kernel import For, Index, Let, Load, Stmt, Store, Var
from gradc.ir.target.costs import Costs
from gradc.ir.tensor.core import DType

if TYPE_CHECKING:
    from gradc.codegen.llvm.nest.nest import Nest

_LONG = 40


@dataclass(frozen=True, slots=True)
class Transposed:
    """``outer`` runs ``before`` and then the vector loop ``inner``; ``turned`` are the loads to be
    transposed.
    """

    outer: For
    before: tuple[Stmt, ...]
    inner: For
    turned: tuple[Load, ...]


def find(loop: For, costs: Costs) -> Transposed | None:
    """What there is to turn round in a serial loop, if it is of that kind."""
    *before, inner = loop.body or (None,)
    if not isinstance(inner, For) or inner.kind != "vector" or loop.kind != "serial":
        return None
    if loop.folds or inner.folds or loop.limit is not None or inner.limit is not None:
        return None
    lanes = lanes_of_body(inner)
    if loop.extent < lanes or inner.extent < lanes or weight(inner.body, costs) > _LONG:
        return None
    pure = [s for s in before if isinstance(s, (Let, Index))]
    flat = [s for s in inner.body if not isinstance(s, For)]
    if len(pure) < len(before) or len(flat) < len(inner.body):
        return None
    own = {s.var for s in (*pure, *flat) if isinstance(s, (Let, Index, Load))}
    turned = tuple(s for s in flat if isinstance(s, Load) and _is_turned(s, loop, inner, own))
    if not turned or not _may_reorder(loop, inner, own):
        return None
    return Transposed(loop, tuple(pure), inner, turned)


def _is_turned(load: Load, loop: For, inner: For, own: set[Var]) -> bool:
    along, across = load.offset.coefficient(loop.index), load.offset.coefficient(inner.index)
    known = not any(var in own for var, _ in load.offset.terms)
    plain = load.guard is None and load.buffer.dtype is not DType.BOOL
    return along == 1 and abs(across) > 1 and known and plain


def _may_reorder(loop: For, inner: For, own: set[Var]) -> bool:
    """Whether different (i, j) never store to one place but where their order is kept, nor read
    what is stored.
    """
    stores = [s for s in inner.body if isinstance(s, Store)]
    read = {s.buffer for s in inner.body if isinstance(s, Load)}
    for store in stores:
        i, j = (abs(store.offset.coefficient(v.index)) for v in (loop, inner))
        apart = i == 0 or i >= j * inner.extent or j >= i * loop.extent
        if j == 0 or not apart or store.buffer in read:
            return False
        if any(var in own for var, _ in store.offset.terms):
            return False
    return True


def emit(nest: Nest, found: Transposed) -> None:
    """Emits the loop in tiles, then the rows and columns that are left."""
    fn, width = nest.fn, lanes_of_body(found.inner)
    rows, columns = found.outer.extent, found.inner.extent
    whole_rows, whole_columns = rows - rows % width, columns - columns % width
    with fn.loop(
        i64(0), i64(whole_columns), width, nonempty=True, metadata=nest.metadata()
    ) as column:
        lanes = Lanes(found.inner.index, column.index, width)
        with fn.loop(
            i64(0), i64(whole_rows), width, nonempty=True, metadata=nest.metadata()
        ) as row:
            _tile(nest, found, row.index, lanes)
        _rows(nest, found, whole_rows, rows, lanes)
    if whole_columns < columns:
        mask = first_lanes(width, columns - whole_columns)
        _rows(nest, found, 0, rows, Lanes(found.inner.index, i64(whole_columns), width, mask))


def _tile(nest: Nest, found: Transposed, row: Value, lanes: Lanes) -> None:
    turned: dict[Load, list[Value]] = {}
    for load in found.turned:
        nest.env.update({found.outer.index: row, found.inner.index: lanes.base})
        start = nest.memory.place(load.offset, nest.env, None).start
        del nest.env[found.inner.index]
        element = STORED[load.buffer.dtype]
        corner = nest.fn.address(nest.places[load.buffer], element, start)
        step = load.offset.coefficient(found.inner.index)
        lines = []
        for lane in range(lanes.count):
            line = nest.fn.address(corner, element, i64(lane * step))
            stored = nest.fn.load(line, vector(element, lanes.count), load.buffer.dtype.itemsize)
            lines.append(nest.scalars.widen(stored, load.buffer.dtype))
        turned[load] = transpose(nest.fn, lines)
    for n in range(lanes.count):
        nest.given = {load: vectors[n] for load, vectors in turned.items()}
        _row(nest, found, nest.fn.binary("add", row, i64(n)) if n else row, lanes)
    nest.given = {}


def _rows(nest: Nest, found: Transposed, first: int, end: int, lanes: Lanes) -> None:
    """Rows one after the other, their strided loads as they come."""
    if first == end:
        return
    with nest.fn.loop(i64(first), i64(end), 1, nonempty=True, metadata=nest.metadata()) as row:
        _row(nest, found, row.index, lanes)


def _row(nest: Nest, found: Transposed, row: Value, lanes: Lanes) -> None:
    nest.env[found.outer.index] = row
    nest.indices.enter(found.outer.index, found.outer.extent)
    nest.body(found.before)
    start = 0 if lanes.base.name.startswith("%") else int(lanes.base.name)
    step = lanes.count if lanes.base.name.startswith("%") else 0
    nest.indices.enter(found.inner.index, found.inner.extent, step, start)
    nest.vector_body(found.inner.body, lanes)
