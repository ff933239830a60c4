"""Indexing by data: ``take`` reads rows by number, ``scatter_add`` is its transpose.

An id out of range reads NaN (0 for integers, or everywhere with ``fill = "zero"``) and writes
nothing: never another element. Updates of one row are numbered in the order of ids, and their sum
is a tree of ``LEAF`` children per node (``row_sums``), so results do not depend on threads, and
their error not on how often an id occurs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from gradc.ir.loop.kernel import Affine, Scalar
from gradc.ir.ops import stacks
from gradc.ir.ops.attributes import get_dim, get_int, get_str
from gradc.ir.ops.axes import AxisRule, Link, Place, sizes
from gradc.ir.ops.index import readings
from gradc.ir.ops.index.element import ElementRule
from gradc.ir.ops.index.indexing import fit_scatter, scatter_add, take
from gradc.ir.ops.interval import handed_on, sums_of
from gradc.ir.ops.registry import ByIndex, Nest, OpDef, Read, Sample, TypeRuleError, register
from gradc.ir.ops.row_sums import LEAF, Node, RowSums, Share, size_of
from gradc.ir.ops.traits import Traits
from gradc.ir.tensor.core import Attrs, DType, Op, TensorType, Value

if TYPE_CHECKING:
    from gradc.ir.loop.builder import IndexAlgebra
    from gradc.ir.loop.nest import NestContext
    from gradc.ir.ops.builder import Builder

# Where the result has a row and a column of the block at hand.
Spot: TypeAlias = Callable[[Affine, Affine], list[Affine]]


def _check_ids(name: str, ids: TensorType, other: TensorType) -> None:
    if ids.dtype not in (DType.I32, DType.I64):
        raise TypeRuleError(f"{name}: ids must be i32 or i64, not {ids} (with {other})")


def _infer_take(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    if len(types) != 2:
        raise TypeRuleError(f"take: takes 2 operands, got {len(types)}")
    table, ids = types
    axis = get_int(attributes, "axis")
    _check_ids("take", ids, table)
    if get_str(attributes, "fill", "nan") not in ("nan", "zero"):
        raise TypeRuleError(f'take: fill must be "nan" or "zero", for {table} and {ids}')
    if not 0 <= axis < table.rank:
        raise TypeRuleError(f"take: axis {axis} is out of range for {table}, ids {ids}")
    return (table.with_shape((*table.shape[:axis], *ids.shape, *table.shape[axis + 1 :])),)


def _take_jvp(b: Builder, op: Op, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    tangent = tangents[0]
    if tangent is None:
        return (None,)
    axis = get_int(op.attributes, "axis")
    return (b.one("take", tangent, op.operands[1], axis=axis, fill="zero"),)


def _take_vjp(
    b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
) -> Sequence[Value | None]:
    (ct,) = cts
    if ct is None or not needed[0]:
        return (None, None)
    axis = get_int(op.attributes, "axis")
    size = op.operands[0].type.shape[axis]
    return (b.one("scatter_add", op.operands[1], ct, axis=axis, size=size), None)


def _take_indexes(op: Op) -> tuple[tuple[int, int], ...]:
    """Where what is out of range reads zero, it was meant to be."""
    if get_str(op.attributes, "fill", "nan") == "zero":
        return ()
    return ((1, op.operands[0].type.static_shape[get_int(op.attributes, "axis")]),)


def _fill(op: Op) -> float | int:
    dtype = op.result.type.dtype
    return float("nan") if dtype.is_float and get_str(op.attributes, "fill", "nan") == "nan" else 0


def _take_element(k: IndexAlgebra, op: Op, index: Sequence[Affine], read: Read) -> Scalar:
    table, ids = (x.type for x in op.operands)
    axis = get_int(op.attributes, "axis")
    row = k.affine(read(1, index[axis : axis + ids.rank]))
    inside = k.inside(row, table.static_shape[axis])
    place = [*index[:axis], row, *index[axis + ids.rank :]]
    return k.guarded(inside, lambda: read(0, place), k.const(_fill(op), table.dtype))


def _take_links(op: Op) -> tuple[Link, ...]:
    """The axes of the ids, and those of the table but the one that ids count."""
    axis = get_int(op.attributes, "axis")
    table, ids = (sizes(x) for x in op.operands)
    found = [Link(n, (None, Place(i)), Place(axis + i)) for i, n in enumerate(ids)]
    for i, n in enumerate(table):
        if i != axis:
            to = i if i < axis else i + len(ids) - 1
            found.append(Link(n, (Place(i), None), Place(to)))
    return tuple(found)


def _counted_from(b: Builder, ids: Value, first: Value) -> Value:
    """``ids`` as they count in a part that begins at ``first``."""
    start = b.cast(first, ids.type.dtype)
    if ids.type.rank:
        start = b.one("broadcast", start, shape=ids.type.shape, dims=())
    return b.one("sub", ids, start)


def _take_searched(
    b: Builder, op: Op, operands: Sequence[Value], place: Place, first: Value
) -> Value | None:
    """Rows that this part of the table has, zeros for others; NaN where no part has them."""
    axis = get_int(op.attributes, "axis")
    if place != Place(axis):
        return None
    part, ids = operands
    found = b.one("take", part, _counted_from(b, ids, first), axis=axis, fill="zero")
    if get_str(op.attributes, "fill", "nan") == "zero" or not found.type.dtype.is_float:
        return found
    size = op.operands[0].type.static_shape[axis]
    low, high = (b.constant(n, ids.type.dtype, ids.type.shape) for n in (0, size))
    inside = b.one("logical_and", b.one("ge", ids, low), b.one("lt", ids, high))
    dims = tuple(range(axis, axis + ids.type.rank))
    inside = b.one("broadcast", inside, shape=found.type.shape, dims=dims)
    return b.one("select", inside, found, b.constant(math.nan, found.type.dtype, found.type.shape))


def _scatter_add_counted(
    b: Builder, op: Op, operands: Sequence[Value], place: Place, first: Value, parts: int
) -> Value | None:
    """The rows of one part, to which other rows' updates do not belong."""
    axis, size = get_int(op.attributes, "axis"), get_int(op.attributes, "size")
    if place != Place(axis):
        return None
    ids, updates = operands
    ids = _counted_from(b, ids, first)
    return b.one("scatter_add", ids, updates, axis=axis, size=size // parts)


register(
    OpDef(
        "take",
        "the rows of a table named by ids, along `axis`",
        _infer_take,
        lambda arrays, op, operands: (
            arrays.take(operands[0], operands[1], op.attributes["axis"], _fill(op)),
        ),
        _take_jvp,
        _take_vjp,
        ByIndex(_take_element),
        (
            Sample(
                (TensorType((5, 3), DType.F64), TensorType((4,), DType.I32)),
                {"axis": 0},
                ((-2.0, 2.0), (0.0, 5.0)),
            ),
            Sample(
                (TensorType((2, 4, 3), DType.F64), TensorType((2, 2), DType.I32)),
                {"axis": 1},
                ((-2.0, 2.0), (0.0, 4.0)),
            ),
            Sample(
                (TensorType((4,), DType.F64), TensorType((), DType.I64)),
                {"axis": 0, "fill": "zero"},
                ((-2.0, 2.0), (0.0, 8.0)),
            ),
            Sample(
                (TensorType((4, 2), DType.F64), TensorType((0,), DType.I32)),
                {"axis": 0},
                ((-2.0, 2.0), (0.0, 4.0)),
            ),
        ),
        traits=Traits(linear=((0,),), is_layer=True, batched=stacks.take),
        interval=handed_on,
        element=ElementRule(take),
        formula=readings.take,
        axes=AxisRule(_take_links, "they are looked up by number", searched=_take_searched),
        indexes=_take_indexes,
    )
)


def _infer_scatter_add(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    if len(types) != 2:
        raise TypeRuleError(f"scatter_add: takes 2 operands, got {len(types)}")
    ids, updates = types
    axis, size = get_int(attributes, "axis"), get_dim(attributes, "size")
    _check_ids("scatter_add", ids, updates)
    end = axis + ids.rank
    if axis < 0 or updates.dtype is DType.BOOL or updates.shape[axis:end] != ids.shape:
        raise TypeRuleError(f"scatter_add: ids and updates do not match, {ids} and {updates}")
    return (updates.with_shape((*updates.shape[:axis], size, *updates.shape[end:])),)


def _scatter_add_jvp(
    b: Builder, op: Op, tangents: Sequence[Value | None]
) -> Sequence[Value | None]:
    tangent = tangents[1]
    if tangent is None:
        return (None,)
    return (b.same(op, op.operands[0], tangent),)


def _scatter_add_vjp(
    b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
) -> Sequence[Value | None]:
    (ct,) = cts
    if ct is None or not needed[1]:
        return (None, None)
    axis = get_int(op.attributes, "axis")
    return (None, b.one("take", ct, op.operands[0], axis=axis, fill="zero"))


def _scatter_add_nest(nest: NestContext, op: Op) -> None:
    """Each parallel iteration owns one prefix, some of the rows and a block of columns: zeros them,
    then adds what belongs there in order.
    """
    k, axis = nest.k, get_int(op.attributes, "axis")
    ids = op.operands[0].type
    shape, dtype = op.result.type.static_shape, op.result.type.dtype
    prefix, suffix = shape[:axis], shape[axis + 1 :]
    columns, rows = size_of(suffix), size_of(ids.static_shape)
    owned = max(nest.schedule.columns(columns), 1)
    held = max(nest.schedule.places(shape[axis], columns * dtype.itemsize), 1)
    lots = (-(-shape[axis] // held),) if shape[axis] > held else ()
    with nest.parallel((*prefix, *lots, -(-columns // owned))) as outer:
        block = Share.of(outer[-1], columns, owned)
        lot = Share.of(outer[-2], shape[axis], held) if lots else Share(Affine(), shape[axis])

        def spot(row: Affine, column: Affine) -> list[Affine]:
            place = lot.first + row
            return [*outer[: len(prefix)], place, *k.unflatten(block.first + column, suffix)]

        if not dtype.is_float or (rows <= LEAF and dtype is dtype.accumulator):
            _add_in_order(nest, op, lot, block, spot)
        else:
            _add_as_trees(nest, op, lot, block, spot)


def _is_here(nest: NestContext, lot: Share, row: Affine, count: int) -> Scalar:
    """Whether a row, counted from the first of ``lot``, is one of them and of ``count`` in all."""
    k = nest.k
    here = k.inside(row, lot.count)
    return here if lot.limit is None else k.both(here, k.inside(lot.first + row, count))


def _add_in_order(nest: NestContext, op: Op, lot: Share, block: Share, spot: Spot) -> None:
    """In the result itself, one update after the other."""
    k, axis = nest.k, get_int(op.attributes, "axis")
    shape, dtype = op.result.type.static_shape, op.result.type.dtype
    ids = op.operands[0].type.static_shape
    with lot.loop(nest, "serial") as row, block.loop(nest, "vector") as column:
        nest.write(spot(row.at, column.at), k.const(0, dtype))
    with nest.loop(size_of(ids), "serial") as update:
        at = k.unflatten(update.at, ids)
        target = k.affine(nest.read(0, at)) + lot.first * -1
        inside = _is_here(nest, lot, target, shape[axis])
        with block.loop(nest, "vector") as column:
            place = spot(target, column.at)
            value = nest.read(1, [*place[:axis], *at, *place[axis + 1 :]])
            nest.write(place, value, "add", guard=inside)


def _add_as_trees(nest: NestContext, op: Op, lot: Share, block: Share, spot: Spot) -> None:
    """Rows of the result, or of a table in a wider type, are the open leaves; what is full moves
    up.
    """
    k, axis = nest.k, get_int(op.attributes, "axis")
    shape, dtype = op.result.type.static_shape, op.result.type.dtype
    ids = op.operands[0].type.static_shape
    sums = RowSums(nest, dtype, lot.count, size_of(ids), block)
    wide = sums.wide
    table = None if wide.dtype is dtype else nest.scratch(lot.count * block.count, wide.dtype)

    def read(row: Affine, column: Affine) -> Scalar:
        if table is None:
            return nest.written(spot(row, column))
        return nest.load(table, row * block.count + column)

    def write(row: Affine, column: Affine, value: Scalar) -> None:
        if table is None:
            nest.write(spot(row, column), value)
        else:
            nest.store(table, row * block.count + column, value)

    with lot.loop(nest, "serial") as row:
        sums.clear(row.at)
        with block.loop(nest, "vector") as column:
            write(row.at, column.at, wide.const(0))
    sums.open()
    with nest.loop(size_of(ids), "serial") as update:
        at = k.unflatten(update.at, ids)
        target = k.affine(nest.read(0, at)) + lot.first * -1
        with sums.only_if(_is_here(nest, lot, target, shape[axis])):
            with block.loop(nest, "vector") as column:
                place = spot(target, column.at)
                value = nest.read(1, [*place[:axis], *at, *place[axis + 1 :]])
                total = wide.add(read(target, column.at), wide.cast(value, wide.dtype))
                write(target, column.at, total)
            if sums.state is not None:
                leaf = Node(
                    functools.partial(read, target),
                    functools.partial(write, target),
                    sums.state,
                    target,
                )
                sums.count(leaf)
    with lot.loop(nest, "serial") as row:
        path = sums.path(row.at)
        if table is not None:
            with block.loop(nest, "vector") as column:
                total = sums.total(path, read(row.at, column.at), column.at)
                nest.write(spot(row.at, column.at), k.cast(total, dtype))
        elif path:
            with sums.only_if(path[0][0]), block.loop(nest, "vector") as column:
                write(row.at, column.at, sums.total(path, read(row.at, column.at), column.at))


def _scatter_add_links(op: Op) -> tuple[Link, ...]:
    """A sum over the ids; the other axes of the updates go through."""
    axis = get_int(op.attributes, "axis")
    ids, updates = (sizes(x) for x in op.operands)
    found = [Link(n, (Place(i), Place(axis + i)), None) for i, n in enumerate(ids)]
    for i, n in enumerate(updates):
        if not axis <= i < axis + len(ids):
            to = i if i < axis else i - len(ids) + 1
            found.append(Link(n, (None, Place(i)), Place(to)))
    return tuple(found)


register(
    OpDef(
        "scatter_add",
        "zeros of `size` rows along `axis`, to which each update is added at its id",
        _infer_scatter_add,
        lambda arrays, op, operands: (
            arrays.scatter_add(
                operands[0], operands[1], op.attributes["axis"], op.attributes["size"]
            ),
        ),
        _scatter_add_jvp,
        _scatter_add_vjp,
        Nest(_scatter_add_nest, lambda op: size_of(op.operands[1].type.static_shape)),
        (
            Sample(
                (TensorType((4,), DType.I32), TensorType((4, 3), DType.F64)),
                {"axis": 0, "size": 5},
                ((0.0, 5.0), (-2.0, 2.0)),
            ),
            Sample(
                (TensorType((2, 2), DType.I32), TensorType((3, 2, 2, 2), DType.F64)),
                {"axis": 1, "size": 2},
                ((0.0, 4.0), (-2.0, 2.0)),
            ),
            Sample(
                (TensorType((), DType.I64), TensorType((2,), DType.F64)),
                {"axis": 0, "size": 3},
                ((0.0, 3.0), (-2.0, 2.0)),
            ),
        ),
        traits=Traits(linear=((1,),), word="scatter", batched=stacks.scatter_add),
        interval=sums_of(1, lambda op: math.prod(op.operands[0].type.static_shape)),
        element=ElementRule(scatter_add, fit_scatter),
        formula=readings.scatter_add,
        axes=AxisRule(
            _scatter_add_links,
            "they are put where their numbers say",
            counted=_scatter_add_counted,
        ),
        indexes=lambda op: ((0, op.result.type.static_shape[get_int(op.attributes, "axis")]),),
    )
)
