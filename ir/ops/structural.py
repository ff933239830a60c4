"""Structural ops: the views that move elements without computing.

All views are linear, so each JVP is the op itself and each VJP the transposed movement. Loop forms
are ``ByIndex``: an element of the result is one element of an operand (or zero, in padding). Shapes
may be symbolic; what symbols cannot decide is checked again when dimensions are bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from gradc.ir.loop.kernel import Affine, Const, Scalar, row_major_offset
from gradc.ir.ops.attributes import get_dims, get_int, get_ints
from gradc.ir.ops.axes import AxisRule, Link, Place, in_blocks, kept, regrouped, shortened, sizes
from gradc.ir.ops.index import structural as elements
from gradc.ir.ops.index.element import ElementRule
from gradc.ir.ops.interval import Bounds, Interval, hull
from gradc.ir.ops.registry import (
    ByIndex,
    OpDef,
    Read,
    Sample,
    TypeRuleError,
    register,
)
from gradc.ir.ops.traits import ALL, Moves, Traits
from gradc.ir.tensor.core import Attr, Attrs, DType, Op, TensorType, Value
from gradc.ir.tensor.dims import Dim, floordiv

if TYPE_CHECKING:
    from gradc.ir.loop.builder import IndexAlgebra
    from gradc.ir.ops.builder import Builder

from gradc.ir.ops.view import Position, check_axes, moving, sample, view

_ANY = (-2.0, 2.0)

# --- broadcast ------------------------------------------------------------------------------------


def _infer_broadcast(operand: TensorType, attributes: Attrs) -> tuple[Dim, ...]:
    shape, dims = get_dims(attributes, "shape"), get_ints(attributes, "dims")
    target = operand.with_shape(shape)
    if len(dims) != operand.rank:
        raise TypeRuleError(f"broadcast: dims {dims} do not name every axis of {operand}")
    check_axes("broadcast", dims, target)
    if list(dims) != sorted(dims):
        raise TypeRuleError(f"broadcast: dims {dims} are not in order, {operand} to {target}")
    for size, axis in zip(operand.shape, dims, strict=True):
        if size not in (1, shape[axis]):
            raise TypeRuleError(
                f"broadcast: size {size} does not stretch to {shape[axis]}, {operand} to {target}"
            )
    return shape


def _transpose_broadcast(b: Builder, op: Op, ct: Value) -> Value:
    operand = op.operands[0].type
    dims = get_ints(op.attributes, "dims")
    kept = {
        axis for axis, size in zip(dims, operand.shape, strict=True) if size == ct.type.shape[axis]
    }
    axes = tuple(axis for axis in range(ct.type.rank) if axis not in kept)
    if axes:
        ct = b.one("sum", ct, axes=axes)
    return ct if ct.type.shape == operand.shape else b.one("reshape", ct, shape=operand.shape)


def _broadcast_element(k: IndexAlgebra, op: Op, index: Position, read: Read) -> Scalar:
    sizes = op.operands[0].type.shape
    dims = get_ints(op.attributes, "dims")
    return read(0, [Affine() if n == 1 else index[d] for n, d in zip(sizes, dims, strict=True)])


def _broadcast_links(op: Op) -> tuple[Link, ...]:
    """Axes of equal size go through; stretched ones and new ones have equal positions."""
    shape, dims = sizes(op.result), get_ints(op.attributes, "dims")
    own = {a: i for i, a in enumerate(dims) if sizes(op.operands[0])[i] == shape[a]}
    return tuple(
        Link(size, (Place(own[axis]) if axis in own else None,), Place(axis))
        for axis, size in enumerate(shape)
    )


view(
    "broadcast",
    "operand axis i lies at result axis dims[i]; sizes are equal or 1",
    _infer_broadcast,
    lambda arrays, op, x: arrays.broadcast(x, op.result.type.static_shape, op.attributes["dims"]),
    _transpose_broadcast,
    _broadcast_element,
    (
        sample((3,), shape=(2, 3), dims=(1,)),
        sample((), shape=(2, 3), dims=()),
        sample((2, 1), shape=(2, 4, 3), dims=(0, 2)),
        sample((1, 2), shape=(0, 2), dims=(0, 1)),
        sample((2,), shape=(2, 1), dims=(0,)),
    ),
    AxisRule(_broadcast_links, "they are repeated", shortened("shape")),
    moving(
        Moves.REPEATS,
        lambda a, n: {
            "shape": (n, *get_dims(a, "shape")),
            "dims": (0, *(axis + 1 for axis in get_ints(a, "dims"))),
        },
        is_silent=True,
    ),
    ElementRule(elements.broadcast, elements.fit_broadcast),
)

# --- reshape --------------------------------------------------------------------------------------


def _infer_reshape(operand: TensorType, attributes: Attrs) -> tuple[Dim, ...]:
    result = operand.with_shape(get_dims(attributes, "shape"))
    if result.size != operand.size:
        raise TypeRuleError(
            f"reshape: sizes differ, {operand} has {operand.size} elements and {result} "
            f"{result.size}"
        )
    return result.shape


view(
    "reshape",
    "the same elements in row-major order in another shape",
    _infer_reshape,
    lambda arrays, op, x: arrays.reshape(x, op.result.type.static_shape),
    lambda b, op, ct: b.one("reshape", ct, shape=op.operands[0].type.shape),
    lambda k, op, index, read: read(
        0,
        k.unflatten(
            row_major_offset(index, op.result.type.static_shape),
            op.operands[0].type.static_shape,
        ),
    ),
    (
        sample((2, 6), shape=(3, 4)),
        sample((2, 3), shape=(6,)),
        sample((1, 1), shape=()),
        sample((0, 3), shape=(3, 0, 2)),
        sample((4, 6), shape=(4, 2, 3, 1)),
    ),
    AxisRule(
        lambda op: regrouped(sizes(op.operands[0]), sizes(op.result)),
        "their elements are dealt to other rows",
        shortened("shape"),
    ),
    moving(Moves.PERMUTES, lambda a, n: {"shape": (n, *get_dims(a, "shape"))}, is_silent=True),
    ElementRule(
        elements.reshape, elements.fit_reshape, otherwise="a general reshape is taken at its sizes"
    ),
)

# --- transpose ------------------------------------------------------------------------------------


def _infer_transpose(operand: TensorType, attributes: Attrs) -> tuple[Dim, ...]:
    perm = get_ints(attributes, "perm")
    if sorted(perm) != list(range(operand.rank)):
        raise TypeRuleError(f"transpose: {perm} is not a permutation of the axes of {operand}")
    return tuple(operand.shape[axis] for axis in perm)


def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes ``perm``."""
    return tuple(sorted(range(len(perm)), key=lambda i: perm[i]))


