"""Max and average pooling over NCHW images.

``padding`` never wins a maximum and counts as zeros in an average, which always divides by the
window's size. Equal greatest elements of a window share its cotangent with total weight 1.
Derivatives are compositions: windows that do not overlap are a reshape; otherwise there is one
strided slice of the image per place in the window, or, for windows of many places, a loop over
places (``windows``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from gradc.ir.loop.kernel import Affine, Scalar
from gradc.ir.loop.order import PLACES
from gradc.ir.ops.attributes import get_pair, get_pairs
from gradc.ir.ops.axes import AxisRule, Link, kept
from gradc.ir.ops.index.element import ElementRule
from gradc.ir.ops.index.pooling import avg_pool, extremum_of_windows
from gradc.ir.ops.interval import handed_on, handed_on_or_zero
from gradc.ir.ops.registry import ByIndex, OpDef, Read, TypeRuleError, register
from gradc.ir.ops.traits import ALL, Traits
from gradc.ir.ops.view import one_operand, sample
from gradc.ir.ops.windows import Window, WindowLoop, WindowTap
from gradc.ir.tensor.core import Attrs, DType, Op, TensorType, Value
from gradc.ir.tensor.dims import Dim, floordiv

if TYPE_CHECKING:
    from gradc.ir.loop.builder import IndexAlgebra
    from gradc.ir.ops.builder import Builder


def _window(name: str, attributes: Attrs) -> Window:
    found = Window(
        get_pair(attributes, "size"),
        get_pair(attributes, "stride"),
        get_pairs(attributes, "padding"),
    )
    if min(*found.size, *found.stride) < 1 or len(found.padding) != 2:
        raise TypeRuleError(f"{name}: size and stride must be positive, padding two pairs")
    for size, pair in zip(found.size, found.padding, strict=True):
        if min(pair) < 0 or max(pair) >= size:
            raise TypeRuleError(f"{name}: padding {pair} must be less than the window's {size}")
    return found


def _rule(name: str) -> Any:
    def infer(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
        x, window = one_operand(name, types), _window(name, attributes)
        if x.rank != 4 or not x.dtype.is_float:
            raise TypeRuleError(f"{name}: takes a floating array of 4 axes, not {x}")
        sizes: list[Dim] = []
        rows = zip(x.shape[2:], window.size, window.stride, window.padding, strict=True)
        for size, taken, stride, (low, high) in rows:
            room = size + low + high - taken
            if isinstance(room, int) and (room < 0 or size == 0):
                raise TypeRuleError(f"{name}: the window {window.size} is larger than {x}")
            sizes.append(floordiv(room, stride) + 1)
        return (x.with_shape((*x.shape[:2], *sizes)),)

    return infer


# --- evaluation -----------------------------------------------------------------------------------


def _evaluate_max(arrays: Any, op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
    """The running maximum over places; a place outside the image repeats the nearest place
    inside.
    """
    window = _window(op.name, op.attributes)
    k = arrays.at(op.result.type.dtype)
    size, out = op.operands[0].type.static_shape[2:], op.result.type.static_shape[2:]
    found = None
    for place in window.places:
        taken = operands[0]
        for axis in (0, 1):
            at = [i * window.stride[axis] + place[axis] for i in range(out[axis])]
            low = window.padding[axis][0]
            ids = arrays.integers([min(max(i - low, 0), size[axis] - 1) for i in at])
            taken = arrays.take(taken, ids, 2 + axis, 0)
        found = taken if found is None else k.max(found, taken)
    return (found,)


def _evaluate_avg(arrays: Any, op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
    window = _window(op.name, op.attributes)
    k = arrays.at(op.result.type.dtype)
    low, high = (tuple(pair[end] for pair in window.padding) for end in (0, 1))
    x = arrays.pad(operands[0], (0, 0, *low), (0, 0, *high), (0, 0, 0, 0))
    total = None
    for place in window.places:
        start, limit, stride = _place(window, place, op)
        taken = arrays.slice(x, start, limit, stride)
        total = taken if total is None else k.add(total, taken)
    return (k.mul(total, k.const(1.0 / (window.size[0] * window.size[1]))),)


def _place(
    window: Window, place: tuple[int, int], op: Op
) -> tuple[tuple[Dim, ...], tuple[Dim, ...], tuple[int, ...]]:
    """The slice of the padded image that holds this place of every window."""
    n, c, *out = op.result.type.shape
    steps = zip(place, out, window.stride, strict=True)
    limit = tuple(at + (count - 1) * stride + 1 for at, count, stride in steps)
    return (0, 0, *place), (n, c, *limit), (1, 1, *window.stride)


# --- windows as values ----------------------------------------------------------------------------


def _windows(b: Builder, op: Op, x: Value, outside: float) -> list[Value]:
    """Per place in the window, that element of every window; ``outside`` where it lies in the
    padding.
    """
    window = _window(op.name, op.attributes)
    if window.padding != ((0, 0), (0, 0)):
        low, high = (tuple(pair[end] for pair in window.padding) for end in (0, 1))
        margins: dict[str, Any] = {
            "low": (0, 0, *low),
            "high": (0, 0, *high),
            "interior": (0, 0, 0, 0),
        }
        inside = b.one("pad", b.constant(True, DType.BOOL, x.type.shape), **margins)
        x = b.one("pad", x, **margins)
        if outside != 0.0:
            fill = b.constant(outside, x.type.dtype, x.type.shape)
            x = b.one("select", inside, x, fill)
    found = []
    for place in window.places:
        start, limit, stride = _place(window, place, op)
        found.append(b.one("slice", x, start=start, limit=limit, stride=stride))
    return found


def _unwindow(b: Builder, op: Op, pieces: Sequence[Value]) -> Value:
    """The transpose of ``_windows``: every piece added back at its place."""
    window = _window(op.name, op.attributes)
    shape = op.operands[0].type.shape
    low, high = (tuple(pair[end] for pair in window.padding) for end in (0, 1))
    padded = (*shape[:2], *(s + a + z for s, a, z in zip(shape[2:], low, high, strict=True)))
    total: Value | None = None
    for place, piece in zip(window.places, pieces, strict=True):
        start, limit, stride = _place(window, place, op)
        after = tuple(size - end for size, end in zip(padded, limit, strict=True))
        gaps = tuple(step - 1 for step in stride)
        wide = b.one("pad", piece, low=start, high=after, interior=gaps)
        total = wide if total is None else b.one("add", total, wide)
    assert total is not None, "a window has at least one place"
    if padded == shape:
        return total
    limit = (*shape[:2], *(a + s for s, a in zip(shape[2:], low, strict=True)))
    return b.one("slice", total, start=(0, 0, *low), limit=limit, stride=(1, 1, 1, 1))


def _tiles(b: Builder, op: Op, x: Value) -> Value:
    """``x`` cut into windows that do not overlap: axes (n, c, row, in row, column, in column)."""
    size = _window(op.name, op.attributes).size
    n, c, rows, columns = op.result.type.shape
    limit = (n, c, rows * size[0], columns * size[1])
    if limit != x.type.shape:
        x = b.one("slice", x, start=(0, 0, 0, 0), limit=limit, stride=(1, 1, 1, 1))
    return b.one("reshape", x, shape=(n, c, rows, size[0], columns, size[1]))


def _untile(b: Builder, op: Op, tiles: Value) -> Value:
    """The transpose of ``_tiles``."""
    size = _window(op.name, op.attributes).size
    n, c, rows, columns = op.result.type.shape
    whole = op.operands[0].type.shape
    image = b.one("reshape", tiles, shape=(n, c, rows * size[0], columns * size[1]))
    if image.type.shape == whole:
        return image
    high = (0, 0, whole[2] - rows * size[0], whole[3] - columns * size[1])
    return b.one("pad", image, low=(0, 0, 0, 0), high=high, interior=(0, 0, 0, 0))


def _over_tiles(b: Builder, op: Op, x: Value) -> Value:
    """``x``, one element per window, repeated over its window."""
    n, c, rows, columns = op.result.type.shape
    size = _window(op.name, op.attributes).size
    return b.one("broadcast", x, shape=(n, c, rows, size[0], columns, size[1]), dims=(0, 1, 2, 4))


# --- derivatives ----------------------------------------------------------------------------------


def _sum_of(b: Builder, terms: Sequence[Value]) -> Value:
    total = terms[0]
    for term in terms[1:]:
        total = b.one("add", total, term)
    return total


def _masks(b: Builder, op: Op) -> tuple[list[Value], Value]:
    """Per place, where it attains its window's maximum; and how many places of each window do."""
    pieces = _windows(b, op, op.operands[0], float("-inf"))
    masks = [b.one("eq", piece, op.result) for piece in pieces]
    dtype = op.result.type.dtype
    return masks, _sum_of(b, [b.one("cast", mask, dtype=dtype) for mask in masks])


