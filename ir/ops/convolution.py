"""2-D convolution (cross-correlation, NCHW and OIHW) and its two transposes.

``conv2d(x, w)`` is bilinear; with the trilinear form <ct, conv2d(x, w)>, ``conv2d_input(ct, w)`` is
its derivative with respect to x and ``conv2d_filter(x, ct)`` with respect to w. The three are
closed under differentiation: each one's transposes are the other two. Output element (n, o, i, j)
is the sum over c, p, q of x[n, c, i*stride + p*dilation - top, j*stride + q*dilation - left] * w[o,
c, p, q], zeros outside, c in o's group.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from gradc.ir.loop.kernel import Affine, Buffer, Scalar
from gradc.ir.loop.order import K_LEAF, K_NODE, LANE_BYTES, node_spans
from gradc.ir.ops.attributes import get_dims
from gradc.ir.ops.axes import AxisRule, Link, Place, sizes
from gradc.ir.ops.contraction import bilinear_jvp
from gradc.ir.ops.convolution_types import (
    Geometry,
    geometry,
    infer_conv2d,
    infer_filter,
    infer_input,
)
from gradc.ir.ops.index import convolution as elements
from gradc.ir.ops.index.element import ElementRule
from gradc.ir.ops.registry import Nest, OpDef, Sample, VjpRule, register
from gradc.ir.ops.traits import Traits
from gradc.ir.tensor.core import Attrs, DType, Op, TensorType, Value
from gradc.ir.tensor.dims import Dim

if TYPE_CHECKING:
    from gradc.ir.loop.builder import IndexAlgebra
    from gradc.ir.loop.nest import NestContext
    from gradc.ir.ops.builder import Builder

_UNROLLED_TAPS = 32  # filters up to this size are written out tap by tap


# --- evaluation, one contraction per tap ----------------------------------------------------------


def _window(g: Geometry, tap: tuple[int, int], out: tuple[int, int]) -> tuple[Any, Any, Any]:
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
    low = (0, 0, g.padding[0][0], g.padding[1][0])
    high = (0, 0, g.padding[0][1], g.padding[1][1])
    return arrays.pad(x, low, high, (0, 0, 0, 0))


def _tap_of_input(arrays: Any, grouped: Any, g: Geometry, tap: Any, out: Any) -> Any:
    start, limit, stride = _window(g, tap, out)
    n, groups, channels = grouped.shape[:3]
    return arrays.slice(
        grouped, (0, 0, 0, *start), (n, groups, channels, *limit), (1, 1, 1, *stride)
    )


def _tap_of_filter(arrays: Any, grouped: Any, tap: tuple[int, int]) -> Any:
    groups, outputs, channels = grouped.shape[:3]
    limit = (groups, outputs, channels, tap[0] + 1, tap[1] + 1)
    taken = arrays.slice(grouped, (0, 0, 0, *tap), limit, (1,) * 5)
    return arrays.reshape(taken, (groups, outputs, channels))


def _taps(shape: Sequence[int]) -> list[tuple[int, int]]:
    return [(p, q) for p in range(shape[0]) for q in range(shape[1])]


def _evaluate_conv2d(arrays: Any, op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
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
    ordered = arrays.transpose(total, (1, 0, 4, 2, 3))
    return (arrays.reshape(ordered, result.static_shape),)


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
        start, limit, stride = _window(g, tap, out)
        high = tuple(m - end for m, end in zip(whole, limit, strict=True))
        gaps = (0, 0, stride[0] - 1, stride[1] - 1, 0)
        total = k.add(total, arrays.pad(term, (0, 0, *start, 0), (0, 0, *high, 0), gaps))
    low = tuple(pair[0] for pair in g.padding)
    limit = (g.groups, n, low[0] + size[0], low[1] + size[1], c // g.groups)
    inner = arrays.slice(total, (0, 0, *low, 0), limit, (1,) * 5)
    return (arrays.reshape(arrays.transpose(inner, (1, 0, 4, 2, 3)), result.static_shape),)


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
        inner = ((0, 0), (3, 3), (4, 4))
        term = arrays.contract(cts, taken, ((1, 1),), inner, result.dtype)
        columns.append(arrays.reshape(term, (o, c, 1)))
    return (arrays.reshape(arrays.concat(columns, 2), result.static_shape),)


# --- loops ----------------------------------------------------------------------------------------


def _block(count: int) -> int:
    """How many of ``count`` channels one nest computes together: what it reads of the other operand
    serves all.
    """
    return next(b for b in (4, 3, 2, 1) if count % b == 0)


def _multiply_add(k: IndexAlgebra, wide: Any, pairs: Sequence[tuple[Scalar, Scalar]]) -> Scalar:
    """The sum of products, accumulated in ``wide``."""
    total: Scalar | None = None
    for a, b in pairs:
        a, b = k.cast(a, wide), k.cast(b, wide)
        total = k.mul(a, b) if total is None else k.fma(a, b, total)
    return k.const(0, wide) if total is None else total


def _fold_taps(
    k: IndexAlgebra, channels: int, size: tuple[int, ...], wide: Any, terms: Sequence[Any]
) -> list[Scalar]:
    """For each of ``terms`` the sum of ``term(channel, p, q)`` (pairs of factors) over channels and
    taps.
    """
    taps = _taps(size)
    if len(taps) <= _UNROLLED_TAPS:
        with k.builder.loop(channels, "serial") as c:
            places = [(c.at, Affine(p), Affine(q)) for p, q in taps]
            sums = [_multiply_add(k, wide, [term(*at) for at in places]) for term in terms]
            return [c.fold("add", total) for total in sums]
    with k.builder.loop(channels, "serial") as c:
        with k.builder.loop(size[0], "serial") as p:
            with k.builder.loop(size[1], "serial") as q:
                ones = [_multiply_add(k, wide, [term(c.at, p.at, q.at)]) for term in terms]
                rows = [q.fold("add", one) for one in ones]
            planes = [p.fold("add", row) for row in rows]
        return [c.fold("add", plane) for plane in planes]


def _conv2d_nest(nest: NestContext, op: Op) -> None:
    """Parallel over images and blocks of outputs, vectors along the output row."""
    k, g = nest.k, geometry(op.name, op.attributes)
    dtype = op.result.type.dtype
    n, o, height, width = op.result.type.static_shape
    _, _, x_height, x_width = op.operands[0].type.static_shape
    _, channels, *size = op.operands[1].type.static_shape
    wide = dtype.accumulator
    per_group = o // g.groups
    block = _block(per_group)
    with nest.parallel((n, o // block)) as (image, part):
        first = k.divmod(part, per_group // block)[0] * channels
        with nest.loop(height, "serial") as i, nest.loop(width, "vector") as j:

            def term(output: Affine, c: Affine, p: Affine, q: Affine) -> tuple[Scalar, Scalar]:
                y = i.at * g.stride[0] + p * g.dilation[0] + (-g.padding[0][0])
                x = j.at * g.stride[1] + q * g.dilation[1] + (-g.padding[1][0])
                inside = k.both(k.inside(y, x_height), k.inside(x, x_width))
                with k.guard(inside):
                    value = nest.read(0, [image, first + c, y, x])
                return value, nest.read(1, [output, c, p, q])

            outputs = [part * block + b for b in range(block)]
            terms = [functools.partial(term, output) for output in outputs]
            totals = _fold_taps(k, channels, tuple(size), wide, terms)
            for output, total in zip(outputs, totals, strict=True):
                nest.write([image, output, i.at, j.at], k.cast(total, dtype))


def _input_nest(nest: NestContext, op: Op) -> None:
    """Parallel over images and blocks of input channels, vectors along the input row."""
    k, g = nest.k, geometry(op.name, op.attributes)
    dtype = op.result.type.dtype
    n, c, height, width = op.result.type.static_shape
    _, o, out_height, out_width = op.operands[0].type.static_shape
    _, channels, *size = op.operands[1].type.static_shape
    wide = dtype.accumulator
    per_group = o // g.groups
    block = _block(channels)
    with nest.parallel((n, c // block)) as (image, part):
        group, local = k.divmod(part, channels // block)
        with nest.loop(height, "serial") as i, nest.loop(width, "vector") as j:

            def place(axis: int, at: Affine, tap: Affine, extent: int) -> tuple[Affine, Any]:
                numerator = at + tap * -g.dilation[axis] + g.padding[axis][0]
                found, rest = k.divmod(numerator, g.stride[axis])
                return found, k.both(k.inside(rest, 1), k.inside(found, extent))

            def term(
                channel: Affine, output: Affine, p: Affine, q: Affine
            ) -> tuple[Scalar, Scalar]:
                y, y_inside = place(0, i.at, p, out_height)
                x, x_inside = place(1, j.at, q, out_width)
                row = group * per_group + output
                with k.guard(k.both(y_inside, x_inside)):
                    value = nest.read(0, [image, row, y, x])
                return value, nest.read(1, [row, channel, p, q])

            terms = [functools.partial(term, local * block + b) for b in range(block)]
            totals = _fold_taps(k, per_group, tuple(size), wide, terms)
            for b, total in enumerate(totals):
                nest.write([image, part * block + b, i.at, j.at], k.cast(total, dtype))


def _filter_nest(nest: NestContext, op: Op) -> None:
    """Parallel over blocks of output channels and input channels; per tap a row of accumulators
    along the output row.

    Some taps and a block of outputs take their share of a row while it is at hand, as many as
    registers hold. Rows (images, then rows of one) are summed as a matrix product's steps of k
    are: leaves of ``K_LEAF``, nodes of ``K_NODE``, a set of accumulators for each level.
    """
    k, g = nest.k, geometry(op.name, op.attributes)
    o, channels, *size = op.result.type.static_shape
    width = op.operands[1].type.static_shape[3]
    wide = op.result.type.dtype.accumulator
    per_group = o // g.groups
    block = _block(per_group)
    taps = _taps(size)
    vectors = max(1, -(-width * wide.itemsize // LANE_BYTES))
    passes = -(-len(taps) // max(1, nest.target.accumulators // (block * vectors)))
    step = max(1, -(-len(taps) // max(passes, 1)))
    depth = 1 + len(node_spans(prod(op.operands[1].type.static_shape[0:3:2]), K_LEAF, K_NODE))
    sums = [nest.scratch(width * block * step, wide) for _ in range(depth)]
    with nest.parallel((o // block, channels)) as (part, c):
        channel = k.divmod(part, per_group // block)[0] * channels + c
        for first in range(0, len(taps), step):
            _filter_taps(nest, op, sums, (part * block, c, channel), taps[first : first + step])


def _filter_taps(
    nest: NestContext,
    op: Op,
    sums: Sequence[Buffer],
    place: tuple[Affine, Affine, Affine],
    taps: Sequence[tuple[int, int]],
) -> None:
    """Some taps of a block of outputs and one input channel."""
    k, g = nest.k, geometry(op.name, op.attributes)
    dtype = op.result.type.dtype
    n, _, x_height, x_width = op.operands[0].type.static_shape
    _, _, height, width = op.operands[1].type.static_shape
    wide = dtype.accumulator
    first, c, channel = place
    block = _block(op.result.type.static_shape[0] // g.groups)
    rows = [(b, p, q) for p, q in taps for b in range(block)]

    def add_row(number: Affine) -> None:
        image, i = k.unflatten(number, (n, height))
        with nest.loop(width, "vector") as j:
            for row, (b, p, q) in enumerate(rows):
                ct = k.cast(nest.read(1, [image, first + b, i, j.at]), wide)
                y = i * g.stride[0] + (p * g.dilation[0] - g.padding[0][0])
                x = j.at * g.stride[1] + (q * g.dilation[1] - g.padding[1][0])
                with k.guard(k.both(k.inside(y, x_height), k.inside(x, x_width))):
                    value = nest.read(0, [image, channel, y, x])
                at = j.at + row * width
                had = nest.load(sums[-1], at)
                nest.store(sums[-1], at, k.fma(k.cast(value, wide), ct, had))

    _sum_rows(nest, sums, (width, len(rows)), n * height, add_row)
    for row, (b, p, q) in enumerate(rows):
        with nest.loop(width, "vector") as j:
            total = j.fold("add", nest.load(sums[0], j.at + row * width))
        nest.write([first + b, c, Affine(p), Affine(q)], k.cast(total, dtype))


def _sum_rows(
    nest: NestContext,
    sums: Sequence[Buffer],
    shape: tuple[int, int],
    count: int,
    add: Callable[[Affine], None],
) -> None:
    """The terms 0 to ``count`` as a tree, element by element: ``add`` adds one to ``sums[-1]``, the
    leaf; ``sums[0]`` is the whole. Each holds ``shape[1]`` rows of ``shape[0]``.
    """
    spans = (max(count, 1), *node_spans(count, K_LEAF, K_NODE))
    width, rows = shape
    ends = [j * width for j in range(rows)]

    def node(level: int, first: Affine) -> None:
        below = spans[level + 1] if level + 1 < len(spans) else 1
        for start in ends:
            with nest.loop(width, "vector") as j:
                nest.store(sums[level], j.at + start, nest.k.const(0, sums[level].dtype))
        left = Affine(
            -(-count // below), tuple((var, -factor // below) for var, factor in first.terms)
        )
        limit = left if count % spans[level] else None
        with nest.loop(-(-min(spans[level], count) // below), "serial", limit) as child:
            at = first + child.at * below
            if below == 1:
                add(at)
                return
            node(level + 1, at)
            for start in ends:
                with nest.loop(width, "vector") as j:
                    part = nest.load(sums[level + 1], j.at + start)
                    nest.store(sums[level], j.at + start, part, "add")

    node(0, Affine())


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


def _conv2d_of(b: Builder, x: Value, w: Value, shared: Attrs) -> Value:
    return b.apply("conv2d", (x, w), shared)[0]


def _input_of(b: Builder, ct: Value, w: Value, like: Value, shared: Attrs) -> Value:
    return b.apply("conv2d_input", (ct, w), {"size": _spatial(like), **shared})[0]


def _filter_of(b: Builder, x: Value, ct: Value, like: Value, shared: Attrs) -> Value:
    return b.apply("conv2d_filter", (x, ct), {"size": _spatial(like), **shared})[0]


def _links(x: int | None, w: int | None, y: int | None) -> Callable[[Op], tuple[Link, ...]]:
    """The links of one of the three ops; image, filter and output are operand 0, operand 1, or
    (None) the result.

    Images and, without groups, channels on both sides; places too where the filter has one tap and
    takes all.
    """

    def found(op: Op) -> tuple[Link, ...]:
        g = geometry(op.name, op.attributes)

        def link(size: int, in_x: int | None, in_w: int | None, in_y: int | None) -> Link:
            operands: list[Place | None] = [None, None]
            result = None
            for axis, which in ((in_x, x), (in_w, w), (in_y, y)):
                place = None if axis is None else Place(axis)
                if which is None:
                    result = place
                else:
                    operands[which] = place
            return Link(size, tuple(operands), result)

        values = [op.result if which is None else op.operands[which] for which in (x, w, y)]
        image, taps, output = (sizes(value) for value in values)
        links = [link(image[0], 0, None, 0)]
        if g.groups == 1:
            links += [link(image[1], 1, 1, None), link(output[1], None, 0, 1)]
        for axis in (0, 1):
            is_plain = g.stride[axis] == 1 and g.padding[axis] == (0, 0)
            if taps[2 + axis] == 1 and is_plain:
                links.append(link(image[2 + axis], 2 + axis, None, 2 + axis))
        return tuple(links)

    return found


def _part_of_image(op: Op, link: Link, parts: int) -> Attrs:
    """Where places of the image are linked its ``size`` is that of a part."""
    if link.result is None or link.result.axis < 2:
        return op.attributes
    size = list(get_dims(op.attributes, "size"))
    size[link.result.axis - 2] = sizes(op.result)[link.result.axis] // parts
    return {**op.attributes, "size": tuple(size)}


_SIGNS = {"interval": "filters have both signs"}
_OTHERWISE = "a convolution runs over them"
# (stride, padding, dilation, groups, x shape, w shape) of generated tests
_CASES: tuple[tuple[Any, ...], ...] = (
    ((1, 1), ((0, 0), (0, 0)), (1, 1), 1, (2, 2, 4, 5), (3, 2, 3, 2)),
    ((2, 1), ((1, 1), (0, 2)), (1, 2), 1, (1, 2, 5, 4), (2, 2, 3, 2)),
    ((2, 3), ((0, 1), (2, 1)), (2, 1), 2, (1, 4, 6, 5), (4, 2, 2, 3)),
    ((1, 1), ((0, 0), (1, 0)), (2, 1), 1, (2, 3, 4, 5), (2, 3, 1, 2)),
)


def _samples(which: str) -> tuple[Sample, ...]:
    found = []
    for stride, padding, dilation, groups, x, w in _CASES:
        shared = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        types = [TensorType(x, DType.F64), TensorType(w, DType.F64)]
        (out,) = infer_conv2d(types, shared)
        by_name = {
            "conv2d": (types, {}),
            "conv2d_input": ([out, types[1]], {"size": x[2:]}),
            "conv2d_filter": ([types[0], out], {"size": w[2:]}),
        }
        operands, extra = by_name[which]
        found.append(Sample(tuple(operands), {**shared, **extra}, ((-2.0, 2.0), (-2.0, 2.0))))
    return tuple(found)


def _traits(flops: Callable[[Op], int]) -> Traits:
    """Bilinear; a multiplication and an addition are two operations."""
    return Traits(linear=((0,), (1,)), work=lambda op: flops(op) // 2, is_layer=True)


def _conv2d_flops(op: Op) -> int:
    return _flops(op.operands[1], op.result)


def _input_flops(op: Op) -> int:
    return _flops(op.operands[1], op.operands[0])


def _filter_flops(op: Op) -> int:
    return _flops(op.result, op.operands[1])


register(
    OpDef(
        "conv2d",
        "cross-correlation of NCHW images with OIHW filters",
        infer_conv2d,
        _evaluate_conv2d,
        bilinear_jvp,
        _bilinear_vjp(
            lambda b, op, ct, s: _input_of(b, ct, op.operands[1], op.operands[0], s),
            lambda b, op, ct, s: _filter_of(b, op.operands[0], ct, op.operands[1], s),
        ),
        Nest(_conv2d_nest, _conv2d_flops),
        _samples("conv2d"),
        traits=_traits(_conv2d_flops),
        element=ElementRule(elements.conv2d, elements.fit_conv2d),
        without=_SIGNS,
        axes=AxisRule(_links(0, 1, None), _OTHERWISE),
    )
)
register(
    OpDef(
        "conv2d_input",
        "the transpose of conv2d in its image: (ct, w) to an image of spatial `size`",
        infer_input,
        _evaluate_input,
        bilinear_jvp,
        _bilinear_vjp(
            lambda b, op, ct, s: _conv2d_of(b, ct, op.operands[1], s),
            lambda b, op, ct, s: _filter_of(b, ct, op.operands[0], op.operands[1], s),
        ),
        Nest(_input_nest, _input_flops),
        _samples("conv2d_input"),
        traits=_traits(_input_flops),
        element=ElementRule(elements.conv2d_input, elements.fit_input),
        without=_SIGNS,
        axes=AxisRule(_links(None, 1, 0), _OTHERWISE, _part_of_image),
    )
)
register(
    OpDef(
        "conv2d_filter",
        "the transpose of conv2d in its filter: (x, ct) to a filter of spatial `size`",
        infer_filter,
        _evaluate_filter,
        bilinear_jvp,
        _bilinear_vjp(
            lambda b, op, ct, s: _input_of(b, op.operands[1], ct, op.operands[0], s),
            lambda b, op, ct, s: _conv2d_of(b, op.operands[0], ct, s),
        ),
        Nest(_filter_nest, _filter_flops),
        _samples("conv2d_filter"),
        traits=_traits(_filter_flops),
        element=ElementRule(elements.conv2d_filter, elements.fit_filter),
        without=_SIGNS,
        axes=AxisRule(_links(0, None, 1), _OTHERWISE),
    )
)
