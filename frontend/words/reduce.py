"""Reductions: words that fold axes away. ``axis`` is one axis or a list; without it, all axes are
folded.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.values import POISON, Item, Poison, describe
from gradc.frontend.elaborate.words import Arguments, axes, axis, flag, numbers, word
from gradc.frontend.syntax import tree
from gradc.frontend.words.elementwise import extremum
from gradc.ir.tensor.core import DType, Value
from gradc.ir.tensor.dims import product

_COUNTED = "count with `sum(cast(x, float))`"


def reduced(
    ctx: Context, call: tree.Call, name: str, value: Value, over: Sequence[int], keepdims: bool
) -> Value | Poison:
    """``value`` folded over axes by the op ``name``; ``keepdims`` leaves them as size 1."""
    result = ctx.op(call, name, value, axes=tuple(over))
    if not keepdims or isinstance(result, Poison):
        return result
    kept = tuple(1 if i in over else d for i, d in enumerate(value.type.shape))
    return result if kept == result.type.shape else ctx.op(call, "reshape", result, shape=kept)


def _reduce(ctx: Context, call: tree.Call, given: Arguments, name: str) -> Item:
    value = numbers(ctx, given["x"], name, _COUNTED)
    if value is None:
        return POISON
    over, keepdims = axes(ctx, given["axis"], value), flag(ctx, given["keepdims"], "keepdims")
    if over is None or keepdims is None:
        return POISON
    return reduced(ctx, call, name, value, over, keepdims)


@word("sum x axis keepdims", axis="all", keepdims=False)
def _sum(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    return _reduce(ctx, call, given, "sum")


@word("prod x axis keepdims", axis="all", keepdims=False)
def _prod(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    return _reduce(ctx, call, given, "prod")


@word("mean x axis keepdims", axis="all", keepdims=False)
def _mean(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    value = numbers(ctx, given["x"], "mean", _COUNTED)
    if value is None:
        return POISON
    if not value.type.dtype.is_float:
        message = f"`mean` takes floating-point numbers, and this holds `{value.type.dtype}`"
        help = "convert it first: `cast(x, float)`"
        return ctx.error("GC0303", message, given["x"].node, help=help)
    over, keepdims = axes(ctx, given["axis"], value), flag(ctx, given["keepdims"], "keepdims")
    if over is None or keepdims is None:
        return POISON
    # Sums of half precision would overflow before they are divided.
    wide = widened(ctx, call, value)
    total = POISON if isinstance(wide, Poison) else reduced(ctx, call, "sum", wide, over, keepdims)
    if isinstance(total, Poison):
        return POISON
    count = product(tuple(value.type.shape[i] for i in over))
    divisor = ctx.constant(call, count, total.type.dtype, total.type.shape)
    quotient = ctx.op(call, "div", total, divisor)
    return quotient if isinstance(quotient, Poison) else cast(ctx, call, quotient, value.type.dtype)


def cast(ctx: Context, call: tree.Call, value: Value, dtype: DType) -> Value | Poison:
    """``value`` in another element type."""
    return value if value.type.dtype is dtype else ctx.op(call, "cast", value, dtype=dtype)


def widened(ctx: Context, call: tree.Call, value: Value) -> Value | Poison:
    """``value`` in f32 if it is in half precision."""
    is_half = value.type.dtype in (DType.F16, DType.BF16)
    return cast(ctx, call, value, DType.F32) if is_half else value


@word("widen x")
def _widen(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    item = given["x"].item
    return widened(ctx, call, item) if isinstance(item, Value) else item


@word("narrow x like")
def _narrow(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    value, like = given["x"].item, given["like"].item
    if not isinstance(value, Value) or not isinstance(like, Value):
        message = f"`narrow` takes two arrays, not {describe(like)}"
        return ctx.error("GC0308", message, given["like"].node)
    return cast(ctx, call, value, like.type.dtype)


def _max_or_min(ctx: Context, call: tree.Call, given: Arguments, name: str) -> Item:
    """``max(a, b)`` compares two arrays, ``max(x, axis = 0)`` folds one."""
    if not given["other"].is_given:
        return _reduce(ctx, call, given, f"reduce_{name}")
    for option in ("axis", "keepdims"):
        if given[option].is_given:
            message = f"`{name}` of two arrays has no `{option}`"
            return ctx.error("GC0203", message, given[option].node)
    return extremum(ctx, call, name, (given["x"], given["other"]))


@word("max x other axis keepdims", other=False, axis="all", keepdims=False)
def _max(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    return _max_or_min(ctx, call, given, "max")


@word("min x other axis keepdims", other=False, axis="all", keepdims=False)
def _min(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    return _max_or_min(ctx, call, given, "min")


@word("argmax x axis", axis=-1)
def _argmax(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    value = numbers(ctx, given["x"], "argmax", _COUNTED)
    if value is None:
        return POISON
    over = axis(ctx, given["axis"], value.type.rank, f"`{value.type}`")
    return POISON if over is None else ctx.op(call, "argmax", value, axis=over)


@word("cumsum x axis reverse", axis=-1, reverse=False)
def _cumsum(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    value = numbers(ctx, given["x"], "cumsum", _COUNTED)
    if value is None:
        return POISON
    over = axis(ctx, given["axis"], value.type.rank, f"`{value.type}`")
    reverse = flag(ctx, given["reverse"], "reverse")
    if over is None or reverse is None:
        return POISON
    return ctx.op(call, "cumsum", value, axis=over, reverse=reverse)


# --- facts about arrays, known at compile time


@word("rank x")
def _rank(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    item = given["x"].item
    return item.type.rank if isinstance(item, Value) else 0


@word("size x axis", axis="all")
def _size(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    item = given["x"].item
    if not isinstance(item, Value):
        message = f"`size` takes an array, not {describe(item)}"
        return ctx.error("GC0308", message, given["x"].node)
    over = axes(ctx, given["axis"], item)
    return POISON if over is None else product(tuple(item.type.shape[i] for i in over))


@word("is_float x")
def _is_float(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    item = given["x"].item
    return item.type.dtype.is_float if isinstance(item, Value) else isinstance(item, float)


# The least positive normal number of each floating type.
_SMALLEST = {
    DType.F64: 2.0**-1022,
    DType.F32: 2.0**-126,
    DType.BF16: 2.0**-126,
    DType.F16: 2.0**-14,
}


@word("smallest x")
def _smallest(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    item = given["x"].item
    dtype = item.type.dtype if isinstance(item, Value) else ctx.frame.floating
    if dtype not in _SMALLEST:
        return ctx.error("GC0303", f"`smallest` takes a floating type, not `{dtype}`", call)
    return _SMALLEST[dtype]
