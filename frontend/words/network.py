"""The word of dropout.

It draws from a counter-based generator keyed by the model's random counter (seed, step) and by the
call's own stream number, so that recomputation draws the same numbers. Inside a ``scan`` every trip
has a key of its own, drawn outside and handed in like any other input.
"""

from __future__ import annotations

from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.values import (
    POISON,
    Item,
    Poison,
    as_dim,
)
from gradc.frontend.elaborate.words import Arguments, floats, number, word
from gradc.frontend.syntax import tree
from gradc.ir.tensor.core import DType, TensorType, Value

_KEY = TensorType((2,), DType.U32)
_U32_RANGE = 1 << 32


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