def _tile_mask(b: Builder, op: Op) -> tuple[Value, Value]:
    """Where windows that do not overlap attain their maximum; and at how many places: counted for
    each window from its few places, so that nothing has to be stored for it.
    """
    mask = b.one("eq", _tiles(b, op, op.operands[0]), _over_tiles(b, op, op.result))
    if not _window(op.name, op.attributes).is_rolled:
        return mask, _masks(b, op)[1]
    count = b.one("sum", b.one("cast", mask, dtype=op.result.type.dtype), axes=(3, 5))
    return mask, count


def _max_loop(b: Builder, op: Op) -> tuple[WindowLoop, Value, Value]:
    """The loop over places; the padded image; and how many places of each window attain its
    maximum.
    """
    loop = WindowLoop(b, op, _window(op.name, op.attributes))
    x = loop.padded(op.operands[0], float("-inf"))

    def count(
        inner: Builder, place: WindowTap, carries: Sequence[Value], given: Sequence[Value]
    ) -> list[Value]:
        mask = inner.one("eq", place.read(given[0]), given[1])
        return [inner.one("add", carries[0], loop.wide(inner, mask))]

    (total,) = loop.run([loop.zeros(op.result.type)], [x, op.result], count)
    return loop, x, loop.narrow(total)


def _max_jvp_rolled(b: Builder, op: Op, tangent: Value) -> Value:
    loop, x, count = _max_loop(b, op)

    def add(
        inner: Builder, place: WindowTap, carries: Sequence[Value], given: Sequence[Value]
    ) -> list[Value]:
        mask = inner.one("eq", place.read(given[0]), given[1])
        piece = place.read(given[2])
        zero = inner.constant(0.0, piece.type.dtype, piece.type.shape)
        taken = inner.one("select", mask, piece, zero)
        return [inner.one("add", carries[0], loop.wide(inner, taken))]

    start = loop.zeros(op.result.type)
    (total,) = loop.run([start], [x, op.result, loop.padded(tangent, 0.0)], add)
    return b.one("div", loop.narrow(total), count)


