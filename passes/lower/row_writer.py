"""The main kernel of a group of rows, written as its schedule says. From a block to loop IR.

Non-goals: deciding anything (``row_schedule.py``); finishing tails (``row_tails.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gradc.ir.loop.builder import Combine, IndexAlgebra, OpenLoop
from gradc.ir.loop.kernel import Affine, Buffer, LoopKind, Scalar, row_major_offset
from gradc.ir.ops.registry import Reduction, lookup
from gradc.ir.tensor.core import Block, DType, Op, Value
from gradc.passes.lower.cost import size_of
from gradc.passes.lower.element import (
    ElementAt,
    Indices,
    LoweringError,
    adjacent_groups,
    identity,
)
from gradc.passes.lower.joins import joined_results, part_starts
from gradc.passes.lower.piece import Draft
from gradc.passes.lower.row_schedule import Room, RowSchedule, Stage, main_outputs
from gradc.passes.lower.space import ReductionKind, is_row_shape, leaf_rows

# Emits the work at one row and column; returns the elements to be folded over the columns.
Body: TypeAlias = Callable[[list[Affine]], dict[Value, Scalar]]
# Folded values, by the reduction.
Folded: TypeAlias = dict[Value, Scalar]


@dataclass(frozen=True, slots=True)
class _Row:
    """A row in memory: column j lies at ``base + j``."""

    buffer: Buffer
    base: Affine


# Where the sums per column are taken now: in a leaf, or in what the chunk makes.
_Sums: TypeAlias = Mapping[Value, _Row]


@dataclass(frozen=True, slots=True)
class _Here:
    """The row at hand, of a chunk: its index, the columns from ``first`` on, ``size`` of them."""

    chunk: Affine
    row: list[Affine]
    first: Affine
    size: int
    sums: _Sums


def combine_of(op: Op) -> Combine:
    """How a reduction combines its terms."""
    form = lookup(op.name).loop
    match form.combine if isinstance(form, Reduction) else "":
        case "add" | "max" | "min" | "mul" as combine:
            return combine
    raise LoweringError(f"`{op.name}` combines in no known way")


def store_element(
    draft: Draft, buffer: Buffer, value: Value, join: Op | None, index: Indices
) -> None:
    """Stores what ``value`` has at an index; where ``join`` makes it of parts, what each part has
    there.
    """
    shape = value.type.static_shape
    if join is None:
        draft.builder.store(buffer, row_major_offset(index, shape), draft.elements.at(value, index))
        return
    for part, start in part_starts(join):
        at = [place + first for place, first in zip(index, start, strict=True)]
        draft.builder.store(buffer, row_major_offset(at, shape), draft.elements.at(part, index))


class RowWriter:
    """Writes the main kernel of ``block`` into a draft. ``buffers`` hold the tails' partial results
    and the results stored so far.
    """

    def __init__(self, block: Block, schedule: RowSchedule) -> None:
        self.block, self.schedule, self.place = block, schedule, schedule.place
        self.draft = Draft(block)
        self.builder, self.elements = self.draft.builder, self.draft.elements
        self.outputs = main_outputs(block, schedule.place)
        self.joined = joined_results(block, schedule.place.space.shape)
        self.buffers: dict[Value, Buffer] = {
            value: self.draft.temp(number, schedule.temps[number], "write")
            for value, number in schedule.partial.items()
        }

    def write(self) -> Folded:
        """Writes it; gives what was folded over everything, where one chunk is everything."""
        if self.schedule.chunks == 1:
            return self._chunk(Affine())
        kind: LoopKind = "grid" if self.schedule.is_parallel else "serial"
        with self.builder.loop(self.schedule.chunks, kind) as chunk:
            self._chunk(chunk.at)
        return {}

    def forget(self) -> None:
        """What was bound for a row is not known after it."""
        for value in (*self.place.of_kind(ReductionKind.ROW), *self.schedule.rooms):
            self.elements.unbind(value)

    def _op(self, value: Value) -> Op:
        return self.elements.makers[value]

    def _combine_of(self, value: Value) -> Combine:
        return combine_of(self._op(value))

    # ---- chunks and rows

    def _chunk(self, chunk: Affine) -> Folded:
        schedule, space = self.schedule, self.place.space
        sums: dict[Value, _Row] = {}
        for value in self.place.of_kind(ReductionKind.COLUMN_TAIL):
            sums[value] = _Row(self.buffers[value], chunk * space.columns)
            self._clear(value, sums[value])
        if schedule.is_flat:
            row = self._unflat_rows(Affine())
            here = _Here(chunk, row, chunk * schedule.size, schedule.size, sums)
            folded = self._row(here, None)
        elif space.rows == 1:
            row = self._unflat_rows(Affine())
            folded = self._row(_Here(chunk, row, Affine(), space.columns, sums), None)
        else:
            folded = self._rows(chunk, sums)
        if schedule.chunks > 1:
            for value, scalar in folded.items():
                self.builder.store(self.buffers[value], chunk, scalar)
        return folded

    def _rows(self, chunk: Affine, sums: _Sums) -> Folded:
        """The rows of a chunk. Sums per column are taken leaf by leaf, others are trees by
        themselves.
        """
        schedule, space = self.schedule, self.place.space
        leaf, count = leaf_rows(space), min(schedule.size, space.rows)
        first = chunk * schedule.size
        if not schedule.leaves:
            return self._leaf(chunk, first, count, sums, schedule.is_ragged)
        leaves = -(-count // leaf)
        own = {
            value: self._room(room, chunk)
            for value, room in zip(sums, schedule.leaves, strict=True)
        }
        cut = chunk * -leaves + -(-space.rows // leaf) if schedule.is_ragged else None
        with self.builder.loop(leaves, "serial", cut) as loop:
            for value, row in own.items():
                self._clear(value, row)
            start = first + loop.at * leaf
            folded = self._leaf(chunk, start, leaf, own, space.rows % leaf != 0)
            self._add_leaf(own, sums)
            return self._folded(folded, loop)

    def _leaf(
        self, chunk: Affine, first: Affine, count: int, sums: _Sums, is_ragged: bool
    ) -> Folded:
        """``count`` rows from ``first`` on, or as many as there are."""
        space = self.place.space
        cut = first * -1 + space.rows if is_ragged else None
        with self.builder.loop(count, "serial", cut) as row:
            at = self._unflat_rows(first + row.at)
            return self._row(_Here(chunk, at, Affine(), space.columns, sums), row)

    def _folded(self, folded: Mapping[Value, Scalar], loop: OpenLoop) -> Folded:
        """Values folded over one more loop."""
        return {v: loop.fold(self._combine_of(v), scalar) for v, scalar in folded.items()}

    def _add_leaf(self, own: _Sums, sums: _Sums) -> None:
        with self.builder.loop(self.place.space.columns, "vector") as column:
            for value, to in sums.items():
                leaf = own[value]
                total = self.builder.load(leaf.buffer, leaf.base + column.at)
                combine = self._combine_of(value)
                self.builder.store(to.buffer, to.base + column.at, total, combine)

    def _unflat_rows(self, row: Affine) -> list[Affine]:
        return self.builder.unflatten(row, self.place.space.rows_shape)

    def _clear(self, value: Value, row: _Row) -> None:
        neutral = identity(self._combine_of(value), value.type.dtype.accumulator)
        with self.builder.loop(self.place.space.columns, "vector") as column:
            self.builder.store(row.buffer, row.base + column.at, neutral)

    def _room(self, room: Room, chunk: Affine) -> _Row:
        width = self.place.space.columns
        if room.temp is None:
            dtype: DType = room.dtype
            return _Row(self.builder.buffer(room.name, dtype, width, "update", "thread"), Affine())
        temp = self.schedule.temps[room.temp]
        return _Row(self.draft.temp(room.temp, temp, "write"), chunk * width)

    # ---- one row

    def _row(self, here: _Here, loop: OpenLoop | None) -> Folded:
        """One row (or, if flat, one chunk of the columns): its stages, then what is kept per
        row.
        """
        totals: Folded = {}
        for level, stage in enumerate(self.schedule.stages):
            self._store_rows(level, here.row)
            totals.update(self._stage(stage, here))
        self._store_rows(len(self.schedule.stages), here.row)
        for value in self.place.of_kind(ReductionKind.ROW_TAIL):
            # Kept per row and summed afterwards, in the order of a sum by itself.
            element = self.elements.fold_input(self._op(value), here.row)
            offset = row_major_offset(here.row, self.place.space.rows_shape)
            self.builder.store(self.buffers[value], offset, element)
        return totals if loop is None else self._folded(totals, loop)

    def _store_rows(self, level: int, row: list[Affine]) -> None:
        """The results of one level that have one element per row."""
        space = self.place.space
        for value in self.outputs:
            shape = value.type.static_shape
            is_full = shape == space.shape or value in self.joined
            if is_full or self.place.levels[value] != level:
                continue
            if not is_row_shape(shape, space):
                raise LoweringError(f"{value.type} is no value of a group over {space.shape}")
            wide = iter([x for x, extent in zip(row, space.rows_shape, strict=True) if extent != 1])
            index = [Affine() if extent == 1 else next(wide) for extent in shape]
            element = self.elements.at(value, index)
            self.builder.store(self._result(value), row_major_offset(index, shape), element)

    def _result(self, value: Value) -> Buffer:
        if value not in self.buffers:
            self.buffers[value] = self.draft.result(self.block.outputs.index(value))
        return self.buffers[value]

    def _stage(self, stage: Stage, here: _Here) -> Folded:
        """The loop over the columns in which everything of a level is done; gives the totals over
        this row of what is summed over everything.
        """
        if stage.is_empty:
            return {}
        rows: dict[Value, _Row] = {}

        def body(at: list[Affine]) -> dict[Value, Scalar]:
            column = row_major_offset(at, self.place.space.columns_shape)
            index = self._index(here.row, at)
            elements = {v: self.elements.fold_input(self._op(v), index) for v in stage.folds}
            for value in stage.kept:
                rows[value] = row = self._room(self.schedule.rooms[value], here.chunk)
                self.builder.store(row.buffer, row.base + column, self.elements.at(value, index))
            for value in stage.columns:
                self._add_to_column(value, here.sums[value], column, index)
            for value in stage.stores:
                self._store_full(value, index)
            return elements

        groups = adjacent_groups(self.place.space.column_axes)
        results = self._columns(groups, [], here, body)
        totals: Folded = {}
        for value in stage.folds:
            if self.place.kinds[value] is ReductionKind.FULL_TAIL:
                totals[value] = results[value]
                continue
            algebra = IndexAlgebra(self.builder, value.type.dtype)
            total = algebra.cast(results[value], value.type.dtype)
            self.elements.bind_scalar(value, here.row, total)
        for value, row in rows.items():
            self.elements.bind_place(value, self._recall(row, here.row))
        return totals

    def _columns(
        self,
        groups: Sequence[Sequence[int]],
        outer: list[Affine],
        here: _Here,
        body: Body,
    ) -> dict[Value, Scalar]:
        """``body`` in loops over the columns, one per run of axes, the last a vector loop; returns
        what the body returns, folded. Of a flat space only the columns of the chunk.
        """
        if not groups:
            return body(outer)
        schedule, space = self.schedule, self.place.space
        shape = [space.shape[axis] for axis in groups[0]]
        extent = here.size if schedule.is_flat else size_of(tuple(shape))
        if extent == 1 and not schedule.is_flat:
            return self._columns(groups[1:], outer + [Affine()] * len(shape), here, body)
        is_cut = schedule.is_flat and schedule.is_ragged
        cut = here.first * -1 + space.columns if is_cut else None
        kind: LoopKind = "vector" if len(groups) == 1 else "serial"
        with self.builder.loop(extent, kind, cut) as loop:
            inner = outer + self.builder.unflatten(here.first + loop.at, shape)
            return self._folded(self._columns(groups[1:], inner, here, body), loop)

    def _index(self, row: Sequence[Affine], column: Sequence[Affine]) -> list[Affine]:
        """The index in the space of a row and a column."""
        space = self.place.space
        at = dict(zip(space.row_axes, row, strict=True))
        at.update(zip(space.column_axes, column, strict=True))
        return [at[axis] for axis in range(len(space.shape))]

    def _store_full(self, value: Value, index: Indices) -> None:
        store_element(self.draft, self._result(value), value, self.joined.get(value), index)

    def _add_to_column(self, value: Value, row: _Row, column: Affine, at: Indices) -> None:
        element = self.elements.fold_input(self._op(value), at)
        self.builder.store(row.buffer, row.base + column, element, self._combine_of(value))

    def _recall(self, kept: _Row, row: Indices) -> ElementAt:
        """Reads a kept row, as long as that row is asked for."""
        expected = self.builder.index_key(row)
        space = self.place.space

        def read(index: Indices) -> Scalar | None:
            if self.builder.index_key([index[axis] for axis in space.row_axes]) != expected:
                return None
            column = [index[axis] for axis in space.column_axes]
            offset = row_major_offset(column, space.columns_shape)
            return self.builder.load(kept.buffer, kept.base + offset)

        return read
