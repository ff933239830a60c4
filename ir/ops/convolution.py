"""Convolution (cross-correlation) over one, two or three spatial axes, and its two transposes.

``conv2d(x, w)`` of NCHW images and OIHW filters is bilinear; with the trilinear form <ct, conv2d(x,
w)>, ``conv2d_input(ct, w)`` is its derivative with respect to x and ``conv2d_filter(x, ct)`` with
respect to w. The three are closed under differentiation: each one's transposes are the other two.
Output element (n, o, i, j) is the sum over c, p, q of x[n, c, i*stride + p*dilation - top, j*stride
+ q*dilation - left] * w[o, c, p, q], zeros outside, c in o's group. With one spatial axis or three
the same holds, index for index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from math import prod
from operator import add, ge
from typing import TYPE_CHECKING, Any

from gradc.ir.loop.order import CHAIN
from gradc.ir.ops.attributes import get_dims, get_int
from gradc.ir.ops.axes import AxisRule, Link, Place, sizes
from gradc.ir.ops.contraction import bilinear_jvp
from gradc.ir.ops.convolution_types import (
    Geometry,
    geometry,
    infer_convolution,
    infer_filter,
    infer_input,
)
from gradc.ir.ops.index import convolution as elements
from gradc.ir.ops.index.element import ElementRule
from gradc.ir.ops.interval import products_of
from gradc.ir.ops.products import Position, Products, SumOrder, at
from gradc.ir.ops.registry import OpDef, Sample, SumOfProducts, VjpRule, register
from gradc.ir.ops.traits import Traits
from gradc.ir.tensor.core import Attrs, DType, Op, TensorType, Value
from gradc.ir.tensor.dims import Dim

if TYPE_CHECKING:
    from gradc.ir.ops.builder import Builder


# --- evaluation, one contraction per tap ----------------------------------------------------------


def _met(g: Geometry, tap: tuple[int, ...], out: Sequence[int]) -> tuple[Any, Any, Any]:
    """start, limit, stride (spatial) of the padded input elements that one tap meets."""
    start = tuple(t * d for t, d in zip(tap, g.dilation, strict=True))
    limit = tuple(
        s + (n - 1) * step + 1 if n else s for s, n, step in zip(start, out, g.stride, strict=True)
    )
    return start, limit, g.stride


def _grouped(arrays: Any, x: Any, groups: int, axis: int) -> Any:
    shape = x.shape
    split = (*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
    return arrays.reshape(x, split)


def _padded(arrays: Any, x: Any, g: Geometry) -> Any:
    low, high = ((0, 0, *(pair[end] for pair in g.padding)) for end in (0, 1))
    return arrays.pad(x, low, high, (0,) * len(low))


def _tap_of_input(arrays: Any, grouped: Any, g: Geometry, tap: Any, out: Any) -> Any:
    start, limit, stride = _met(g, tap, out)
    n, groups, channels = grouped.shape[:3]
    return arrays.slice(
        grouped, (0, 0, 0, *start), (n, groups, channels, *limit), (1, 1, 1, *stride)
    )


def _tap_of_filter(arrays: Any, grouped: Any, tap: tuple[int, ...]) -> Any:
    groups, outputs, channels = grouped.shape[:3]
    limit = (groups, outputs, channels, *(place + 1 for place in tap))
    taken = arrays.slice(grouped, (0, 0, 0, *tap), limit, (1,) * len(limit))
    return arrays.reshape(taken, (groups, outputs, channels))


def _taps(shape: Sequence[int]) -> list[tuple[int, ...]]:
    return list(product(*map(range, shape)))


def _joined(arrays: Any, x: Any) -> Any:
    """(group, image, place..., channel) as (image, group, channel, place...)."""
    last = len(x.shape) - 1
    return arrays.transpose(x, (1, 0, last, *range(2, last)))


def _evaluate_convolution(arrays: Any, op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
    x, w = operands
    g, result = geometry(op.name, op.attributes), op.result.type
    n, o, *out = result.static_shape
    k = arrays.at(result.dtype)
    xs = _grouped(arrays, _padded(arrays, x, g), g.groups, 1)
    ws = _grouped(arrays, w, g.groups, 0)
    total = arrays.full(0.0, (g.groups, n, *out, o // g.groups), result.dtype)
    for tap in _taps(w.shape[2:]):
        taken, weights = _tap_of_input(arrays, xs, g, tap, out), _tap_of_filter(arrays, ws, tap)
        term = arrays.contract(taken, weights, ((1, 0),), ((2, 2),), result.dtype)
        total = k.add(total, term)
    return (arrays.reshape(_joined(arrays, total), result.static_shape),)


def _evaluate_input(arrays: Any, op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
    ct, w = operands
    g, result = geometry(op.name, op.attributes), op.result.type
    n, c, *size = result.static_shape
    out = ct.shape[2:]
    k = arrays.at(result.dtype)
    cts = _grouped(arrays, ct, g.groups, 1)
    ws = _grouped(arrays, w, g.groups, 0)
    whole = [s + low + high for s, (low, high) in zip(size, g.padding, strict=True)]
    total = arrays.full(0.0, (g.groups, n, *whole, c // g.groups), result.dtype)
    for tap in _taps(w.shape[2:]) if 0 not in out else []:
        weights = _tap_of_filter(arrays, ws, tap)
        term = arrays.contract(cts, weights, ((1, 0),), ((2, 1),), result.dtype)
        start, limit, stride = _met(g, tap, out)
        high = tuple(m - end for m, end in zip(whole, limit, strict=True))
        gaps = (0, 0, *(s - 1 for s in stride), 0)
        total = k.add(total, arrays.pad(term, (0, 0, *start, 0), (0, 0, *high, 0), gaps))
    low = tuple(pair[0] for pair in g.padding)
    limit = (g.groups, n, *map(add, low, size), c // g.groups)
    inner = arrays.slice(total, (0, 0, *low, 0), limit, (1,) * len(limit))
    return (arrays.reshape(_joined(arrays, inner), result.static_shape),)


def _evaluate_filter(arrays: Any, op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
    x, ct = operands
    g, result = geometry(op.name, op.attributes), op.result.type
    o, c, *size = result.static_shape
    xs = _grouped(arrays, _padded(arrays, x, g), g.groups, 1)
    cts = _grouped(arrays, ct, g.groups, 1)
    if 0 in size:
        return (arrays.full(0.0, result.static_shape, result.dtype),)
    columns = []
    for tap in _taps(size):
        taken = _tap_of_input(arrays, xs, g, tap, ct.shape[2:])
        inner = ((0, 0), *((3 + axis, 3 + axis) for axis in g.axes))
        term = arrays.contract(cts, taken, ((1, 1),), inner, result.dtype)
        columns.append(arrays.reshape(term, (o, c, 1)))
    return (arrays.reshape(arrays.concat(columns, 2), result.static_shape),)


# --- loops ----------------------------------------------------------------------------------------


def _window(g: Geometry, axis: int, out: int, tap: int, extent: int) -> Position:
    """Where tap ``tap`` of place ``out`` lies in the image along a spatial axis."""
    terms = ((out, g.stride[axis]), (tap, g.dilation[axis]))
    return Position(terms, -g.padding[axis][0], extent=extent)


# From how many rows, columns and steps of k on a product over windows is faster than loops over
# taps: where windows move by one place, by more, where a position is divided, and where the taps
# are the result's.
_Least = tuple[tuple[int, int, int], ...]
_SLIDING: _Least = ((1, 8, 16),)
_JUMPING: _Least = ((8, 8, 64),)
_DIVIDED: _Least = ((2, 8, 8),)
_TAPS: _Least = ((8, 8, 8), (16, 3, 8))


def _is_alone(c: int, o: int, taps: Sequence[int]) -> bool:
    """Whether a group is one channel on both sides and few taps along two axes: planes
    (``Products.is_plane``).
    """
    return c == 1 and o == 1 and len(taps) == 2 and prod(taps) <= CHAIN


def _order(
    small: SumOrder, least: _Least, sizes: tuple[int, int, int], image: Sequence[int]
) -> SumOrder:
    """The order of a sum of ``k`` terms for each of ``m`` by ``n`` elements of a group: that of a
    matrix product where there is as much of all as one row of ``least`` says, else ``small``.
    """
    fits = any(all(map(ge, sizes, row)) for row in least)
    is_large = fits and prod(sizes) >= 4096
    return "product" if is_large and prod(image) < 1 << 31 else small


def _axes(first: int, g: Geometry) -> tuple[Position, ...]:
    """The spatial axes, from axis ``first`` on, as they are."""
    return tuple(at(first + axis) for axis in g.axes)


def _convolution_products(op: Op) -> Products:
    """Axes: image, group, channel of the group, y, x; then channel of the image, p, q (with one
    spatial axis or three accordingly, here and below).
    """
    g, (n, o, *out) = geometry(op.name, op.attributes), op.result.type.static_shape
    x, w = (operand.type.static_shape for operand in op.operands)
    row, inner = at((1, o // g.groups), 2), 3 + len(out)
    places = tuple(_window(g, axis, 3 + axis, inner + 1 + axis, x[2 + axis]) for axis in g.axes)
    return Products(
        outer=(n, g.groups, o // g.groups, *out),
        inner=w[1:],
        left=(at(0), at((1, w[1]), inner), *places),
        right=(row, at(inner), *_axes(inner + 1, g)),
        result=(at(0), row, *_axes(3, g)),
        shared=2,
        grid=3,
        order="chains"
        if _is_alone(w[1], o // g.groups, w[2:])
        else _order(
            "chains",
            _SLIDING if max(g.stride) == 1 else _JUMPING,
            (o // g.groups, prod((n, *out)), prod(w[1:])),
            x,
        ),
    )


def _input_products(op: Op) -> Products:
    """Axes: image, group, channel of the image's group, y, x; then channel of the output, p, q."""
    g, (n, _, *image) = geometry(op.name, op.attributes), op.result.type.static_shape
    ct, w = (operand.type.static_shape for operand in op.operands)
    o, inner = w[0] // g.groups, 3 + len(image)
    row = at((1, o), inner)
    places = tuple(
        Position(
            ((3 + axis, 1), (inner + 1 + axis, -g.dilation[axis])),
            g.padding[axis][0],
            g.stride[axis],
            ct[2 + axis],
        )
        for axis in g.axes
    )
    return Products(
        outer=(n, g.groups, w[1], *image),
        inner=(o, *w[2:]),
        left=(at(0), row, *places),
        right=(row, at(2), *_axes(inner + 1, g)),
        result=(at(0), at((1, w[1]), 2), *_axes(3, g)),
        shared=2,
        grid=3,
        order="chains"
        if _is_alone(w[1], o, w[2:])
        else _order(
            "chains",
            _SLIDING if max(g.stride) == 1 else _DIVIDED,
            (w[1], prod((n, *image)), o * prod(w[2:])),
            ct,
        ),
    )


