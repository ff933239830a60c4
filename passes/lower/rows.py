"""Groups of elementwise ops, views and reductions as row kernels. From a block to loop IR.

The main kernel walks chunks of rows (in parallel where it pays), the rows of a chunk, and in each
row the stages: one loop over the columns per level of row reductions, in which everything that is
known by then is computed, folded or stored. What later stages take from a stage is kept in a
scratch row if it is costly, else recomputed. A chunk is a leaf of the sums over the rows or a
node of leaves. Tails are summed per chunk and finished in a small second kernel (or at
once, where no threads share the work): a sum over the chunks, which are leaves or nodes of one
tree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeAlias

from gradc.ir.loop.builder import Combine, IndexAlgebra, OpenLoop
from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    For,
    Index,
    Let,
    Load,
    Scalar,
    Store,
    Var,
    row_major_offset,
)
from gradc.ir.loop.order import LEAF
from gradc.ir.ops.registry import Reduction, lookup
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import Block, DType, Op, Value
from gradc.passes.lower.cost import elementwise_us, flops, size_of
from gradc.passes.lower.element import (
    ElementAt,
    Indices,
    LoweringError,
    adjacent_groups,
    folds_along_memory,
    identity,
)
from gradc.passes.lower.keep import kept_values
from gradc.passes.lower.piece import (
    Draft,
    Lowered,
    Piece,
    Temp,
    block_spans,
    statements,
)
from gradc.passes.lower.space import (
    CHUNKED_ELEMENTS,
    FLAT_PIECE,
    Layout,
    ReductionKind,
    Space,
    chunk_rows,
    group_space,
    is_reduction,
    is_row_shape,
    last_axes,
    layout,
    leaf_rows,
)

# Emits the work at one row and column; returns the elements to be folded over the columns.
Body: TypeAlias = Callable[[list[Affine]], dict[Value, Scalar]]

# Rows of elementwise groups are made at least this long by merging axes.
_SHORT_ROW = 8


def lower_rows(block: Block, name: str, target: Target, space: Space | None = None) -> Lowered:
    """Lowers a group, in ``space`` if given. Raises LoweringError if its values do not fit it."""
    space = space or group_space(block) or elementwise_space(block)
    return _RowKernel(block, name, layout(block, space), target).lower()


def elementwise_space(block: Block) -> Space:
    """The space of a group without row and tail reductions: as many columns as memory allows to be
    walked as one loop."""
    shape = block.outputs[0].type.static_shape
    for op in block.body:
        # The fold gets the vector loop where it runs along memory.
        if is_reduction(op) and folds_along_memory(op):
            return Space(shape, ())
    merged = _mergeable(block, shape)
    # Rows shorter than a vector cost more than finding each element's place by division.
    while merged < len(shape) and size_of(shape[len(shape) - merged :]) < _SHORT_ROW:
        merged += 1
    return Space(shape, last_axes(len(shape), merged))


def _mergeable(block: Block, shape: tuple[int, ...]) -> int:
    """How many trailing axes every access of ``block`` treats as one."""
    if len(shape) <= 1:
        return len(shape)
    draft = Draft(block)
    with ExitStack() as stack:
        loops = [stack.enter_context(draft.builder.loop(n, "serial")) for n in shape]
        index = [loop.at for loop in loops]
        for number, value in enumerate(block.outputs):
            element = draft.elements.at(value, index)
            buffer = draft.result(number)
            draft.builder.store(buffer, row_major_offset(index, shape), element)
    affine: list[Affine] = []
    for statement in statements(draft.builder.body()):
        if isinstance(statement, (Load, Store)):
            affine.append(statement.offset)
        elif isinstance(statement, Index):
            affine.append(statement.value)
        elif isinstance(statement, For) and statement.limit is not None:
            affine.append(statement.limit)
        elif isinstance(statement, Let):
            # An index used as a number outside an address.
            affine += [Affine.of(x) for x in statement.operands if isinstance(x, Var)]
    merged = 1
    for axis in range(len(shape) - 2, -1, -1):
        outer, inner = loops[axis].index, loops[axis + 1].index
        factor = shape[axis + 1]
        if any(a.coefficient(outer) != a.coefficient(inner) * factor for a in affine):
            break
        merged += 1
    return merged


@dataclass(eq=False)
class _RowKernel:
    """One lowering in progress."""

    block: Block
    name: str
    place: Layout
    target: Target
    temps: list[Temp] = field(default_factory=list)
    # Where each tail is accumulated: for column tails a buffer, for others the folded scalar per
    # chunk.
    partial: dict[Value, int] = field(default_factory=dict)
    folded: dict[Value, Scalar] = field(default_factory=dict)
    scratch: dict[Value, tuple[Buffer, Affine]] = field(default_factory=dict)
    # Where the sums per column are taken now: in a leaf, or in what the chunk makes.
    columns_at: dict[Value, tuple[Buffer, Affine]] = field(default_factory=dict)

    def lower(self) -> Lowered:
        space = self.place.space
        self.draft = Draft(self.block)
        self.builder = self.draft.builder
        self.elements = self.draft.elements
        self.stages = 1 + max(
            [self.place.levels[v] for v in self._main_outputs()]
            + [self.place.levels[op.operands[0]] for op in self._tail_ops()]
            + [self.place.levels[v] - 1 for v in self.place.of_kind(ReductionKind.ROW)],
            default=0,
        )
        costs = self.target.costs
        time = elementwise_us(self.block, space.rows * space.columns, costs)
        self.is_parallel = time > costs.parallel_us and not (
            self._tail_ops() and space.rows * space.columns < CHUNKED_ELEMENTS
        )
        # One row, or no rows to speak of: the columns are cut instead.
        self.is_flat = (
            space.rows == 1
            and space.is_trailing
            and not self.place.of_kind(ReductionKind.ROW)
            and not self.place.of_kind(ReductionKind.COLUMN_TAIL)
            and (
                space.columns >= CHUNKED_ELEMENTS
                or (self.is_parallel and not self.place.of_kind(ReductionKind.FULL_TAIL))
            )
        )
        self.size = self._chunk_size()
        extent = space.columns if self.is_flat else space.rows
        self.chunks = max(1, -(-extent // self.size))
        self.is_ragged = self.chunks > 1 and extent % self.size != 0
        self._declare_tails()
        self._emit_main()
        pieces = []
        if self.chunks == 1 or (self._tail_ops() and not self.is_parallel):
            self._emit_post(self.draft)
            pieces.append(self._finish(self.draft, self.name))
        else:
            pieces.append(self._finish(self.draft, self.name))
            if self._tail_ops():
                pieces.append(self._combine())
        return Lowered(tuple(pieces), tuple(self.temps))

    def _chunk_size(self) -> int:
        """How many rows (columns, if flat) one iteration of the outer loop takes."""
        space = self.place.space
        if self.is_flat:
            cut = -(-space.columns // self.target.chunks)
            return max(1, FLAT_PIECE if self._tail_ops() else cut)
        if not self._tail_ops():
            return max(1, -(-space.rows // self.target.chunks) if self.is_parallel else space.rows)
        if (
            self.is_parallel
            or self.place.of_kind(ReductionKind.COLUMN_TAIL)
            or leaf_rows(space) < LEAF
        ):
            return chunk_rows(space, self.is_parallel)
        return max(1, space.rows)

    # ---- what there is to do

    def _op(self, value: Value) -> Op:
        return self.elements.makers[value]

    def _combine_of(self, value: Value) -> str:
        form = lookup(self._op(value).name).loop
        assert isinstance(form, Reduction)
        return form.combine

    def _tail_ops(self) -> list[Op]:
        return [self._op(v) for v in self.place.tails]

    def _main_outputs(self) -> list[Value]:
        return [v for v in self.block.outputs if not self.place.post[v]]

    def _post_outputs(self) -> list[tuple[int, Value]]:
        return [(n, v) for n, v in enumerate(self.block.outputs) if self.place.post[v]]

    def _declare_tails(self) -> None:
        for value in self.place.tails:
            kind = self.place.kinds[value]
            if self.chunks == 1 and kind is ReductionKind.FULL_TAIL:
                continue
            size = self.chunks * size_of(value.type.static_shape)
            if kind is ReductionKind.ROW_TAIL:
                size = self.place.space.rows
            self.partial[value] = self._temp(size, value.type.dtype.accumulator)

    def _temp(self, size: int, dtype: DType) -> int:
        self.temps.append(Temp(size, dtype))
        return len(self.temps) - 1

    def _finish(self, draft: Draft, name: str) -> Piece:
        return draft.finish(
            name, flops(self.block) if draft is self.draft else 0, block_spans(self.block)
        )

    # ---- the main kernel

    def _emit_main(self) -> None:
        self.buffers = {
            v: self.draft.temp(n, self.temps[n], "write") for v, n in self.partial.items()
        }
        if self.chunks == 1:
            self._chunk(Affine())
            return
        with self.builder.loop(self.chunks, "grid" if self.is_parallel else "serial") as chunk:
            self._chunk(chunk.at)

    def _chunk(self, chunk: Affine) -> None:
        space = self.place.space
        width = space.columns
        for value in self.place.of_kind(ReductionKind.COLUMN_TAIL):
            self.columns_at[value] = (self.buffers[value], chunk * width)
            self._clear(value)
        if self.is_flat:
            self._row(chunk, self._unflat_rows(Affine()), chunk * self.size, self.size, None)
        elif space.rows == 1:
            self._row(chunk, self._unflat_rows(Affine()), Affine(), width, None)
        else:
            self._rows(chunk)
        for value, scalar in self.folded.items():
            if self.chunks > 1:
                self.builder.store(self.buffers[value], chunk, scalar)

    def _rows(self, chunk: Affine) -> None:
        """The rows of a chunk. Sums per column are taken leaf by leaf, others are trees by
        themselves.
        """
        space, columns = self.place.space, self.place.of_kind(ReductionKind.COLUMN_TAIL)
        leaf = leaf_rows(space)
        first = chunk * self.size
        if not columns or min(self.size, space.rows) <= leaf:
            self._leaf(chunk, first, min(self.size, space.rows), self.is_ragged)
            return
        count = min(self.size, space.rows)
        leaves = -(-count // leaf)
        whole = dict(self.columns_at)
        for number, value in enumerate(columns):
            dtype = value.type.dtype.accumulator
            self.columns_at[value] = self._room(f"leaf{number}", dtype, chunk)
        cut = chunk * -leaves + -(-space.rows // leaf) if self.is_ragged else None
        with self.builder.loop(leaves, "serial", cut) as loop:
            for value in columns:
                self._clear(value)
            self._leaf(chunk, first + loop.at * leaf, leaf, space.rows % leaf != 0)
            self._add_leaf(whole)
            for value, scalar in self.folded.items():
                self.folded[value] = loop.fold(self._combine_of(value), scalar)

    def _leaf(self, chunk: Affine, first: Affine, count: int, is_ragged: bool) -> None:
        """``count`` rows from ``first`` on, or as many as there are."""
        space = self.place.space
        cut = first * -1 + space.rows if is_ragged else None
        with self.builder.loop(count, "serial", cut) as row:
            at = self._unflat_rows(first + row.at)
            self._row(chunk, at, Affine(), space.columns, row)

    def _add_leaf(self, whole: Mapping[Value, tuple[Buffer, Affine]]) -> None:
        with self.builder.loop(self.place.space.columns, "vector") as column:
            for value, (target, base) in whole.items():
                leaf, start = self.columns_at[value]
                total = self.builder.load(leaf, start + column.at)
                combine = _store_combine(self._combine_of(value))
                self.builder.store(target, base + column.at, total, combine)

    def _unflat_rows(self, row: Affine) -> list[Affine]:
        return self.builder.unflatten(row, self.place.space.rows_shape)

    def _clear(self, value: Value) -> None:
        buffer, base = self.columns_at[value]
        neutral = identity(self._combine_of(value), value.type.dtype.accumulator)
        with self.builder.loop(self.place.space.columns, "vector") as column:
            self.builder.store(buffer, base + column.at, neutral)

    def _room(self, name: str, dtype: DType, chunk: Affine) -> tuple[Buffer, Affine]:
        """Room for a row: scratch of the thread while there is any, else a part of a temporary, one
        row per chunk.
        """
        width = self.place.space.columns
        scratch = [b for b in self.builder.buffers if b.is_private]
        taken = sum(b.size * b.dtype.itemsize for b in scratch)
        if taken + width * dtype.itemsize <= self.target.row_bytes:
            return self.builder.buffer(name, dtype, width, "update", "thread"), Affine()
        number = self._temp(self.chunks * width, dtype)
        return self.draft.temp(number, self.temps[number], "write"), chunk * width

    def _row(
        self, chunk: Affine, row: list[Affine], first: Affine, size: int, loop: OpenLoop | None
    ) -> None:
        """One row (or, if flat, one chunk of the columns): its stages, then what is kept per
        row."""
        totals: dict[Value, Scalar] = {}
        for stage in range(self.stages):
            self._store_rows(stage, row)
            self._stage(stage, chunk, row, first, size, totals)
        self._store_rows(self.stages, row)
        for value in self.place.of_kind(ReductionKind.ROW_TAIL):
            # Kept per row and summed afterwards, in the order of a sum by itself.
            element = self.elements.fold_input(self._op(value), row)
            offset = row_major_offset(row, self.place.space.rows_shape)
            self.builder.store(self.buffers[value], offset, element)
        for value, scalar in totals.items():
            combine = self._combine_of(value)
            self.folded[value] = scalar if loop is None else loop.fold(combine, scalar)

    def _store_rows(self, level: int, row: list[Affine]) -> None:
        space = self.place.space
        for value in self._main_outputs():
            shape = value.type.static_shape
            if shape == space.shape or self.place.levels[value] != level:
                continue
            if not is_row_shape(shape, space):
                raise LoweringError(f"{value.type} is no value of a group over {space.shape}")
            wide = iter([x for x, extent in zip(row, space.rows_shape, strict=True) if extent != 1])
            index = [Affine() if extent == 1 else next(wide) for extent in shape]
            element = self.elements.at(value, index)
            buffer = self._result(self.block.outputs.index(value))
            self.builder.store(buffer, row_major_offset(index, shape), element)

    def _result(self, number: int) -> Buffer:
        key = self.block.outputs[number]
        if key not in self.buffers:
            self.buffers[key] = self.draft.result(number)
        return self.buffers[key]

    def _stage(
        self,
        stage: int,
        chunk: Affine,
        row: list[Affine],
        first: Affine,
        size: int,
        totals: dict[Value, Scalar],
    ) -> None:
        """The loop over the columns in which everything of level ``stage`` is done."""
        folds, columns, stores = self._work_of(stage)
        if not (folds or columns or stores):
            return
        roots = [self._op(v).operands[0] for v in (*folds, *columns)] + stores
        kept: list[Value] = []
        if not self.is_flat and stage + 1 < self.stages:
            outputs = self._main_outputs()
            kept = kept_values(
                self.block, self.place, stage, roots, outputs, self.scratch, self.target.costs
            )

        def body(at: list[Affine]) -> dict[Value, Scalar]:
            column = row_major_offset(at, self.place.space.columns_shape)
            index = self._index(row, at)
            elements = {v: self.elements.fold_input(self._op(v), index) for v in folds}
            for value in kept:
                self._keep(value, chunk, column, index)
            for value in columns:
                self._add_to_column(value, column, index)
            for value in stores:
                self._store_full(value, index)
            return elements

        results = self._columns(
            adjacent_groups(self.place.space.column_axes), [], first, size, body
        )
        for value in folds:
            if self.place.kinds[value] is ReductionKind.FULL_TAIL:
                totals[value] = results[value]
                continue
            algebra = IndexAlgebra(self.builder, value.type.dtype)
            self.elements.bind_scalar(value, row, algebra.cast(results[value], value.type.dtype))
        for value in kept:
            self.elements.bind_place(value, self._recall(value, row))

    def _work_of(self, stage: int) -> tuple[list[Value], list[Value], list[Value]]:
        """The folds over columns, the column tails and the full results of level ``stage``."""
        levels = self.place.levels

        def of(*kinds: ReductionKind) -> list[Value]:
            found = [v for kind in kinds for v in self.place.of_kind(kind)]
            return [v for v in found if levels[self._op(v).operands[0]] == stage]

        shape = self.place.space.shape
        stores = [
            v for v in self._main_outputs() if v.type.static_shape == shape and levels[v] == stage
        ]
        return of(ReductionKind.ROW, ReductionKind.FULL_TAIL), of(ReductionKind.COLUMN_TAIL), stores

    def _columns(
        self,
        groups: Sequence[Sequence[int]],
        outer: list[Affine],
        first: Affine,
        size: int,
        body: Body,
    ) -> dict[Value, Scalar]:
        """``body`` in loops over the columns, one per run of axes, the last a vector loop; returns
        what the body returns, folded. ``first`` and ``size`` cut the columns of a flat space."""
        if not groups:
            return body(outer)
        space = self.place.space
        shape = [space.shape[axis] for axis in groups[0]]
        is_last = len(groups) == 1
        extent = size if self.is_flat else size_of(tuple(shape))
        if extent == 1 and not self.is_flat:
            return self._columns(groups[1:], outer + [Affine()] * len(shape), first, size, body)
        cut = first * -1 + space.columns if self.is_flat and self.is_ragged else None
        with self.builder.loop(extent, "vector" if is_last else "serial", cut) as loop:
            inner = outer + self.builder.unflatten(first + loop.at, shape)
            found = self._columns(groups[1:], inner, first, size, body)
            results: dict[Value, Scalar] = {
                value: loop.fold(self._combine_of(value), scalar) for value, scalar in found.items()
            }
        return results

    def _index(self, row: Sequence[Affine], column: Sequence[Affine]) -> list[Affine]:
        """The index in the space of a row and a column."""
        space = self.place.space
        at = dict(zip(space.row_axes, row, strict=True))
        at.update(zip(space.column_axes, column, strict=True))
        return [at[axis] for axis in range(len(space.shape))]

    def _store_full(self, value: Value, index: Indices) -> None:
        element = self.elements.at(value, index)
        offset = row_major_offset(index, self.place.space.shape)
        self.builder.store(self._result(self.block.outputs.index(value)), offset, element)

    def _add_to_column(self, value: Value, column: Affine, at: Indices) -> None:
        buffer, base = self.columns_at[value]
        element = self.elements.fold_input(self._op(value), at)
        combine = _store_combine(self._combine_of(value))
        self.builder.store(buffer, base + column, element, combine)

    # ---- scratch rows

    def _keep(self, value: Value, chunk: Affine, column: Affine, at: Indices) -> None:
        buffer, base = self._room(f"s{len(self.scratch)}", value.type.dtype, chunk)
        self.builder.store(buffer, base + column, self.elements.at(value, at))
        self.scratch[value] = (buffer, base)

    def _recall(self, value: Value, row: Indices) -> ElementAt:
        buffer, base = self.scratch[value]
        expected = self.builder.index_key(row)
        space = self.place.space

        def read(index: Indices) -> Scalar | None:
            if self.builder.index_key([index[axis] for axis in space.row_axes]) != expected:
                return None
            column = [index[axis] for axis in space.column_axes]
            return self.builder.load(buffer, base + row_major_offset(column, space.columns_shape))

        return read

    # ---- tails

    def _combine(self) -> Piece:
        """The second kernel: partial results from the first chunk to the last, then what follows
        from them."""
        draft = Draft(self.block)
        self.buffers = {v: draft.temp(n, self.temps[n], "read") for v, n in self.partial.items()}
        self._emit_post(draft)
        return self._finish(draft, f"{self.name}_combine")

    def _emit_post(self, draft: Draft) -> None:
        elements = draft.elements
        for value in (*self.place.of_kind(ReductionKind.ROW), *self.scratch):
            elements.unbind(value)
        for value in self.place.tails:
            self._bind_tail(draft, value)
        groups: dict[tuple[int, ...], list[tuple[int, Value]]] = {}
        for number, value in self._post_outputs():
            groups.setdefault(value.type.static_shape, []).append((number, value))
        for shape, outputs in groups.items():
            with ExitStack() as stack:
                at = Affine()
                if size_of(shape) != 1:
                    at = stack.enter_context(draft.builder.loop(size_of(shape), "vector")).at
                index = draft.builder.unflatten(at, shape)
                for number, value in outputs:
                    draft.builder.store(draft.result(number), at, elements.at(value, index))

    def _bind_tail(self, draft: Draft, value: Value) -> None:
        algebra = IndexAlgebra(draft.builder, value.type.dtype)
        combine = self._combine_of(value)
        shape = value.type.static_shape
        if value not in self.partial:
            scalar = algebra.cast(self.folded[value], value.type.dtype)
            draft.elements.bind_scalar(value, [], scalar)
            return
        buffer, width = self.buffers[value], size_of(shape)
        if self.place.kinds[value] is ReductionKind.ROW_TAIL:
            total = self._sum_rows(draft, buffer, combine)
            draft.elements.bind_scalar(value, [], algebra.cast(total, value.type.dtype))
            return

        def read(index: Indices) -> Scalar:
            at = row_major_offset(index, shape)
            if self.chunks == 1:
                return algebra.cast(draft.builder.load(buffer, at), value.type.dtype)
            with draft.builder.loop(self.chunks, "serial") as chunk:
                element: Scalar = draft.builder.load(buffer, chunk.at * width + at)
                if self.is_flat and combine == "add" and buffer.dtype is DType.F32:
                    # The last few additions are those whose roundings are left in the result.
                    element = algebra.cast(element, DType.F64)
                total = chunk.fold(combine, element)
            return algebra.cast(total, value.type.dtype)

        if shape == ():
            draft.elements.bind_scalar(value, [], read([]))
        else:
            draft.elements.bind_place(value, read)

    def _sum_rows(self, draft: Draft, buffer: Buffer, combine: str) -> Scalar:
        """The row values in ``buffer`` folded as a reduction of their own would fold them."""
        shape = self.place.space.rows_shape
        last = shape[-1]
        outer = size_of(shape[:-1])

        def fold(first: Affine) -> Scalar:
            if last == 1 and outer > 1:
                return draft.builder.load(buffer, first)
            with draft.builder.loop(last, "vector") as loop:
                total = loop.fold(combine, draft.builder.load(buffer, first + loop.at))
            return total

        if len(shape) == 1 or outer == 1:
            return fold(Affine())
        with draft.builder.loop(outer, "serial") as row:
            total = row.fold(combine, fold(row.at * last))
        return total


def _store_combine(combine: str) -> Combine:
    match combine:
        case "add" | "max" | "min" | "mul":
            return combine
    raise LoweringError(f"no such combination: {combine}")
