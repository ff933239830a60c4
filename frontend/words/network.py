"""Words of networks: convolution, pooling, dropout.

Dropout draws from a counter-based generator keyed by the model's random counter (seed, step) and by
the call's own stream number, so that recomputation draws the same numbers. Inside a ``scan`` every
trip has a key of its own, drawn outside and handed in like any other input.
"""

from __future__ import annotations

from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.shapes import origin, retype
from gradc.frontend.elaborate.values import (
    POISON,
    Argument,
    Item,
    Poison,
    as_dim,
    describe,
    show_type,
)
from gradc.frontend.elaborate.words import Arguments, floats, integer, number, word
from gradc.frontend.syntax import tree
from gradc.ir.tensor.core import DType, TensorType, Value
from gradc.ir.tensor.dims import Dim

_KEY = TensorType((2,), DType.U32)
_U32_RANGE = 1 << 32


def _pair(ctx: Context, argument: Argument, what: str, least: int) -> tuple[int, int] | None:
    """One number for both spatial axes, or a pair."""
    items = argument.item if isinstance(argument.item, tuple) else (argument.item,) * 2
    if len(items) != 2:
        message = f"{what} is one number or a pair, not {describe(argument.item)}"
        ctx.error("GC0308", message, argument.node)
        return None
    first, second = (integer(ctx, Argument(i, argument.node), what, least) for i in items)
    return None if first is None or second is None else (first, second)


def _padding(ctx: Context, argument: Argument) -> tuple[tuple[int, int], ...] | None:
    """One number for all four sides, one per axis, or (low, high) per axis."""
    items = argument.item if isinstance(argument.item, tuple) else (argument.item,) * 2
    if len(items) != 2:
        message = f"the padding is one number or a pair, not {describe(argument.item)}"
        ctx.error("GC0308", message, argument.node)
        return None
    sides = [_pair(ctx, Argument(i, argument.node), "the padding", 0) for i in items]
    found = [side for side in sides if side is not None]
    return tuple(found) if len(found) == 2 else None


def _images(ctx: Context, argument: Argument, what: str, axes: str) -> Value | None:
    """A floating array of four axes."""
    value = floats(ctx, argument, what)
    if value is not None and value.type.rank != 4:
        message = f"`{what}` takes an array of axes {axes}, not `{show_type(value)}`"
        ctx.error("GC0302", message, argument.node, labels=[origin(ctx, argument.node, value)])
        return None
    return value


def _fits(ctx: Context, size: Dim, low_high: tuple[int, int], taken: int) -> bool:
    known = ctx.defaulted(size)
    return known is None or known + sum(low_high) >= taken