def _transpose_links(op: Op) -> tuple[Link, ...]:
    perm = get_ints(op.attributes, "perm")
    return tuple(
        Link(size, (Place(axis),), Place(i))
        for i, (axis, size) in enumerate(zip(perm, sizes(op.result), strict=True))
    )


view(
    "transpose",
    "result axis i is operand axis perm[i]",
    _infer_transpose,
    lambda arrays, op, x: arrays.transpose(x, op.attributes["perm"]),
    lambda b, op, ct: b.one("transpose", ct, perm=inverse(get_ints(op.attributes, "perm"))),
    lambda k, op, index, read: read(
        0, [index[axis] for axis in inverse(get_ints(op.attributes, "perm"))]
    ),
    (
        sample((2, 3), perm=(1, 0)),
        sample((2, 3, 4), perm=(2, 0, 1)),
        sample((), perm=()),
        sample((0, 2), perm=(1, 0)),
    ),
    AxisRule(_transpose_links, "their axes change places"),
    moving(
        Moves.PERMUTES,
        lambda a, n: {"perm": (0, *(axis + 1 for axis in get_ints(a, "perm")))},
        is_silent=True,
    ),
    ElementRule(elements.transpose),
)

# --- slice and pad --------------------------------------------------------------------------------


def _infer_slice(operand: TensorType, attributes: Attrs) -> tuple[Dim, ...]:
    starts, limits = get_dims(attributes, "start"), get_dims(attributes, "limit")
    strides = get_ints(attributes, "stride")
    if not len(starts) == len(limits) == len(strides) == operand.rank:
        raise TypeRuleError(
            f"slice: start, limit and stride must have one entry per axis of {operand}"
        )
    sizes: list[Dim] = []
    for size, start, limit, stride in zip(operand.shape, starts, limits, strides, strict=True):
        if stride < 1:
            raise TypeRuleError(f"slice: stride {stride} is not positive, in {operand}")
        if not (_is_ordered(0, start) and _is_ordered(start, limit) and _is_ordered(limit, size)):
            raise TypeRuleError(
                f"slice: {start}:{limit} is outside a dimension of {size}, in {operand}"
            )
        sizes.append(floordiv(limit - start + (stride - 1), stride))
    return tuple(sizes)


