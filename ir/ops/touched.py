"""Rows of a table that updates touch, computed without the others: the kernels of two regions.

    touched_sums    ids, updates -> of every id, the sum of all updates that have it: the rows of
                    ``scatter_add`` that ``take`` finds there (0 for an id out of range)
    touched_update  ids, updates, tables, scalars -> the tables, each element changed by its own and
                    by the sum of the updates of its row

The second may stand only where a sum of 0 changes nothing: its kernel visits no other row, and its
results begin as the tables (``Nest.begins``). Both have the bits of their regions: sums are those
of ``scatter_add``, whose order follows from how many updates a row gets.

Non-goals: whether 0 changes nothing (``passes.training.touched``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradc.ir.loop.kernel import Affine, Buffer, Scalar
from gradc.ir.ops.attributes import get_int
from gradc.ir.ops.native import kernel
from gradc.ir.ops.registry import ByIndex, Pointwise, lookup
from gradc.ir.ops.row_sums import Node, RowSums, Share, size_of
from gradc.ir.tensor.core import Attr, Block, DType, Op, Value

if TYPE_CHECKING:
    from gradc.ir.loop.nest import NestContext
    from gradc.ir.ops.builder import Builder

IDS, UPDATES = 0, 1  # operands of both


def scattered(op: Op) -> bool:
    """Whether ``op`` adds rows at ids to zeros, along the first axis."""
    return op.name == "scatter_add" and op.attributes["axis"] == 0


def touched_sums(b: Builder, scatter: Op) -> Value:
    """The rows of ``scatter`` that its own ids name."""
    size = get_int(scatter.attributes, "size")

    def program(inner: Builder, ids: Value, updates: Value) -> list[Value]:
        sums = inner.one("scatter_add", ids, updates, axis=0, size=size)
        return [inner.one("take", sums, ids, axis=0, fill="zero")]

    return _native(b, "touched_sums", scatter, (), program)[0]


def touched_update(
    b: Builder,
    scatter: Op,
    tables: Sequence[Value],
    scalars: Sequence[Value],
    change: Callable[[Builder, Value, Sequence[Value], Sequence[Value]], Sequence[Value]],
) -> Sequence[Value]:
    """What ``change(b, sums, tables, scalars)`` makes of ``tables``, where ``sums`` is what
    ``scatter`` computes, and zeros in it change nothing.
    """
    size, count = get_int(scatter.attributes, "size"), len(tables)

    def program(inner: Builder, ids: Value, updates: Value, *rest: Value) -> Sequence[Value]:
        sums = inner.one("scatter_add", ids, updates, axis=0, size=size)
        return change(inner, sums, rest[:count], rest[count:])

    return _native(b, "touched_update", scatter, (*tables, *scalars), program)


def _native(
    b: Builder,
    by: str,
    scatter: Op,
    more: Sequence[Value],
    program: Callable[..., Sequence[Value]],
) -> Sequence[Value]:
    operands = (*scatter.operands, *more)
    inner = type(b)()
    with inner.at(scatter.span, scatter.scope, scatter.replica):
        region = inner.block(program(inner, *(inner.parameter(v.type, v.hint) for v in operands)))
    attributes: dict[str, Attr] = {"by": by, "size": get_int(scatter.attributes, "size")}
    with b.at(scatter.span, scatter.scope, scatter.replica):
        return b.apply("native", operands, attributes, (region,))


# --- kernels


@dataclass(frozen=True, slots=True)
class _Touch:
    """One of the updates: where it stands, the row it is for, whether there is such a row, and the
    place of the row's sums, which is the number of the first update for it.
    """

    at: Sequence[Affine]
    number: Affine
    row: Affine
    is_inside: Scalar
    place: Affine


class _Rows:
    """Sums of the rows that ids name, for a block of columns."""

    def __init__(self, nest: NestContext, op: Op, block: Share, suffix: Sequence[int]) -> None:
        self.nest, self.block, self.suffix = nest, block, suffix
        self.k = nest.algebra(DType.I32)
        self.ids = op.operands[IDS].type.static_shape
        self.count, self.size = size_of(self.ids), get_int(op.attributes, "size")
        self.dtype = op.operands[UPDATES].type.dtype
        self.sums = RowSums(nest, self.dtype, self.count, self.count, block)
        self.places = self._first_places()
        wide = self.sums.wide
        self.table = nest.scratch(self.count * block.count, wide.dtype)
        with nest.loop(self.count, "serial") as place:
            self.sums.clear(place.at)
            with block.loop(nest, "vector") as column:
                self._write(place.at, column.at, wide.const(0))
        self._add()

    def _first_places(self) -> Buffer:
        """The number of the first update for each one's row; unset where there is no such row."""
        nest, k = self.nest, self.k
        first = nest.scratch(self.size, DType.I32)
        places = nest.scratch(self.count, DType.I32)
        with nest.loop(self.count, "serial") as back:
            number = back.at * -1 + (self.count - 1)
            row, is_inside = self._row(number)
            with self.sums.only_if(is_inside):
                nest.store(first, row, k.number(number, DType.I32))
        with nest.loop(self.count, "serial") as loop:
            row, is_inside = self._row(loop.at)
            with self.sums.only_if(is_inside):
                nest.store(places, loop.at, nest.load(first, row))
        return places

    def _row(self, number: Affine) -> tuple[Affine, Scalar]:
        at = self.k.unflatten(number, self.ids)
        row = self.k.affine(self.nest.read(IDS, at))
        return row, self.k.inside(row, self.size)

    @contextmanager
    def each(self) -> Iterator[_Touch]:
        """A loop over the updates that have a row; ``place`` is known there."""
        nest = self.nest
        with nest.loop(self.count, "serial") as loop:
            at = self.k.unflatten(loop.at, self.ids)
            row, is_inside = self._row(loop.at)
            with self.sums.only_if(is_inside):
                place = self.k.affine(nest.load(self.places, loop.at))
                yield _Touch(at, loop.at, row, is_inside, place)

    def _add(self) -> None:
        nest, sums = self.nest, self.sums
        sums.open()
        with self.each() as touch:
            with self.block.loop(nest, "vector") as column:
                value = nest.read(UPDATES, [*touch.at, *self.columns(column.at)])
                wide = sums.wide.cast(value, sums.wide.dtype)
                total = sums.wide.add(self._read(touch.place, column.at), wide)
                self._write(touch.place, column.at, total)
            if sums.state is not None:

                def read(column: Affine) -> Scalar:
                    return self._read(touch.place, column)

                def write(column: Affine, value: Scalar) -> None:
                    self._write(touch.place, column, value)

                sums.count(Node(read, write, sums.state, touch.place))

    def columns(self, column: Affine) -> list[Affine]:
        """Where a column of the block lies in a row."""
        return self.k.unflatten(self.block.first + column, self.suffix)

    def total(self, touch: _Touch) -> Callable[[Affine], Scalar]:
        """The sum of the row of ``touch``, by column."""
        path = self.sums.path(touch.place)

        def at(column: Affine) -> Scalar:
            total = self.sums.total(path, self._read(touch.place, column), column)
            return self.k.cast(total, self.dtype)

        return at

    def _read(self, place: Affine, column: Affine) -> Scalar:
        return self.nest.load(self.table, place * self.block.count + column)

    def _write(self, place: Affine, column: Affine, value: Scalar) -> None:
        self.nest.store(self.table, place * self.block.count + column, value)