@word("conv2d x w stride padding dilation groups", stride=1, padding=0, dilation=1, groups=1)
def _conv2d(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    x = _images(ctx, given["x"], "conv2d", "[batch, channels, height, width]")
    w = _images(ctx, given["w"], "conv2d", "[outputs, inputs, height, width]")
    stride = _pair(ctx, given["stride"], "the stride", 1)
    dilation = _pair(ctx, given["dilation"], "the dilation", 1)
    padding = _padding(ctx, given["padding"])
    # A symbol stays one: in a depthwise layer there are as many groups as channels.
    known = integer(ctx, given["groups"], "the number of groups", 1)
    groups = None if known is None else as_dim(given["groups"].item)
    if x is None or w is None or stride is None or dilation is None or padding is None:
        return POISON
    if groups is None:
        return POISON
    labels = [origin(ctx, given[name].node, value) for name, value in (("x", x), ("w", w))]
    if x.type.dtype is not w.type.dtype:
        message = f"element types differ: `conv2d` of `{x.type.dtype}` and `{w.type.dtype}`"
        return ctx.error("GC0303", message, call, labels=labels)
    channels: Dim = w.type.shape[1] * groups
    if not ctx.same(x.type.shape[1], channels):
        return ctx.error(
            "GC0302",
            f"channels differ: `conv2d` of `{show_type(x)}` with `{show_type(w)}`",
            call,
            label=f"{x.type.shape[1]} channels against {channels}",
            labels=labels,
            help="kernels are [outputs, inputs / groups, height, width]",
        )
    for axis in (0, 1):
        taps = ctx.defaulted(w.type.shape[2 + axis])
        span = 0 if taps is None else (taps - 1) * dilation[axis] + 1
        if not _fits(ctx, x.type.shape[2 + axis], padding[axis], span):
            message = f"the kernel of `{show_type(w)}` is larger than the padded `{show_type(x)}`"
            return ctx.error("GC0302", message, call, labels=labels)
    if x.type.shape[1] != channels:
        x = retype(ctx, x, (x.type.shape[0], channels, *x.type.shape[2:]), call)
    return ctx.op(
        call,
        "conv2d",
        x,
        w,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


def _pool(ctx: Context, call: tree.Call, given: Arguments, name: str) -> Item:
    x = _images(ctx, given["x"], name, "[batch, channels, height, width]")
    size = _pair(ctx, given["size"], "the window", 1)
    stride = _pair(ctx, given["stride"], "the stride", 1) if given["stride"].is_given else size
    padding = _padding(ctx, given["padding"])
    if x is None or size is None or stride is None or padding is None:
        return POISON
    for axis in (0, 1):
        if max(padding[axis]) >= size[axis]:
            message = f"the padding of `{name}` must be less than the window's {size[axis]}"
            return ctx.error("GC0302", message, given["padding"].node)
        if not _fits(ctx, x.type.shape[2 + axis], padding[axis], size[axis]):
            message = f"the window of {size[0]} x {size[1]} is larger than `{show_type(x)}`"
            return ctx.error("GC0302", message, call)
    return ctx.op(call, name, x, size=size, stride=stride, padding=padding)


@word("max_pool x size stride padding", stride=0, padding=0)
def _max_pool(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    return _pool(ctx, call, given, "max_pool")


@word("avg_pool x size stride padding", stride=0, padding=0)
def _avg_pool(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    return _pool(ctx, call, given, "avg_pool")


# --- dropout


@word("dropout x rate")
def _dropout(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    x = floats(ctx, given["x"], "dropout")
    rate = number(ctx, given["rate"], "the rate of `dropout`")
    if x is None or rate is None:
        return POISON
    if not 0 <= rate <= 1:
        message = f"the rate of `dropout` is the share dropped, from 0 to 1, and this is {rate:g}"
        # A rate made of dimensions is judged when they are bound.
        if as_dim(given["rate"].item) is None or isinstance(given["rate"].item, int):
            return ctx.error("GC0405", message, given["rate"].node)
    if any(frame.kind in ("sample", "update", "at") for frame in ctx.frames):
        return ctx.error("GC0207", "`dropout` stands in models, layers and functions", call)
    stream = ctx.streams
    ctx.streams += 1
    if not ctx.training or rate == 0:
        return x
    shape = x.type.shape
    bits = ctx.op(call, "random_bits", random_key(ctx, call), stream=stream, shape=shape)
    if isinstance(bits, Poison):
        return POISON
    threshold = min(max(round(rate * _U32_RANGE), 0), _U32_RANGE - 1)
    limit = ctx.constant(call, threshold, DType.U32, shape)
    keep = ctx.op(call, "ge", bits, limit)
    scale = ctx.constant(call, 1 / (1 - rate) if rate < 1 else 0.0, x.type.dtype, shape)
    scaled = ctx.op(call, "mul", x, scale)
    zero = ctx.constant(call, 0.0, x.type.dtype, shape)
    if isinstance(keep, Poison) or isinstance(scaled, Poison):
        return POISON
    return ctx.op(call, "select", keep, scaled, zero)


def random_key(ctx: Context, node: tree.Node, level: int | None = None) -> Value:
    """The key to draw with here: the model's counter, or within scans the key of the trip."""
    level = len(ctx.scans) if level is None else level
    if level == 0:
        if ctx.random_key is None:
            ctx.random_key = Value(_KEY, "rng")
        return ctx.random_key
    scope = ctx.scans[level - 1]
    if scope.key is None:
        outer = scope.region.parent
        assert outer is not None
        with ctx.inside(outer):
            above = random_key(ctx, node, level - 1)
            stream = ctx.streams
            ctx.streams += 1
            keys = ctx.op(node, "random_bits", above, stream=stream, shape=(scope.trips, 2))
        assert isinstance(keys, Value)
        scope.keys.append(keys)
        scope.key = scope.region.parameter(_KEY, "key")
    return scope.key