def _is_ordered(low: Dim, high: Dim) -> bool:
    """False if ``low > high`` is certain; symbols get the benefit of the doubt."""
    gap = high - low
    return not isinstance(gap, int) or gap >= 0


def _transpose_slice(b: Builder, op: Op, ct: Value) -> Value | None:
    low, high, interior = [], [], []
    rows = zip(
        op.operands[0].type.shape,
        ct.type.shape,
        get_dims(op.attributes, "start"),
        get_ints(op.attributes, "stride"),
        strict=True,
    )
    for size, taken, start, stride in rows:
        if taken == 0:
            return None  # nothing was read: the cotangent is zero
        low.append(start)
        interior.append(stride - 1)
        high.append(size - start - (taken - 1) * stride - 1)
    return b.one("pad", ct, low=tuple(low), high=tuple(high), interior=tuple(interior))


def _slice_element(k: IndexAlgebra, op: Op, index: Position, read: Read) -> Scalar:
    starts, strides = get_ints(op.attributes, "start"), get_ints(op.attributes, "stride")
    return read(0, [i * n + s for i, s, n in zip(index, starts, strides, strict=True)])


def _slice_links(op: Op) -> tuple[Link, ...]:
    """Axes that are taken whole, or by blocks."""
    starts, strides = get_ints(op.attributes, "start"), get_ints(op.attributes, "stride")
    shape, after = sizes(op.operands[0]), sizes(op.result)
    rows = enumerate(zip(starts, strides, shape, after, strict=True))
    cut = [i for i, (s, step, n, m) in rows if s or step != 1 or n != m]
    blocks = [in_blocks(i, shape[i : i + 1], starts[i], after[i]) for i in cut if strides[i] == 1]
    return (*kept(op, cut), *filter(None, blocks))


def _fewer(*names: str) -> Callable[[Op, Link, int], Attrs]:
    """The attributes of a part, where those called ``names`` count positions of each axis."""

    def part(op: Op, link: Link, parts: int) -> Attrs:
        assert link.result is not None, "every link of a view is in the result"
        found: dict[str, Attr] = dict(op.attributes)
        for name in names:
            counts = list(get_ints(op.attributes, name))
            counts[link.result.axis] //= parts
            found[name] = tuple(counts)
        return found

    return part


view(
    "slice",
    "the elements start, start + stride, ... before limit along each axis",
    _infer_slice,
    lambda arrays, op, x: arrays.slice(
        x, op.attributes["start"], op.attributes["limit"], op.attributes["stride"]
    ),
    _transpose_slice,
    _slice_element,
    (
        sample((5,), start=(1,), limit=(4,), stride=(1,)),
        sample((2, 7), start=(0, 1), limit=(2, 7), stride=(1, 3)),
        sample((4, 3), start=(0, 1), limit=(4, 1), stride=(1, 1)),
        sample((6,), start=(0,), limit=(5,), stride=(4,)),
        sample((2, 12), start=(0, 4), limit=(2, 8), stride=(1, 1)),
    ),
    AxisRule(_slice_links, "some are left out and the others shifted", _fewer("start", "limit")),
    moving(
        Moves.SELECTS,
        lambda a, n: {
            "start": (0, *get_dims(a, "start")),
            "limit": (n, *get_dims(a, "limit")),
            "stride": (1, *get_ints(a, "stride")),
        },
    ),
    ElementRule(elements.slice, elements.fit_slice),
)


def _infer_pad(operand: TensorType, attributes: Attrs) -> tuple[Dim, ...]:
    lows, highs = get_dims(attributes, "low"), get_dims(attributes, "high")
    interiors = get_ints(attributes, "interior")
    if not len(lows) == len(highs) == len(interiors) == operand.rank:
        raise TypeRuleError(
            f"pad: low, high and interior must have one entry per axis of {operand}"
        )
    sizes: list[Dim] = []
    for size, low, high, interior in zip(operand.shape, lows, highs, interiors, strict=True):
        if interior < 0 or not (_is_ordered(0, low) and _is_ordered(0, high)):
            raise TypeRuleError(f"pad: {(low, high, interior)} is negative, for {operand}")
        gaps: Dim = 0 if size == 0 else (size - 1) * interior
        sizes.append(low + size + gaps + high)
    return tuple(sizes)


def _transpose_pad(b: Builder, op: Op, ct: Value) -> Value:
    lows, interiors = get_dims(op.attributes, "low"), get_ints(op.attributes, "interior")
    limits: list[Dim] = []
    for size, low, interior in zip(op.operands[0].type.shape, lows, interiors, strict=True):
        limits.append(low if size == 0 else low + (size - 1) * (interior + 1) + 1)
    strides = tuple(interior + 1 for interior in interiors)
    return b.one("slice", ct, start=lows, limit=tuple(limits), stride=strides)


