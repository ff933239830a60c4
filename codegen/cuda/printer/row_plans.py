"""Which loops over rows groups of sixteen threads may take (``rows``), and how many rows a block
takes at a time.

A loop is taken where no row touches what another has written, each element of a row is touched by
one thread, and every loop over columns goes four by four. What rows keep for themselves is written
before it is read, by the same thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gradc.codegen.cuda.printer.conflicts import Overlaps
from gradc.codegen.cuda.printer.maps import FOUR, defined, width_of
from gradc.codegen.cuda.verbs import MEMORY_BYTES, MEMORY_TYPES
from gradc.ir.loop.kernel import Buffer, For, Index, Let, Load, Stmt, Store, Var
from gradc.ir.loop.order import LEAF
from gradc.ir.loop.registers import accesses
from gradc.ir.tensor.core import DType

GROUP = 16  # threads of a row
STEP = GROUP * FOUR  # columns that they take at a time: the accumulators of an order
_ROWS = (16, 8, 4, 2)  # of a block; two are a warp
_WIDEST = STEP * LEAF  # columns of a leaf of a sum


@dataclass(frozen=True, slots=True, eq=False)
class RowPlan:
    """A loop over rows that groups may take: what a row keeps for itself, and the stores that add
    to sums per column.
    """

    loop: For
    kept: tuple[Buffer, ...]
    sums: tuple[Store, ...]

    @property
    def is_apart(self) -> bool:
        """Whether nothing is summed over rows."""
        return not self.sums and not self.loop.folds

    @property
    def is_shared(self) -> bool:
        """Whether a block that has rows of its own takes several at a time: where columns are all
        by themselves, its threads rather share those of one row.
        """
        folded = any(isinstance(s, For) and s.folds for s in self.loop.body)
        return folded and self.loop.extent > 1

    @property
    def slot(self) -> int:
        """Elements of one row's values of a step, of the loop that sums most."""
        most = max((_summed(s, self.sums) for s in self.loop.body), default=0)
        return most * STEP

    def shared_bytes(self, rows: int) -> int:
        """Of a block that takes so many rows at a time."""
        held = sum(b.size * MEMORY_BYTES[MEMORY_TYPES[b.dtype]] for b in self.kept)
        room = sum(-(-rows * f.result.dtype.itemsize // 16) * 16 for f in self.loop.folds)
        return rows * (held + 2 * 4 * self.slot) + room


def _summed(statement: Stmt, sums: Sequence[Store]) -> int:
    inside = statement.body if isinstance(statement, For) else ()
    return sum(s in sums for s in inside)


def rows_of(plans: Iterable[RowPlan], room: int, total: int | None, processors: int) -> int:
    """How many rows a block takes at a time: as many as shared memory of ``room`` bytes holds, and
    of ``total`` rows that are dealt to blocks (None where every block has its own) as leave a block
    for each of ``processors``; 0 if not even two.
    """
    plans = tuple(plans)
    most = max((plan.loop.extent for plan in plans), default=0) if total is None else total
    for rows in _ROWS:
        few = most < rows if total is None else -(-total // rows) < processors
        if sum(plan.shared_bytes(rows) for plan in plans) <= room and (not few or rows == 2):
            return rows
    return 0


def row_plan(
    loop: For, others: Mapping[Buffer, int], overlaps: Overlaps, aligned: frozenset[Buffer]
) -> RowPlan | None:
    """The plan of a loop over rows; None if groups may not take it. ``others`` counts the accesses
    of each buffer outside of it.
    """
    if (
        loop.kind != "serial"
        or not loop.extent
        or any(f.result.dtype is DType.BOOL for f in loop.folds)
    ):
        return None
    if any(not isinstance(s, (Let, Index, Load, Store, For)) for s in loop.body):
        return None
    columns = [s for s in loop.body if isinstance(s, For)]
    private = {
        b: None
        for b in (t.statement.buffer for t in accesses(loop.body))
        if b.memory == "register" and not others.get(b) and not b.size % FOUR
    }
    inside = aligned | private.keys()
    wide = all(_is_wide(each, overlaps, inside) for each in columns)
    if not columns or not wide or not all(_is_kept(b, columns) for b in private):
        return None
    found = _sums(loop, columns)
    if found is None or not _are_apart(loop, columns, tuple(private), found, overlaps):
        return None
    return RowPlan(loop, tuple(private), found)


def _is_wide(loop: For, overlaps: Overlaps, aligned: frozenset[Buffer]) -> bool:
    """Whether sixteen threads can take a loop over columns, four neighbours each."""
    if loop.kind != "vector" or loop.extent < STEP // 2:
        return False
    if any(f.is_tree and f.lane_order.accumulators != STEP for f in loop.folds):
        return False
    return width_of(loop, overlaps, aligned) == FOUR


def _is_kept(buffer: Buffer, columns: Sequence[For]) -> bool:
    """Whether every element of a row that is read was written before, by the same thread."""
    written: set[tuple[int, int]] = set()
    for loop in columns:
        for s in loop.body:
            if isinstance(s, (Load, Store)) and s.buffer is buffer:
                row = s.offset.constant, loop.extent
                if loop.limit is not None or (isinstance(s, Load) and row not in written):
                    return False
                written.add(row)
    return True


def _sums(loop: For, columns: Sequence[For]) -> tuple[Store, ...] | None:
    """The stores that add to sums per column; None if there are others that combine."""
    found = []
    inner = defined(loop.body)
    for statement in loop.body:
        if isinstance(statement, Store) and statement.combine:
            return None
    for each in columns:
        own = [s for s in each.body if isinstance(s, Store) and s.combine]
        trees = any(f.is_tree for f in each.folds)
        if own and (each.limit is not None or (trees and each.extent > _WIDEST)):
            return None
        for s in own:
            moving = {v for v, _ in s.offset.terms if v is not each.index}
            plain = s.guard is None and s.offset.coefficient(each.index) == 1
            types = {s.buffer.dtype, s.value.dtype}
            if not plain or moving & inner or loop.index in moving or types != {DType.F32}:
                return None
        found += own
    return tuple(found)


def _are_apart(
    loop: For,
    columns: Sequence[For],
    kept: Sequence[Buffer],
    sums: Sequence[Store],
    overlaps: Overlaps,
) -> bool:
    """Whether no row touches what another one has written, and no thread what others have."""
    touched: list[tuple[Load | Store, For | None]] = []
    for s in loop.body:
        if isinstance(s, (Load, Store)):
            touched.append((s, None))
        elif isinstance(s, For):
            touched += [(x, s) for x in s.body if isinstance(x, (Load, Store))]
    touched = [(s, within) for s, within in touched if s.buffer not in kept]
    inner = defined(loop.body)
    for store, within in touched:
        if not isinstance(store, Store):
            continue
        for other, around in touched:
            if other is store or not overlaps(store.buffer, other.buffer):
                continue
            same = store.buffer is other.buffer or overlaps.are_one(store.buffer, other.buffer)
            if store in sums or within is None or around is None or not same:
                return False
            if _form(store, within) != _form(other, around):
                return False
        if store not in sums and not _rows_differ(store, within, loop, inner):
            return False
    return True


def _form(access: Load | Store, loop: For) -> tuple[object, ...]:
    """What is the same of two accesses that touch the same element in each iteration."""
    terms = frozenset((v, n) for v, n in access.offset.terms if v is not loop.index)
    return access.offset.constant, access.offset.coefficient(loop.index), terms, loop.extent


def _rows_differ(store: Store, within: For | None, loop: For, inner: set[Var]) -> bool:
    """Whether a store of one row touches no element that it touches in another."""
    moving = {v for v, _ in store.offset.terms}
    if within is not None:
        moving.discard(within.index)
    if moving & inner:
        return False
    if loop.extent == 1:
        return True
    row = abs(store.offset.coefficient(loop.index))
    across = abs(store.offset.coefficient(within.index)) if within is not None else 0
    count = within.extent if within is not None else 1
    return row > across * (count - 1) or (row > 0 and across > row * (loop.extent - 1))


def segment_plans(
    statements: Sequence[Stmt],
    held: Callable[[Buffer], bool],
    overlaps: Overlaps,
    aligned: frozenset[Buffer],
) -> dict[For, RowPlan]:
    """The loops over rows of a text that groups may take; ``held`` says which private memory is in
    shared memory.
    """
    counts: dict[Buffer, int] = {}
    for touched in accesses(statements):
        buffer = touched.statement.buffer
        counts[buffer] = counts.get(buffer, 0) + 1
    found: dict[For, RowPlan] = {}
    for loop in _serial_loops(statements):
        own: dict[Buffer, int] = {}
        for touched in accesses(loop.body):
            buffer = touched.statement.buffer
            own[buffer] = own.get(buffer, 0) + 1
        others = {buffer: count - own.get(buffer, 0) for buffer, count in counts.items()}
        plan = row_plan(loop, others, overlaps, aligned)
        if plan is not None and all(map(held, plan.kept)):
            found[loop] = plan
    return found


def _serial_loops(statements: Sequence[Stmt]) -> list[For]:
    found = []
    for s in statements:
        if isinstance(s, For) and s.kind in ("grid", "serial"):
            found += [s] if s.kind == "serial" else []
            found += _serial_loops(s.body)
    return found
