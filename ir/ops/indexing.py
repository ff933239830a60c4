"""Indexing by data: ``take`` reads rows by number, ``scatter_add`` is its transpose.

An id out of range reads NaN (0 for integers, or everywhere with ``fill = "zero"``) and writes nothing: never
another element. Updates of one row are added in the order of ids, so results do not depend on threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradc.ir.attributes import get_dim, get_int, get_str
from gradc.ir.axes import AxisRule, Link, Place, sizes
from gradc.ir.core import Attrs, DType, Op, TensorType, Value
from gradc.ir.loops import Affine, Scalar
from gradc.ir.registry import Access, Nest, OpDef, Read, Sample, TypeRuleError, register

if TYPE_CHECKING:
    from gradc.ir.builder import Builder
    from gradc.ir.loopbuilder import IndexAlgebra
    from gradc.ir.nestcontext import NestContext

_COLUMNS = 64  # how many columns one parallel iteration of scatter_add owns


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
        Access(_take_element),
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
        axes=AxisRule(_take_links, "they are looked up by number"),
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
    """Each parallel iteration owns one prefix and a block of columns: zeros them, then adds rows in order."""
    k, axis = nest.k, get_int(op.attributes, "axis")
    ids = op.operands[0].type
    shape, dtype = op.result.type.static_shape, op.result.type.dtype
    prefix, suffix = shape[:axis], shape[axis + 1 :]
    columns = 1
    for extent in suffix:
        columns *= extent
    blocks = -(-columns // _COLUMNS)
    rows = 1
    for extent in ids.static_shape:
        rows *= extent
    with nest.parallel((*prefix, blocks)) as outer:
        block = outer[-1] * _COLUMNS
        width = min(columns, _COLUMNS)
        limit = None if columns % _COLUMNS == 0 or blocks == 1 else block * -1 + columns
        with nest.loop(shape[axis], "serial") as row, nest.loop(width, "vector", limit) as column:
            place = k.unflatten(block + column.at, suffix)
            nest.write([*outer[:-1], row.at, *place], k.const(0, dtype))
        with nest.loop(rows, "serial") as update:
            at = k.unflatten(update.at, ids.static_shape)
            target = k.affine(nest.read(0, at))
            inside = k.inside(target, shape[axis])
            with nest.loop(width, "vector", limit) as column:
                place = k.unflatten(block + column.at, suffix)
                value = nest.read(1, [*outer[:-1], *at, *place])
                nest.write([*outer[:-1], target, *place], value, "add", guard=inside)


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
        Nest(_scatter_add_nest),
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
        axes=AxisRule(_scatter_add_links, "they are put where their numbers say"),
        indexes=lambda op: ((0, op.result.type.static_shape[get_int(op.attributes, "axis")]),),
    )
)