def _pad_element(k: IndexAlgebra, op: Op, index: Position, read: Read) -> Scalar:
    operand = op.operands[0].type
    lows, interiors = get_ints(op.attributes, "low"), get_ints(op.attributes, "interior")
    inside: list[Scalar] = []
    position: list[Affine] = []
    for i, low, interior, size in zip(index, lows, interiors, operand.static_shape, strict=True):
        shifted = i + (-low)
        if interior:
            # Only every (interior + 1)-th place holds an element.
            shifted, rest = k.divmod(shifted, interior + 1)
            inside.append(k.inside(rest, 1))
        inside.append(k.inside(shifted, size))
        position.append(shifted)
    return k.guarded(k.both(*inside), lambda: read(0, position))


def _pad_links(op: Op) -> tuple[Link, ...]:
    """Axes that nothing is added to, or whole blocks."""
    low, interior = (get_ints(op.attributes, name) for name in ("low", "interior"))
    shape, after = sizes(op.operands[0]), sizes(op.result)
    grown = [i for i, n in enumerate(shape) if n != after[i]]
    blocks = [in_blocks(i, shape[i : i + 1], low[i], after[i]) for i in grown if not interior[i]]
    return (*kept(op, grown), *filter(None, blocks))


view(
    "pad",
    "x with zeros around (low, high) and between its elements (interior)",
    _infer_pad,
    lambda arrays, op, x: arrays.pad(
        x, op.attributes["low"], op.attributes["high"], op.attributes["interior"]
    ),
    _transpose_pad,
    _pad_element,
    (
        sample((3,), low=(1,), high=(2,), interior=(0,)),
        sample((2, 3), low=(0, 2), high=(1, 0), interior=(2, 1)),
        sample((0, 2), low=(1, 0), high=(1, 1), interior=(3, 0)),
        sample((1,), low=(0,), high=(0,), interior=(4,)),
        sample((2, 3), low=(0, 1), high=(0, 2), interior=(0, 0)),
        sample((4, 2), low=(4, 0), high=(8, 0), interior=(0, 0)),
    ),
    AxisRule(_pad_links, "zeros are put between or beside them", _fewer("low", "high")),
    moving(
        Moves.PLACES,
        lambda a, n: {
            "low": (0, *get_dims(a, "low")),
            "high": (0, *get_dims(a, "high")),
            "interior": (0, *get_ints(a, "interior")),
        },
    ),
    ElementRule(elements.pad),
)

# --- concat and reverse ---------------------------------------------------------------------------


def _infer_concat(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    if not types:
        raise TypeRuleError("concat: takes at least 1 operand, got 0")
    axis, first = get_int(attributes, "axis"), types[0]
    check_axes("concat", (axis,), first)
    total: Dim = 0
    for other in types:
        same = other.dtype is first.dtype and other.rank == first.rank
        rest = [i for i in range(first.rank) if i != axis]
        if not same or any(other.shape[i] != first.shape[i] for i in rest):
            raise TypeRuleError(f"concat: operands differ off axis {axis}, {first} and {other}")
        total = total + other.shape[axis]
    return (first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :])),)