@contextmanager
def _rows(nest: NestContext, op: Op) -> Iterator[_Rows]:
    """Blocks of columns in parallel."""
    ids, updates = (op.operands[n].type.static_shape for n in (IDS, UPDATES))
    suffix = updates[len(ids) :]
    columns = size_of(suffix)
    owned = max(nest.schedule.columns(columns), 1)
    with nest.parallel((-(-columns // owned),)) as (number,):
        yield _Rows(nest, op, Share.of(number, columns, owned), suffix)


def _flops(op: Op) -> int:
    return size_of(op.operands[UPDATES].type.static_shape)


@kernel("touched_sums", _flops)
def _touched_sums(nest: NestContext, op: Op) -> None:
    with _rows(nest, op) as rows:
        with nest.loop(rows.count, "serial") as loop, rows.block.loop(nest, "vector") as column:
            at = nest.k.unflatten(loop.at, rows.ids)
            nest.write([*at, *rows.columns(column.at)], nest.k.const(0))
        with rows.each() as touch:
            total = rows.total(touch)
            with rows.block.loop(nest, "vector") as column:
                nest.write([*touch.at, *rows.columns(column.at)], total(column.at))


def _begins(op: Op) -> tuple[tuple[int, int], ...]:
    """The results are the tables, which follow the updates."""
    return tuple((n, UPDATES + 1 + n) for n in range(len(op.results)))


@kernel("touched_update", lambda op: _flops(op) * len(op.regions[0].body), _begins)
def _touched_update(nest: NestContext, op: Op) -> None:
    region = op.regions[0]
    first = UPDATES + 1 + len(op.results)
    olds = region.parameters[UPDATES + 1 : first]
    with _rows(nest, op) as rows:
        scalars = {
            value: nest.read(number, [])
            for number, value in enumerate(region.parameters[first:], first)
        }
        with rows.each() as touch:
            k = rows.k
            is_first = k.eq(k.number(touch.number, DType.I32), k.number(touch.place, DType.I32))
            total = rows.total(touch)
            with rows.sums.only_if(is_first), rows.block.loop(nest, "vector") as column:
                index = [touch.row, *rows.columns(column.at)]
                known = {value: nest.written(index, n) for n, value in enumerate(olds)}
                made = _elements(nest, region, index, total(column.at), {**scalars, **known})
                for number, value in enumerate(made):
                    nest.write(index, value, result=number)


def _elements(
    nest: NestContext,
    region: Block,
    index: Sequence[Affine],
    total: Scalar,
    known: Mapping[Value, Scalar],
) -> list[Scalar]:
    """One element of each result of ``region``, whose ops work element by element; for bf16 and f16
    in f32, rounded once after each op.
    """
    found = dict(known)
    for op in region.body:
        form = lookup(op.name).loop
        if scattered(op):
            found[op.result] = total
        elif isinstance(form, ByIndex):
            algebra, operands = nest.algebra(op.result.type.dtype), op.operands

            def read(n: int, _at: object, operands: Sequence[Value] = operands) -> Scalar:
                return found[operands[n]]

            found[op.result] = form.element(algebra, op, index, read)
        else:
            assert isinstance(form, Pointwise), f"`{op.name}` is no element's"
            wide = nest.algebra(op.result.type.dtype.accumulator)
            values = [wide.cast(found[x], found[x].dtype.accumulator) for x in op.operands]
            found[op.result] = wide.cast(
                form.meaning(wide, *values, **op.attributes), op.result.type.dtype
            )
    return [found[value] for value in region.outputs]
