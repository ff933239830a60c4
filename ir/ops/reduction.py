"""Reductions: sum, reduce_max, reduce_min, prod, argmax, and the running sum (max and min are the
verbs of two operands).

Over no elements, sum is 0, prod 1, max -inf and min +inf (the least and greatest integer); argmax
refuses. Ties of max and min share the cotangent with total weight 1. The derivative of prod
multiplies the other factors, found by a product tree, and never divides, so zeros are no exception
and it can be differentiated again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradc.ir.loop.kernel import Affine
from gradc.ir.ops import stacks
from gradc.ir.ops.attributes import get_bool, get_int, get_ints
from gradc.ir.ops.axes import AxisRule, Link, Place, kept, no_links, sizes
from gradc.ir.ops.index import readings
from gradc.ir.ops.index import reduction as elements
from gradc.ir.ops.index.element import ElementRule
from gradc.ir.ops.index.formula import FormulaRule
from gradc.ir.ops.interval import (
    INF,
    Bounds,
    Interval,
    IntervalRule,
    handed_on,
    point,
    sums_of,
    total,
    unrelated,
)
from gradc.ir.ops.registry import (
    JvpRule,
    Nest,
    OpDef,
    Reduction,
    Sample,
    TypeRuleError,
    VjpRule,
    register,
    zero_jvp,
    zero_vjp,
)
from gradc.ir.ops.structural import slice_axis
from gradc.ir.ops.traits import ALL, PLAIN, Traits
from gradc.ir.ops.view import check_axes, one_operand, sample
from gradc.ir.tensor.core import Attrs, DType, Op, TensorType, Value
from gradc.ir.tensor.dims import Dim, product

if TYPE_CHECKING:
    from gradc.ir.loop.nest import NestContext
    from gradc.ir.ops.builder import Builder


def _infer_reduction(
    name: str,
) -> Callable[[Sequence[TensorType], Attrs], tuple[TensorType, ...]]:
    def infer(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
        operand, axes = one_operand(name, types), get_ints(attributes, "axes")
        check_axes(name, axes, operand)
        if operand.dtype is DType.BOOL:
            raise TypeRuleError(f"{name}: takes numbers, not {operand}")
        kept = tuple(d for axis, d in enumerate(operand.shape) if axis not in axes)
        return (operand.with_shape(kept),)

    return infer


def reduced_axes(op: Op) -> tuple[int, ...]:
    """The axes that a reduction removes, sorted."""
    return tuple(sorted(get_ints(op.attributes, "axes")))


def spread(b: Builder, x: Value, axes: Sequence[int], shape: tuple[Dim, ...]) -> Value:
    """``x`` broadcast to ``shape`` along ``axes``: the transpose of a sum over them."""
    if not axes:
        return x
    dims = tuple(axis for axis in range(len(shape)) if axis not in axes)
    return b.one("broadcast", x, shape=shape, dims=dims)


def _kept_links(op: Op, axes: Sequence[int]) -> tuple[Link, ...]:
    """The axes that are not reduced, by their places in the operand and in the result."""
    shape = sizes(op.operands[0])
    left = [axis for axis in range(len(shape)) if axis not in axes]
    return tuple(Link(shape[axis], (Place(axis),), Place(i)) for i, axis in enumerate(left))


def _reduction_links(op: Op) -> tuple[Link, ...]:
    """The kept axes."""
    return _kept_links(op, get_ints(op.attributes, "axes"))


def _reduced_links(op: Op) -> tuple[Link, ...]:
    """The axes that are reduced."""
    shape = sizes(op.operands[0])
    axes = get_ints(op.attributes, "axes")
    return tuple(Link(shape[axis], (Place(axis),), None) for axis in axes)


def _sum_links(op: Op) -> tuple[Link, ...]:
    """The kept axes, and those that are summed too."""
    return (*_reduction_links(op), *_reduced_links(op))


def _reduction(
    name: str,
    doc: str,
    combine: str,
    jvp: JvpRule,
    vjp: VjpRule,
    masks: bool = False,
    traits: Traits = PLAIN,
    interval: IntervalRule | None = None,
    element: ElementRule | None = None,
    formula: FormulaRule | None = None,
) -> OpDef:
    return register(
        OpDef(
            name,
            doc,
            _infer_reduction(name),
            lambda arrays, op, operands: (
                arrays.reduce(combine, operands[0], op.attributes["axes"], op.result.type.dtype),
            ),
            jvp,
            vjp,
            Reduction(combine),
            (
                sample((2, 3), axes=(1,)),
                sample((2, 3), axes=(0, 1)),
                sample((2, 5, 2), axes=(1,)),
                sample((2, 3), axes=()),
                sample((), axes=()),
            ),
            masks=masks,
            traits=replace(traits, batched=stacks.over_axes),
            interval=interval,
            element=element,
            formula=formula,
            axes=AxisRule(
                _sum_links if combine == "add" else _reduction_links,
                "they are combined in a way that is not a sum",
                folded=no_links if combine == "add" else _reduced_links,
                by=combine,
            ),
        )
    )


# --- sum ------------------------------------------------------------------------------------------


def _sum_jvp(b: Builder, op: Op, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    (tangent,) = tangents
    return (None if tangent is None else b.same(op, tangent),)


def _sum_vjp(
    b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
) -> Sequence[Value | None]:
    (ct,) = cts
    if ct is None or not needed[0]:
        return (None,)
    return (spread(b, ct, get_ints(op.attributes, "axes"), op.operands[0].type.shape),)


def _sum_interval(bounds: Bounds, op: Op) -> Interval:
    """As many terms as the axes have; a term that is the greatest possible along them counts."""
    x, axes = bounds.of(0), reduced_axes(op)
    count = float(math.prod(op.operands[0].type.static_shape[axis] for axis in axes))
    if count == 0:
        return point(0.0)
    found = total(x, count)
    if x.low >= 0 and x.peak and x.peak <= frozenset(axes) and x.high >= found.low:
        return replace(found, low=max(found.low, x.high), low_open=False)
    return found


def _prod_interval(bounds: Bounds, op: Op) -> Interval:
    """Of factors up to m in magnitude: up to m ** count, or 1 where all are smaller."""
    x = bounds.of(0)
    count = math.prod(op.operands[0].type.static_shape[axis] for axis in reduced_axes(op))
    most = max(abs(x.low), abs(x.high), 1.0)
    try:
        high = most**count
    except OverflowError:
        high = INF
    is_open = high == INF
    return Interval(0.0 if x.low >= 0 else -high, high, is_open and x.low < 0, is_open, x.faults)


_reduction(
    "sum",
    "the sum over `axes`",
    "add",
    _sum_jvp,
    _sum_vjp,
    traits=Traits(linear=ALL),
    interval=_sum_interval,
    element=ElementRule(elements.sum),
    formula=readings.sum,
)

# --- max and min ----------------------------------------------------------------------------------


def _winners(b: Builder, op: Op) -> tuple[Value, Value]:
    """Where the extremum is attained, and how often (in the result's shape)."""
    axes = get_ints(op.attributes, "axes")
    x = op.operands[0]
    mask = b.one("eq", x, spread(b, op.result, axes, x.type.shape))
    count = b.one("sum", b.one("cast", mask, dtype=x.type.dtype), axes=axes)
    return mask, count


def _extremum_jvp(b: Builder, op: Op, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    (tangent,) = tangents
    if tangent is None:
        return (None,)
    mask, count = _winners(b, op)
    zero = b.constant(0.0, tangent.type.dtype, tangent.type.shape)
    total = b.one("sum", b.one("select", mask, tangent, zero), axes=get_ints(op.attributes, "axes"))
    return (b.one("div", total, count),)


def _extremum_vjp(
    b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
) -> Sequence[Value | None]:
    (ct,) = cts
    if ct is None or not needed[0]:
        return (None,)
    mask, count = _winners(b, op)
    shape = op.operands[0].type.shape
    share = spread(b, b.one("div", ct, count), get_ints(op.attributes, "axes"), shape)
    return (b.one("select", mask, share, b.constant(0.0, ct.type.dtype, shape)),)


_reduction(
    "reduce_max",
    "the greatest over `axes`; NaN if any is",
    "max",
    _extremum_jvp,
    _extremum_vjp,
    True,
    Traits(picks="greatest", word="max"),
    interval=handed_on,
    element=ElementRule(law=elements.extremum_of_axes),
)
_reduction(
    "reduce_min",
    "the least over `axes`; NaN if any is",
    "min",
    _extremum_jvp,
    _extremum_vjp,
    True,
    Traits(picks="least", word="min"),
    interval=handed_on,
    element=ElementRule(law=elements.extremum_of_axes),
)

# --- prod -----------------------------------------------------------------------------------------


def _others(b: Builder, op: Op) -> Value:
    """At each element of the operand, the product of all the other elements that it is multiplied
    with.

    A product tree: upwards, products of pairs; downwards, each node's outside product is its
    parent's times its sibling. Logarithmic depth, no division.
    """
    x, axes = op.operands[0], get_ints(op.attributes, "axes")
    kept = tuple(axis for axis in range(x.type.rank) if axis not in axes)
    perm = (*kept, *axes)
    outer = tuple(x.type.shape[axis] for axis in kept)
    count = product(tuple(x.type.shape[axis] for axis in axes))
    if not isinstance(count, int):
        raise TypeRuleError(f"prod: differentiating needs bound dimensions, not {x.type}")
    ordered = b.one("transpose", x, perm=perm)
    flat = _outside(b, b.one("reshape", ordered, shape=(*outer, count)), count)
    back = b.one("reshape", flat, shape=ordered.type.shape)
    return b.one("transpose", back, perm=tuple(perm.index(axis) for axis in range(len(perm))))


def _outside(b: Builder, level: Value, count: int) -> Value:
    outer, dtype = level.type.shape[:-1], level.type.dtype
    levels: list[tuple[Value, Value, bool]] = []
    while count > 1:
        is_odd = count % 2 == 1
        even, odd = halves(b, level, (count + 1) // 2, is_odd)
        levels.append((even, odd, is_odd))
        level, count = b.one("mul", even, odd), (count + 1) // 2
    outside = b.constant(1.0, dtype, (*outer, count))
    for even, odd, is_odd in reversed(levels):
        outside = joined(b, outside, even, odd, is_odd)
    return outside


def halves(b: Builder, level: Value, pairs: Dim, is_odd: bool) -> tuple[Value, Value]:
    """The first and the second factor of each of ``pairs`` pairs of the last axis; a missing last
    one is 1.
    """
    axis = level.type.rank - 1
    if is_odd:
        one = b.constant(1.0, level.type.dtype, (*level.type.shape[:-1], 1))
        level = b.one("concat", level, one, axis=axis)
    return (
        slice_axis(b, level, axis, 0, 2 * pairs, 2),
        slice_axis(b, level, axis, 1, 2 * pairs, 2),
    )


def joined(b: Builder, outside: Value, even: Value, odd: Value, is_odd: bool) -> Value:
    """What is outside each factor: what is outside its pair, times its sibling."""
    axis = even.type.rank - 1
    outer, pairs = even.type.shape[:-1], even.type.shape[-1]
    sides = [
        b.one("reshape", b.one("mul", outside, sibling), shape=(*sibling.type.shape, 1))
        for sibling in (odd, even)
    ]
    merged = b.one("concat", *sides, axis=axis + 1)
    flat = b.one("reshape", merged, shape=(*outer, 2 * pairs))
    return slice_axis(b, flat, axis, 0, 2 * pairs - 1) if is_odd else flat


def _prod_jvp(b: Builder, op: Op, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    (tangent,) = tangents
    if tangent is None:
        return (None,)
    return (
        b.one("sum", b.one("mul", tangent, _others(b, op)), axes=get_ints(op.attributes, "axes")),
    )


def _prod_vjp(
    b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
) -> Sequence[Value | None]:
    (ct,) = cts
    if ct is None or not needed[0]:
        return (None,)
    wide = spread(b, ct, get_ints(op.attributes, "axes"), op.operands[0].type.shape)
    return (b.one("mul", wide, _others(b, op)),)


_reduction(
    "prod",
    "the product over `axes`",
    "mul",
    _prod_jvp,
    _prod_vjp,
    interval=_prod_interval,
    element=ElementRule(
        elements.prod, elements.fit_prod, otherwise="too many factors to be written out"
    ),
)

# --- argmax ---------------------------------------------------------------------------------------


def _infer_argmax(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    operand, axis = one_operand("argmax", types), get_int(attributes, "axis")
    check_axes("argmax", (axis,), operand)
    if operand.dtype is DType.BOOL:
        raise TypeRuleError(f"argmax: takes numbers, not {operand}")
    if operand.shape[axis] == 0:
        raise TypeRuleError(f"argmax: axis {axis} of {operand} is empty")
    kept = (*operand.shape[:axis], *operand.shape[axis + 1 :])
    return (TensorType(kept, DType.I32),)


def _argmax_nest(nest: NestContext, op: Op) -> None:
    """Two folds per row: the greatest value, then the least index that attains it. A NaN counts as
    greatest.
    """
    k, axis = nest.k, get_int(op.attributes, "axis")
    shape = op.operands[0].type.static_shape
    dtype = op.operands[0].type.dtype
    with nest.parallel((*shape[:axis], *shape[axis + 1 :])) as outer:

        def element(i: Affine) -> Any:
            return nest.read(0, [*outer[:axis], i, *outer[axis:]])

        with nest.loop(shape[axis], "serial") as scan:
            best = scan.fold("max", element(scan.at))
        with nest.loop(shape[axis], "serial") as search:
            value = element(search.at)
            hit = k.eq(value, best)
            if dtype.is_float:
                both_nan = k.logical_and(k.ne(value, value), k.ne(best, best))
                hit = k.logical_or(hit, both_nan)
            here = k.number(search.at, DType.I32)
            first = search.fold("min", k.select(hit, here, k.const(shape[axis], DType.I32)))
        nest.write(outer, first)


register(
    OpDef(
        "argmax",
        "the index (i32) of the greatest along `axis`, the first of ties; NaN counts as greatest",
        _infer_argmax,
        lambda arrays, op, operands: (arrays.argmax(operands[0], op.attributes["axis"]),),
        zero_jvp,
        zero_vjp,
        Nest(_argmax_nest, lambda op: 0),
        (sample((2, 3), axis=1), sample((4,), axis=0), sample((2, 1, 3), axis=1)),
        traits=Traits(batched=stacks.along_axis),
        interval=unrelated,
        without={
            "element": "the place of the greatest is no polynomial of elements",
            "symbols": "which symbol is the greatest is not known",
        },
        axes=AxisRule(
            lambda op: _kept_links(op, [get_int(op.attributes, "axis")]),
            "they are compared with each other",
        ),
    )
)

# --- cumsum ---------------------------------------------------------------------------------------


def _infer_cumsum(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    operand = one_operand("cumsum", types)
    check_axes("cumsum", (get_int(attributes, "axis"),), operand)
    get_bool(attributes, "reverse", False)
    if operand.dtype is DType.BOOL:
        raise TypeRuleError(f"cumsum: takes numbers, not {operand}")
    return (operand,)


def _cumsum_jvp(b: Builder, op: Op, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    (tangent,) = tangents
    return (None if tangent is None else b.same(op, tangent),)


def _cumsum_vjp(
    b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
) -> Sequence[Value | None]:
    (ct,) = cts
    if ct is None or not needed[0]:
        return (None,)
    is_reverse = get_bool(op.attributes, "reverse", False)
    axis = get_int(op.attributes, "axis")
    return (b.one("cumsum", ct, axis=axis, reverse=not is_reverse),)


def _cumsum_nest(nest: NestContext, op: Op) -> None:
    """Some of the inner axes, as a row of accumulators, walk along the axis.

    A running sum cannot be a tree without steps down where a leaf ends, so floats are added up in
    f64.
    """
    k, axis = nest.k, get_int(op.attributes, "axis")
    shape, dtype = op.result.type.static_shape, op.result.type.dtype
    wide = DType.F64 if dtype.is_float else dtype
    inner = shape[axis + 1 :]
    extent = math.prod(inner)
    width = nest.schedule.row(extent, wide.itemsize)
    sums = nest.scratch(min(width, extent), wide)
    with nest.parallel((*shape[:axis], -(-extent // width))) as (*outer, block):
        first = block * width
        limit = first * -1 + extent if extent % width else None
        with nest.loop(sums.size, "vector", limit) as column:
            nest.store(sums, column.at, k.const(0, wide))
        with (
            nest.loop(shape[axis], "serial") as row,
            nest.loop(sums.size, "vector", limit) as column,
        ):
            position = row.at
            if get_bool(op.attributes, "reverse", False):
                position = position * -1 + (shape[axis] - 1)
            index = [*outer, position, *k.unflatten(first + column.at, inner)]
            total = k.add(nest.load(sums, column.at), k.cast(nest.read(0, index), wide))
            nest.store(sums, column.at, total)
            nest.write(index, k.cast(total, dtype))


register(
    OpDef(
        "cumsum",
        "running sums along `axis`, from the end if `reverse`",
        _infer_cumsum,
        lambda arrays, op, operands: (
            arrays.cumsum(operands[0], op.attributes["axis"], op.attributes.get("reverse", False)),
        ),
        _cumsum_jvp,
        _cumsum_vjp,
        Nest(_cumsum_nest, lambda op: math.prod(op.result.type.static_shape)),
        (
            Sample((TensorType((2, 3), DType.F64),), {"axis": 1, "reverse": False}, ((-2.0, 2.0),)),
            sample((2, 3, 2), axis=1, reverse=True),
            sample((0, 2), axis=0, reverse=False),
        ),
        traits=Traits(linear=ALL, batched=stacks.along_axis),
        interval=sums_of(0, lambda op: op.result.type.static_shape[get_int(op.attributes, "axis")]),
        element=ElementRule(elements.cumsum),
        axes=AxisRule(
            lambda op: kept(op, [get_int(op.attributes, "axis")]), "they are added up one by one"
        ),
    )
)