def _concat_jvp(b: Builder, op: Op, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    if all(tangent is None for tangent in tangents):
        return (None,)
    filled = [
        b.constant(0.0, x.type.dtype, x.type.shape) if tangent is None else tangent
        for tangent, x in zip(tangents, op.operands, strict=True)
    ]
    return (b.same(op, *filled),)


def _concat_vjp(
    b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
) -> Sequence[Value | None]:
    (ct,) = cts
    if ct is None:
        return (None,) * len(op.operands)
    axis = get_int(op.attributes, "axis")
    found: list[Value | None] = []
    position: Dim = 0
    for x, wanted in zip(op.operands, needed, strict=True):
        end = position + x.type.shape[axis]
        found.append(slice_axis(b, ct, axis, position, end) if wanted else None)
        position = end
    return found


def slice_axis(b: Builder, x: Value, axis: int, start: Dim, limit: Dim, stride: int = 1) -> Value:
    """``x[start:limit:stride]`` along one axis."""
    starts: list[Dim] = [0] * x.type.rank
    limits, strides = list(x.type.shape), [1] * x.type.rank
    starts[axis], limits[axis], strides[axis] = start, limit, stride
    return b.one("slice", x, start=tuple(starts), limit=tuple(limits), stride=tuple(strides))


def row_of(b: Builder, x: Value, number: int) -> Value:
    """``x[number]``."""
    cut = slice_axis(b, x, 0, number, number + 1)
    return b.one("reshape", cut, shape=x.type.shape[1:])


def _any_operand(bounds: Bounds, op: Op) -> Interval:
    found = bounds.of(0)
    for number in range(1, len(op.operands)):
        found = hull(found, bounds.of(number))
    return replace(found, peak=frozenset())


def _concat_element(k: IndexAlgebra, op: Op, index: Position, read: Read) -> Scalar:
    axis = get_int(op.attributes, "axis")
    dtype = op.result.type.dtype
    found: Scalar | None = None
    start = 0
    for number, x in enumerate(op.operands):
        size = x.type.static_shape[axis]
        if size == 0:
            continue
        local = [*index[:axis], index[axis] + (-start), *index[axis + 1 :]]
        start += size
        inside = k.inside(local[axis], size)
        if isinstance(inside, Const) and not inside.value:
            continue
        piece = k.guarded(inside, partial(read, number, local))
        is_sure = found is None or isinstance(inside, Const)
        found = piece if is_sure else k.select(inside, piece, found)
    return k.const(0, dtype) if found is None else found


def _concat_starts(op: Op) -> list[tuple[int, ...]]:
    axis, shape = get_int(op.attributes, "axis"), op.result.type.static_shape
    along = accumulate((x.type.static_shape[axis] for x in op.operands[:-1]), initial=0)
    return [tuple(n if a == axis else 0 for a in range(len(shape))) for n in along]


def _concat_links(op: Op) -> tuple[Link, ...]:
    axis = get_int(op.attributes, "axis")
    pieces = [sizes(x)[axis] for x in op.operands]
    blocks = in_blocks(axis, pieces, 0, sum(pieces))
    return (*kept(op, [axis]), *(() if blocks is None else (blocks,)))


register(
    OpDef(
        "concat",
        "the operands one after another along `axis`",
        _infer_concat,
        lambda arrays, op, operands: (arrays.concat(operands, op.attributes["axis"]),),
        _concat_jvp,
        _concat_vjp,
        ByIndex(_concat_element),
        (
            Sample(
                (TensorType((2, 3), DType.F64), TensorType((2, 1), DType.F64)),
                {"axis": 1},
                (_ANY, _ANY),
            ),
            Sample((TensorType((3,), DType.F64),), {"axis": 0}, (_ANY,)),
            Sample(
                (TensorType((2, 4), DType.F64), TensorType((2, 8), DType.F64)),
                {"axis": 1},
                (_ANY, _ANY),
            ),
            Sample(
                tuple(TensorType(s, DType.F64) for s in ((0, 2), (3, 2), (1, 2))),
                {"axis": 0},
                (_ANY, _ANY, _ANY),
            ),
        ),
        traits=Traits(
            moves=Moves.PLACES,
            linear=ALL,
            stacked=lambda a, n: {"axis": get_int(a, "axis") + 1},
            starts=_concat_starts,
        ),
        interval=_any_operand,
        element=ElementRule(elements.concat, elements.fit_concat),
        axes=AxisRule(_concat_links, "they are joined with others"),
    )
)


def _infer_reverse(operand: TensorType, attributes: Attrs) -> tuple[Dim, ...]:
    check_axes("reverse", get_ints(attributes, "axes"), operand)
    return operand.shape


def _reverse_element(k: IndexAlgebra, op: Op, index: Position, read: Read) -> Scalar:
    axes = get_ints(op.attributes, "axes")
    shape = op.result.type.static_shape
    flipped = [i * -1 + (shape[a] - 1) if a in axes else i for a, i in enumerate(index)]
    return read(0, flipped)


view(
    "reverse",
    "the elements in opposite order along `axes`",
    _infer_reverse,
    lambda arrays, op, x: arrays.reverse(x, op.attributes["axes"]),
    lambda b, op, ct: b.same(op, ct),
    _reverse_element,
    (sample((2, 3), axes=(1,)), sample((2, 3), axes=(0, 1)), sample((0,), axes=(0,))),
    AxisRule(lambda op: kept(op, get_ints(op.attributes, "axes")), "they are put in another order"),
    moving(Moves.PERMUTES, lambda a, n: {"axes": tuple(axis + 1 for axis in get_ints(a, "axes"))}),
    ElementRule(elements.reverse),
)
