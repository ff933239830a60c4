"""Words of windows: convolution over one, two or three spatial axes, its transpose, and pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

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
from gradc.frontend.elaborate.words import Arguments, floats, integer, word
from gradc.frontend.syntax import tree
from gradc.ir.diagnostics.diagnostic import Label
from gradc.ir.tensor.core import Attrs, Value
from gradc.ir.tensor.dims import Dim

Sides = tuple[tuple[int, int], ...]
_SPATIAL = {1: "length", 2: "height, width", 3: "depth, height, width"}
_IMAGES = "[batch, channels, height, width]"


def _each(
    ctx: Context, argument: Argument, what: str, least: int, count: int = 2
) -> tuple[int, ...] | None:
    """One number for all of ``count`` spatial axes, or one for each."""
    items = argument.item if isinstance(argument.item, tuple) else (argument.item,) * count
    if len(items) != count:
        message = f"{what} is {_choice(count)}, not {describe(argument.item)}"
        ctx.error("GC0308", message, argument.node)
        return None
    found = [integer(ctx, Argument(item, argument.node), what, least) for item in items]
    known = tuple(number for number in found if number is not None)
    return known if len(known) == count else None


def _choice(count: int) -> str:
    return {1: "one number", 2: "one number or a pair"}.get(count, f"one number or {count}")


def _padding(ctx: Context, argument: Argument, count: int) -> Sides | None:
    """One number for all sides, one per spatial axis, or (low, high) per axis."""
    items = argument.item if isinstance(argument.item, tuple) else (argument.item,) * count
    if len(items) != count:
        message = f"the padding is {_choice(count)}, not {describe(argument.item)}"
        ctx.error("GC0308", message, argument.node)
        return None
    sides = [_each(ctx, Argument(i, argument.node), "the padding", 0) for i in items]
    found = [(low, high) for low, high in (side for side in sides if side is not None)]
    return tuple(found) if len(found) == count else None


def _images(ctx: Context, argument: Argument, what: str, axes: str) -> Value | None:
    """A floating array of the ``axes`` named."""
    value = floats(ctx, argument, what)
    if value is not None and value.type.rank != 1 + axes.count(","):
        message = f"`{what}` takes an array of axes {axes}, not `{show_type(value)}`"
        ctx.error("GC0302", message, argument.node, labels=[origin(ctx, argument.node, value)])
        return None
    return value


def _fits(ctx: Context, size: Dim, low_high: tuple[int, int], taken: int) -> bool:
    known = ctx.defaulted(size)
    return known is None or known + sum(low_high) >= taken


# --- convolution


def _same(spans: tuple[int, ...], stride: tuple[int, ...]) -> Sides | str:
    """As many results as there are elements; where the kernel is even, more zeros at the end."""
    if max(stride) > 1:
        return f'`"same"` keeps sizes, which a stride of {max(stride)} cannot'
    return tuple(((span - 1) // 2, span // 2) for span in spans)


def _causal(spans: tuple[int, ...], stride: tuple[int, ...]) -> Sides | str:
    """A result sees its own element and earlier ones."""
    if len(spans) > 1:
        return '`"causal"` is of sequences, with one spatial axis'
    return tuple((span - 1, 0) for span in spans)


# What a padding may be called: from the reach of the kernel and the stride along each axis.
_PADDINGS: Mapping[str, Callable[..., Sides | str]] = {"same": _same, "causal": _causal}


def _padding_of(
    ctx: Context, given: Arguments, w: Value, stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Sides | None:
    """The padding as numbers or by name."""
    argument = given["padding"]
    if not isinstance(argument.item, str):
        return _padding(ctx, argument, len(stride))
    if argument.item not in _PADDINGS:
        known = " or ".join(f'`"{name}"`' for name in _PADDINGS)
        message = f"the padding is a number or {known}, not {describe(argument.item)}"
        ctx.error("GC0308", message, argument.node)
        return None
    where = given["w"].node
    taps = [integer(ctx, Argument(n, where), "the kernel's size", 0) for n in w.type.shape[2:]]
    known_taps = [n for n in taps if n is not None]
    if len(known_taps) < len(taps):
        return None
    spans = tuple((n - 1) * gap + 1 for n, gap in zip(known_taps, dilation, strict=True))
    found = _PADDINGS[argument.item](spans, stride)
    if isinstance(found, str):
        ctx.error("GC0405", found, argument.node)
        return None
    return found


def _groups(ctx: Context, argument: Argument) -> Dim | None:
    """A symbol stays one: in a depthwise layer there are as many groups as channels."""
    known = integer(ctx, argument, "the number of groups", 1)
    return None if known is None else as_dim(argument.item)


def _pair_of(
    ctx: Context, call: tree.Call, given: Arguments, name: str, spatial: int, kernel: str
) -> tuple[Value, Value] | None:
    """Images and kernel, of one type."""
    axes = _SPATIAL[spatial]
    x = _images(ctx, given["x"], name, f"[batch, channels, {axes}]")
    w = _images(ctx, given["w"], name, f"[{kernel}, {axes}]")
    if x is None or w is None:
        return None
    if x.type.dtype is not w.type.dtype:
        message = f"element types differ: `{name}` of `{x.type.dtype}` and `{w.type.dtype}`"
        ctx.error("GC0303", message, call, labels=_origins(ctx, given, x, w))
        return None
    return x, w


def _origins(ctx: Context, given: Arguments, x: Value, w: Value) -> list[Label]:
    return [origin(ctx, given[name].node, value) for name, value in (("x", x), ("w", w))]


def _channels(
    ctx: Context,
    call: tree.Call,
    given: Arguments,
    name: str,
    x: Value,
    w: Value,
    wanted: Dim,
    layout: str,
) -> Value | Poison:
    """``x``, whose channels are ``wanted``."""
    if not ctx.same(x.type.shape[1], wanted):
        return ctx.error(
            "GC0302",
            f"channels differ: `{name}` of `{show_type(x)}` with `{show_type(w)}`",
            call,
            label=f"{x.type.shape[1]} channels against {wanted}",
            labels=_origins(ctx, given, x, w),
            help=f"kernels are [{layout}, {_SPATIAL[w.type.rank - 2]}]",
        )
    if x.type.shape[1] != wanted:
        return retype(ctx, x, (x.type.shape[0], wanted, *x.type.shape[2:]), call)
    return x


def _convolution(spatial: int, ctx: Context, call: tree.Call, given: Arguments) -> Item:
    name = f"conv{spatial}d"
    pair = _pair_of(ctx, call, given, name, spatial, "outputs, inputs")
    stride = _each(ctx, given["stride"], "the stride", 1, spatial)
    dilation = _each(ctx, given["dilation"], "the dilation", 1, spatial)
    groups = _groups(ctx, given["groups"])
    if pair is None or stride is None or dilation is None or groups is None:
        return POISON
    x, w = pair
    padding = _padding_of(ctx, given, w, stride, dilation)
    if padding is None:
        return POISON
    layout = "outputs, inputs / groups"
    wanted = w.type.shape[1] * groups
    image = _channels(ctx, call, given, name, x, w, wanted, layout)
    if isinstance(image, Poison):
        return POISON
    for axis in range(spatial):
        taps = ctx.defaulted(w.type.shape[2 + axis])
        span = 0 if taps is None else (taps - 1) * dilation[axis] + 1
        if not _fits(ctx, x.type.shape[2 + axis], padding[axis], span):
            message = f"the kernel of `{show_type(w)}` is larger than the padded `{show_type(x)}`"
            return ctx.error("GC0302", message, call, labels=_origins(ctx, given, x, w))
    axes: Attrs = {"stride": stride, "padding": padding, "dilation": dilation}
    return ctx.op(call, name, image, w, **axes, groups=groups)


def _transposed(spatial: int, ctx: Context, call: tree.Call, given: Arguments) -> Item:
    """The transpose of the convolution with the same kernel, as in PyTorch: kernels are [inputs,
    outputs / groups, ...], and ``output_padding`` adds places at the end of what strides leave
    open.
    """
    name = f"conv_transpose{spatial}d"
    pair = _pair_of(ctx, call, given, name, spatial, "inputs, outputs")
    stride = _each(ctx, given["stride"], "the stride", 1, spatial)
    dilation = _each(ctx, given["dilation"], "the dilation", 1, spatial)
    padding = _padding(ctx, given["padding"], spatial)
    more = _each(ctx, given["output_padding"], "the output padding", 0, spatial)
    groups = _groups(ctx, given["groups"])
    if pair is None or stride is None or dilation is None or padding is None or more is None:
        return POISON
    if groups is None:
        return POISON
    x, w = pair
    image = _channels(ctx, call, given, name, x, w, w.type.shape[0], "inputs, outputs / groups")
    if isinstance(image, Poison):
        return POISON
    size: list[Dim] = []
    for axis in range(spatial):
        if more[axis] >= stride[axis]:
            message = f"the output padding must be less than the stride, {stride[axis]}"
            return ctx.error("GC0405", message, given["output_padding"].node)
        reach = (w.type.shape[2 + axis] - 1) * dilation[axis] + 1
        found = (x.type.shape[2 + axis] - 1) * stride[axis] + reach
        found = found + more[axis] - sum(padding[axis])
        known = ctx.defaulted(found)
        if known is not None and known < 1:
            message = f"the padding of {sum(padding[axis])} leaves nothing of `{show_type(x)}`"
            return ctx.error("GC0302", message, call, labels=_origins(ctx, given, x, w))
        size.append(found)
    axes: Attrs = {"stride": stride, "padding": padding, "dilation": dilation}
    return ctx.op(call, f"conv{spatial}d_input", image, w, **axes, size=tuple(size), groups=groups)


for _spatial in _SPATIAL:
    word(
        f"conv{_spatial}d x w stride padding dilation groups",
        stride=1, padding=0, dilation=1, groups=1,
    )(partial(_convolution, _spatial))  # fmt: skip
    word(
        f"conv_transpose{_spatial}d x w stride padding output_padding dilation groups",
        stride=1, padding=0, output_padding=0, dilation=1, groups=1,
    )(partial(_transposed, _spatial))  # fmt: skip


# --- pooling


def _pool(ctx: Context, call: tree.Call, given: Arguments, name: str) -> Item:
    """Pooling of images, and of sequences as images of height 1."""
    x = _pooled(ctx, given["x"], name)
    if x is None:
        return POISON
    count = x.type.rank - 2
    size = _each(ctx, given["size"], "the window", 1, count)
    is_given = given["stride"].is_given
    stride = _each(ctx, given["stride"], "the stride", 1, count) if is_given else size
    padding = _padding(ctx, given["padding"], count)
    if size is None or stride is None or padding is None:
        return POISON
    for axis in range(count):
        if max(padding[axis]) >= size[axis]:
            message = f"the padding of `{name}` must be less than the window's {size[axis]}"
            return ctx.error("GC0302", message, given["padding"].node)
        if not _fits(ctx, x.type.shape[2 + axis], padding[axis], size[axis]):
            shown = " x ".join(map(str, size))
            message = f"the window of {shown} is larger than `{show_type(x)}`"
            return ctx.error("GC0302", message, call)
    if count == 2:
        return ctx.op(call, name, x, size=size, stride=stride, padding=padding)
    images, channels, length = x.type.shape
    image = ctx.op(call, "reshape", x, shape=(images, channels, 1, length))
    if isinstance(image, Poison):
        return POISON
    found = ctx.op(
        call, name, image, size=(1, *size), stride=(1, *stride), padding=((0, 0), *padding)
    )
    if isinstance(found, Poison):
        return POISON
    return ctx.op(call, "reshape", found, shape=(images, channels, found.type.shape[3]))


def _pooled(ctx: Context, argument: Argument, name: str) -> Value | None:
    value = floats(ctx, argument, name)
    if value is not None and value.type.rank not in (3, 4):
        message = (
            f"`{name}` takes an array of axes {_IMAGES} or [batch, channels, length], "
            f"not `{show_type(value)}`"
        )
        ctx.error("GC0302", message, argument.node, labels=[origin(ctx, argument.node, value)])
        return None
    return value


@word("max_pool x size stride padding", stride=0, padding=0)
def _max_pool(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    return _pool(ctx, call, given, "max_pool")


@word("avg_pool x size stride padding", stride=0, padding=0)
def _avg_pool(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    return _pool(ctx, call, given, "avg_pool")