def _filter_products(op: Op) -> Products:
    """Axes: group, channel of the output's group, channel of the image, p, q; then image, y, x."""
    g, (o, c, *size) = geometry(op.name, op.attributes), op.result.type.static_shape
    x, ct = (operand.type.static_shape for operand in op.operands)
    row, inner = at((0, o // g.groups), 1), 3 + len(size)
    places = tuple(_window(g, axis, inner + 1 + axis, 3 + axis, x[2 + axis]) for axis in g.axes)
    return Products(
        outer=(g.groups, o // g.groups, c, *size),
        inner=(ct[0], *ct[2:]),
        left=(at(inner), at((0, c), 2), *places),
        right=(at(inner), row, *_axes(inner + 1, g)),
        result=(row, at(2), *_axes(3, g)),
        shared=1,
        grid=3,
        order="planes"
        if _is_alone(c, o // g.groups, size)
        else _order("rows", _TAPS, (c * prod(size), o // g.groups, prod((ct[0], *ct[2:]))), x),
    )


def _flops(w: Value, y: Value) -> int:
    """Two for each element of the convolution's result ``y``, channel of its group and tap of
    ``w``.
    """
    return 2 * prod((*y.type.static_shape, *w.type.static_shape[1:]))


# --- derivatives and registration -----------------------------------------------------------------


def _spatial(x: Value) -> tuple[Dim, ...]:
    return x.type.shape[2:]


def _bilinear_vjp(left: Any, right: Any) -> VjpRule:
    """``left(b, op, ct, shared)`` and ``right`` give the cotangent of the first and the second
    operand.
    """

    def vjp(
        b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
    ) -> Sequence[Value | None]:
        (ct,) = cts
        if ct is None:
            return (None, None)
        names = ("stride", "padding", "dilation", "groups")
        shared = {name: op.attributes[name] for name in names}
        return (
            left(b, op, ct, shared) if needed[0] else None,
            right(b, op, ct, shared) if needed[1] else None,
        )

    return vjp


def _family(x: Value) -> str:
    """The convolution of as many spatial axes as ``x`` has."""
    return f"conv{x.type.rank - 2}d"


def _convolution_of(b: Builder, x: Value, w: Value, shared: Attrs) -> Value:
    return b.apply(_family(x), (x, w), shared)[0]


def _input_of(b: Builder, ct: Value, w: Value, like: Value, shared: Attrs) -> Value:
    return b.apply(f"{_family(ct)}_input", (ct, w), {"size": _spatial(like), **shared})[0]


def _filter_of(b: Builder, x: Value, ct: Value, like: Value, shared: Attrs) -> Value:
    return b.apply(f"{_family(x)}_filter", (x, ct), {"size": _spatial(like), **shared})[0]


def _links(x: int | None, w: int | None, y: int | None) -> Callable[[Op], tuple[Link, ...]]:
    """The links of one of the three ops; image, filter and output are operand 0, operand 1, or
    (None) the result.

    Images, groups, and channels of a group on both sides; places too where the filter has one tap
    and takes all.
    """

    def found(op: Op) -> tuple[Link, ...]:
        g = geometry(op.name, op.attributes)

        def link(size: int, in_x: Place | None, in_w: Place | None, in_y: Place | None) -> Link:
            operands: list[Place | None] = [None, None]
            result = None
            for place, which in ((in_x, x), (in_w, w), (in_y, y)):
                if which is None:
                    result = place
                else:
                    operands[which] = place
            return Link(size, tuple(operands), result)

        values = [op.result if which is None else op.operands[which] for which in (x, w, y)]
        image, taps, output = (sizes(value) for value in values)
        links = [link(image[0], Place(0), None, Place(0))]
        if g.groups > 1:
            links.append(link(g.groups, Place(1), Place(0), Place(1)))
        inside = Place(1, g.groups)
        links.append(link(taps[1], inside, Place(1), None))
        links.append(link(output[1] // g.groups, None, Place(0, g.groups), inside))
        for axis in (2 + n for n in g.axes):
            is_plain = g.stride[axis - 2] == 1 and g.padding[axis - 2] == (0, 0)
            if taps[axis] == 1 and is_plain:
                links.append(link(image[axis], Place(axis), None, Place(axis)))
        return tuple(links)

    return found


def _part(op: Op, link: Link, parts: int) -> Attrs:
    """A link that all three have is that of groups."""
    if None in (*link.operands, link.result):
        return op.attributes
    return {**op.attributes, "groups": get_int(op.attributes, "groups") // parts}


def _part_of_image(op: Op, link: Link, parts: int) -> Attrs:
    """Where places of the image are linked its ``size`` is that of a part."""
    if link.result is None or link.result.axis < 2:
        return _part(op, link, parts)
    size = list(get_dims(op.attributes, "size"))
    size[link.result.axis - 2] = sizes(op.result)[link.result.axis] // parts
    return {**op.attributes, "size": tuple(size)}


_OTHERWISE = "a convolution runs over them"
# (stride, padding, dilation, groups, x shape, w shape) of generated tests
_CASES: tuple[tuple[Any, ...], ...] = (
    ((2,), ((1, 0),), (2,), 2, (2, 4, 7), (2, 2, 3)),
    ((1,), ((0, 2),), (1,), 1, (2, 2, 6), (3, 2, 2)),
    ((1, 1), ((0, 0), (0, 0)), (1, 1), 1, (2, 2, 4, 5), (3, 2, 3, 2)),
    ((2, 1), ((1, 1), (0, 2)), (1, 2), 1, (1, 2, 5, 4), (2, 2, 3, 2)),
    ((2, 3), ((0, 1), (2, 1)), (2, 1), 2, (1, 4, 6, 5), (4, 2, 2, 3)),
    ((1, 1), ((0, 0), (1, 0)), (2, 1), 1, (2, 3, 4, 5), (2, 3, 1, 2)),
    ((1, 2, 1), ((1, 0), (0, 1), (1, 1)), (1, 1, 2), 1, (1, 2, 3, 4, 4), (2, 2, 2, 2, 2)),
)


def _samples(spatial: int, which: str) -> tuple[Sample, ...]:
    found = []
    for stride, padding, dilation, groups, x, w in _CASES:
        if len(stride) != spatial:
            continue
        shared = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        types = [TensorType(x, DType.F64), TensorType(w, DType.F64)]
        (out,) = infer_convolution("convolution", spatial, types, shared)
        by_name = {
            "": (types, {}),
            "_input": ([out, types[1]], {"size": x[2:]}),
            "_filter": ([types[0], out], {"size": w[2:]}),
        }
        operands, extra = by_name[which]
        found.append(Sample(tuple(operands), {**shared, **extra}, ((-2.0, 2.0), (-2.0, 2.0))))
    return tuple(found)


def _traits(flops: Callable[[Op], int]) -> Traits:
    """Bilinear; a multiplication and an addition are two operations."""
    return Traits(linear=((0,), (1,)), work=lambda op: flops(op) // 2, is_layer=True)


def _summed(op: Op) -> int:
    """How many products an element of an image or a filter is the sum of, at most: all that its
    channel meets.
    """
    first, _, *window = op.operands[1].type.static_shape
    return prod((first, *window))


def _convolution_flops(op: Op) -> int:
    return _flops(op.operands[1], op.result)


def _input_flops(op: Op) -> int:
    return _flops(op.operands[1], op.operands[0])


def _filter_flops(op: Op) -> int:
    return _flops(op.result, op.operands[1])


def _register(spatial: int, images: str) -> None:
    """The three ops over ``images`` with that many spatial axes."""
    name = f"conv{spatial}d"
    register(
        OpDef(
            name,
            f"cross-correlation of {images}",
            partial(infer_convolution, name, spatial),
            _evaluate_convolution,
            bilinear_jvp,
            _bilinear_vjp(
                lambda b, op, ct, s: _input_of(b, ct, op.operands[1], op.operands[0], s),
                lambda b, op, ct, s: _filter_of(b, op.operands[0], ct, op.operands[1], s),
            ),
            SumOfProducts(_convolution_products, _convolution_flops),
            _samples(spatial, ""),
            traits=_traits(_convolution_flops),
            element=ElementRule(elements.convolution, elements.fit_convolution),
            interval=products_of(lambda op: prod(op.operands[1].type.static_shape[1:])),
            axes=AxisRule(_links(0, 1, None), _OTHERWISE, _part),
        )
    )
    register(
        OpDef(
            f"{name}_input",
            f"the transpose of {name} in its image: (ct, w) to an image of spatial `size`",
            partial(infer_input, f"{name}_input", spatial),
            _evaluate_input,
            bilinear_jvp,
            _bilinear_vjp(
                lambda b, op, ct, s: _convolution_of(b, ct, op.operands[1], s),
                lambda b, op, ct, s: _filter_of(b, ct, op.operands[0], op.operands[1], s),
            ),
            SumOfProducts(_input_products, _input_flops),
            _samples(spatial, "_input"),
            traits=_traits(_input_flops),
            element=ElementRule(elements.of_input, elements.fit_input),
            interval=products_of(_summed),
            axes=AxisRule(_links(None, 1, 0), _OTHERWISE, _part_of_image),
        )
    )
    register(
        OpDef(
            f"{name}_filter",
            f"the transpose of {name} in its filter: (x, ct) to a filter of spatial `size`",
            partial(infer_filter, f"{name}_filter", spatial),
            _evaluate_filter,
            bilinear_jvp,
            _bilinear_vjp(
                lambda b, op, ct, s: _input_of(b, op.operands[1], ct, op.operands[0], s),
                lambda b, op, ct, s: _convolution_of(b, op.operands[0], ct, s),
            ),
            SumOfProducts(_filter_products, _filter_flops),
            _samples(spatial, "_filter"),
            traits=_traits(_filter_flops),
            element=ElementRule(elements.of_filter, elements.fit_filter),
            interval=products_of(_summed),
            axes=AxisRule(_links(0, None, 1), _OTHERWISE, _part),
        )
    )


_register(1, "NCL sequences with OIL filters")
_register(2, "NCHW images with OIHW filters")
_register(3, "NCDHW volumes with OIDHW filters")
