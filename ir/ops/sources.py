"""Ops without operands: splats and the index along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradc.ir.ops.attributes import get_dims, get_dtype, get_int, get_number
from gradc.ir.ops.axes import AxisRule, Place, invented, shortened
from gradc.ir.ops.index import readings
from gradc.ir.ops.index.element import ElementRule
from gradc.ir.ops.index.sources import splat
from gradc.ir.ops.interval import Bounds, Interval, point
from gradc.ir.ops.registry import (
    ByIndex,
    OpDef,
    Sample,
    TypeRuleError,
    register,
    zero_jvp,
    zero_vjp,
)
from gradc.ir.ops.traits import Moves, Traits
from gradc.ir.ops.view import check_axes
from gradc.ir.tensor.core import Attrs, DType, Op, TensorType, Value

if TYPE_CHECKING:
    from gradc.ir.ops.builder import Builder

SOURCE = Traits(moves=Moves.SOURCE, cost="free", is_silent=True)


def _infer_constant(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    if types:
        raise TypeRuleError(f"constant: takes no operands, got {len(types)}")
    dtype, value = get_dtype(attributes), get_number(attributes, "value")
    if dtype is not DType.BOOL and isinstance(value, bool):
        raise TypeRuleError(f"constant: {value} is not a number of type {dtype}")
    if not dtype.is_float and isinstance(value, float):
        raise TypeRuleError(f"constant: {value!r} is not of type {dtype}")
    return (TensorType(get_dims(attributes, "shape"), dtype),)


def _constant_interval(_bounds: Bounds, op: Op) -> Interval:
    return point(float(get_number(op.attributes, "value")))


register(
    OpDef(
        "constant",
        "a tensor all of whose elements are `value`",
        _infer_constant,
        lambda arrays, op, _: (
            arrays.full(op.attributes["value"], op.result.type.static_shape, op.result.type.dtype),
        ),
        zero_jvp,
        zero_vjp,
        ByIndex(
            lambda k, op, index, read: k.const(
                get_number(op.attributes, "value"), op.result.type.dtype
            )
        ),
        (
            Sample((), {"value": 1.5, "dtype": DType.F64, "shape": (2, 3)}, ()),
            Sample((), {"value": -7, "dtype": DType.I32, "shape": ()}, ()),
            Sample((), {"value": True, "dtype": DType.BOOL, "shape": (0,)}, ()),
        ),
        traits=SOURCE,
        interval=_constant_interval,
        element=ElementRule(splat),
        formula=readings.constant,
        axes=AxisRule(
            lambda op: invented(op, range(op.result.type.rank)),
            "they are all the same",
            shortened("shape"),
        ),
    )
)


def _infer_iota(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    if types:
        raise TypeRuleError(f"iota: takes no operands, got {len(types)}")
    result = TensorType(get_dims(attributes, "shape"), get_dtype(attributes))
    if result.dtype is DType.BOOL:
        raise TypeRuleError(f"iota: cannot count in {result}")
    axis = get_int(attributes, "axis")
    check_axes("iota", (axis,), result)
    extent = result.shape[axis]
    if not result.dtype.is_float and isinstance(extent, int):
        bits = 8 * result.dtype.itemsize - (result.dtype is not DType.U32)
        if extent > 1 << bits:
            raise TypeRuleError(
                f"iota: counts to {extent - 1}, and {result.dtype} ends at {(1 << bits) - 1};"
                " i64 holds it"
            )
    return (result,)


def _iota_interval(_bounds: Bounds, op: Op) -> Interval:
    size = op.result.type.static_shape[get_int(op.attributes, "axis")]
    return Interval(0.0, float(max(size - 1, 0)), False, False)


def _iota_counted(
    b: Builder, op: Op, _operands: Sequence[Value], place: Place, first: Value, parts: int
) -> Value | None:
    """A part of the counted axis begins at its first position."""
    axis = get_int(op.attributes, "axis")
    if place != Place(axis):
        return None
    shape = op.result.type.static_shape
    shape = (*shape[:axis], shape[axis] // parts, *shape[axis + 1 :])
    own = b.one("iota", axis=axis, dtype=op.result.type.dtype, shape=shape)
    start = b.cast(first, own.type.dtype)
    return b.one("add", own, b.one("broadcast", start, shape=shape, dims=()))


register(
    OpDef(
        "iota",
        "the index along `axis`",
        _infer_iota,
        lambda arrays, op, _: (
            arrays.iota(op.attributes["axis"], op.result.type.static_shape, op.result.type.dtype),
        ),
        zero_jvp,
        zero_vjp,
        ByIndex(
            lambda k, op, index, read: k.number(
                index[get_int(op.attributes, "axis")], op.result.type.dtype
            )
        ),
        (
            Sample((), {"axis": 1, "dtype": DType.I32, "shape": (2, 3)}, ()),
            Sample((), {"axis": 0, "dtype": DType.F64, "shape": (4,)}, ()),
        ),
        traits=SOURCE,
        interval=_iota_interval,
        without={"element": "an index is no element of a tensor"},
        axes=AxisRule(
            lambda op: invented(
                op, (a for a in range(op.result.type.rank) if a != op.attributes["axis"])
            ),
            "their positions are used",
            shortened("shape"),
            counted=_iota_counted,
        ),
    )
)