def _max_vjp_rolled(b: Builder, op: Op, ct: Value) -> Value:
    loop, x, count = _max_loop(b, op)

    def add(
        inner: Builder, place: WindowTap, carries: Sequence[Value], given: Sequence[Value]
    ) -> list[Value]:
        mask = inner.one("eq", place.read(given[0]), given[1])
        zero = inner.constant(0.0, ct.type.dtype, ct.type.shape)
        piece = loop.wide(inner, inner.one("select", mask, given[2], zero))
        return [inner.one("add", carries[0], place.write(piece))]

    share = b.one("div", ct, count)
    (total,) = loop.run([loop.zeros(x.type)], [x, op.result, share], add)
    return loop.cropped(loop.narrow(total))


def _avg_vjp_rolled(b: Builder, op: Op, share: Value) -> Value:
    loop = WindowLoop(b, op, _window(op.name, op.attributes))

    def add(
        inner: Builder, place: WindowTap, carries: Sequence[Value], given: Sequence[Value]
    ) -> list[Value]:
        return [inner.one("add", carries[0], place.write(loop.wide(inner, given[0])))]

    (total,) = loop.run([loop.zeros(loop.padded_type)], [share], add)
    return loop.cropped(loop.narrow(total))


def _max_jvp(b: Builder, op: Op, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    (tangent,) = tangents
    if tangent is None:
        return (None,)
    if _window(op.name, op.attributes).is_tiling:
        mask, count = _tile_mask(b, op)
        zero = b.constant(0.0, tangent.type.dtype, mask.type.shape)
        taken = b.one("select", mask, _tiles(b, op, tangent), zero)
        return (b.one("div", b.one("sum", taken, axes=(3, 5)), count),)
    if _window(op.name, op.attributes).is_rolled:
        return (_max_jvp_rolled(b, op, tangent),)
    masks, count = _masks(b, op)
    zero = b.constant(0.0, tangent.type.dtype, op.result.type.shape)
    pieces = _windows(b, op, tangent, 0.0)
    terms = [b.one("select", m, piece, zero) for m, piece in zip(masks, pieces, strict=True)]
    return (b.one("div", _sum_of(b, terms), count),)


def _max_vjp(
    b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
) -> Sequence[Value | None]:
    (ct,) = cts
    if ct is None or not needed[0]:
        return (None,)
    if _window(op.name, op.attributes).is_tiling:
        mask, count = _tile_mask(b, op)
        share = _over_tiles(b, op, b.one("div", ct, count))
        zero = b.constant(0.0, ct.type.dtype, mask.type.shape)
        return (_untile(b, op, b.one("select", mask, share, zero)),)
    if _window(op.name, op.attributes).is_rolled:
        return (_max_vjp_rolled(b, op, ct),)
    masks, count = _masks(b, op)
    share = b.one("div", ct, count)
    zero = b.constant(0.0, ct.type.dtype, ct.type.shape)
    return (_unwindow(b, op, [b.one("select", mask, share, zero) for mask in masks]),)


def _avg_jvp(b: Builder, op: Op, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    (tangent,) = tangents
    return (None if tangent is None else b.same(op, tangent),)


def _avg_vjp(
    b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
) -> Sequence[Value | None]:
    (ct,) = cts
    if ct is None or not needed[0]:
        return (None,)
    window = _window(op.name, op.attributes)
    weight = b.constant(1.0 / (window.size[0] * window.size[1]), ct.type.dtype, ct.type.shape)
    share = b.one("mul", ct, weight)
    if window.is_tiling:
        return (_untile(b, op, _over_tiles(b, op, share)),)
    if window.is_rolled:
        return (_avg_vjp_rolled(b, op, share),)
    return (_unwindow(b, op, [share] * len(window.places)),)


# --- loops and registration -----------------------------------------------------------------------


def _element(combine: Literal["max", "add"]) -> Any:
    def element(k: IndexAlgebra, op: Op, index: Sequence[Affine], read: Read) -> Scalar:
        window = _window(op.name, op.attributes)
        dtype = op.result.type.dtype
        height, width = op.operands[0].type.static_shape[2:]
        fill = float("-inf") if combine == "max" else 0.0

        def place(p: Affine, q: Affine) -> Scalar:
            y = index[2] * window.stride[0] + p + (-window.padding[0][0])
            x = index[3] * window.stride[1] + q + (-window.padding[1][0])
            inside = k.both(k.inside(y, height), k.inside(x, width))
            return k.guarded(inside, lambda: read(0, [*index[:2], y, x]), k.const(fill, dtype))

        wide = dtype.accumulator
        found = _fold(k, window, combine, lambda p, q: k.cast(place(p, q), wide))
        if combine == "add":
            found = k.mul(found, k.const(1.0 / (window.size[0] * window.size[1]), wide))
        return k.cast(found, dtype)

    return element


def _fold(k: IndexAlgebra, window: Window, combine: Literal["max", "add"], place: Any) -> Scalar:
    if len(window.places) > PLACES:
        with k.builder.loop(window.size[0], "serial") as p:
            with k.builder.loop(window.size[1], "serial") as q:
                row = q.fold(combine, place(p.at, q.at))
            return p.fold(combine, row)
    found: Scalar | None = None
    for p_at, q_at in window.places:
        value: Scalar = place(Affine(p_at), Affine(q_at))
        found = value if found is None else getattr(k, combine)(found, value)
    assert found is not None, "a window has at least one place"
    return found


def _links(op: Op) -> tuple[Link, ...]:
    """Images and channels, and places where the window has one and takes all."""
    window = _window(op.name, op.attributes)
    plain = (1, 1, (0, 0))
    rows = zip(window.size, window.stride, window.padding, strict=True)
    return kept(op, (2 + axis for axis, row in enumerate(rows) if row != plain))


_AXES = AxisRule(_links, "a window runs over them")
_SAMPLES = (
    sample((2, 2, 4, 6), size=(1, 3), stride=(1, 2), padding=((0, 0), (0, 1))),
    sample((2, 1, 4, 6), size=(2, 3), stride=(2, 3), padding=((0, 0), (0, 0))),
    sample((1, 2, 5, 5), size=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0))),
    sample((1, 1, 5, 4), size=(3, 2), stride=(2, 1), padding=((1, 2), (0, 1))),
)

_WINDOW = "the window is too large to be written out"

register(
    OpDef(
        "max_pool",
        "the greatest of each window; padding never wins",
        _rule("max_pool"),
        _evaluate_max,
        _max_jvp,
        _max_vjp,
        ByIndex(_element("max")),
        _SAMPLES,
        masks=True,
        traits=Traits(picks="greatest", is_layer=True),
        element=ElementRule(law=extremum_of_windows, otherwise=_WINDOW),
        interval=handed_on,
        axes=_AXES,
    )
)
register(
    OpDef(
        "avg_pool",
        "the mean of each window, padding counting as zeros",
        _rule("avg_pool"),
        _evaluate_avg,
        _avg_jvp,
        _avg_vjp,
        ByIndex(_element("add")),
        _SAMPLES,
        traits=Traits(linear=ALL, is_layer=True),
        element=ElementRule(avg_pool, otherwise=_WINDOW),
        interval=handed_on_or_zero,
        axes=_AXES,
    )
)
