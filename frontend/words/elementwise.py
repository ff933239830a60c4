"""Elementwise words: each is one op of the same name, folded where its argument is a compile-time
number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import gradc.ir.ops  # noqa: F401  (fills the registry)
from gradc.frontend.elaborate.arithmetic import divide, negate
from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.shapes import aligned, broadcast_shapes, shapes_differ, stretch
from gradc.frontend.elaborate.values import POISON, Argument, Item, Poison, describe, is_number
from gradc.frontend.elaborate.words import WORDS, Arguments, array, dtype, floats, number, word
from gradc.frontend.syntax import tree
from gradc.ir.ops.registry import OpDef, all_ops
from gradc.ir.tensor.core import DType, Value
from gradc.ir.tensor.dims import DimExpr

# Meanings on compile-time numbers. Domain errors give what IEEE gives.
_FOLDS: Final[dict[str, Callable[[float], float]]] = {
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "tanh": math.tanh,
    "erf": math.erf,
}
_FLOAT_ONLY: Final = (*_FOLDS, "rsqrt", "sigmoid", "softplus", "gelu", "silu", "round", "floor")
_ANY_NUMBER: Final = ("abs", "sign", "relu")


def fold(name: str, x: float) -> float:
    """``name(x)`` in double precision; infinities and NaN where the domain ends."""
    try:
        return _FOLDS[name](x)
    except OverflowError:
        return math.inf
    except ValueError:
        at_pole = (name == "log" and x == 0.0) or (name == "log1p" and x == -1.0)
        return -math.inf if at_pole else math.nan


def _float_word(name: str) -> None:
    @word(f"{name} x")
    def meaning(ctx: Context, call: tree.Call, given: Arguments) -> Item:
        item = given["x"].item
        if isinstance(item, (int, float, DimExpr)) and not isinstance(item, bool):
            if name in _FOLDS:
                return fold(name, float(ctx.number(item)))
            if name == "rsqrt":
                return divide(1.0, fold("sqrt", float(ctx.number(item))))
        value = floats(ctx, given["x"], name)
        return POISON if value is None else ctx.op(call, name, value)


def _number_word(name: str) -> None:
    @word(f"{name} x")
    def meaning(ctx: Context, call: tree.Call, given: Arguments) -> Item:
        item = given["x"].item
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            return _fold_number(name, item)
        value = array(ctx, given["x"])
        if value is None:
            return POISON
        if value.type.dtype is DType.BOOL or (name == "relu" and not value.type.dtype.is_float):
            message = f"`{name}` takes numbers, and this holds `{value.type.dtype}`"
            help = "convert it first: `cast(x, float)`"
            return ctx.error("GC0303", message, given["x"].node, help=help)
        return ctx.op(call, name, value)


def _fold_number(name: str, x: float) -> int | float:
    if name == "abs":
        return abs(x)
    if name == "relu":
        return x if x > 0 else x * 0
    return math.nan if math.isnan(x) else (x > 0) - (x < 0)


for _name in _FLOAT_ONLY:
    _float_word(_name)
for _name in _ANY_NUMBER:
    _number_word(_name)


def _is_plain(definition: OpDef) -> bool:
    """Whether an op is elementwise on one floating array, without attributes: then it is a word as
    it stands.
    """
    first = definition.samples[0] if definition.samples else None
    if first is None or not definition.is_elementwise or len(first.operands) != 1:
        return False
    return first.operands[0].dtype.is_float and not first.attributes


for _definition in all_ops():
    if _is_plain(_definition) and _definition.name not in WORDS:
        _float_word(_definition.name)


@word("neg x")
def _neg(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    return negate(ctx, given["x"].item, call)


@word("leaky_relu x slope", slope=0.01)
def _leaky_relu(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    value, slope = floats(ctx, given["x"], "leaky_relu"), number(ctx, given["slope"], "the slope")
    if value is None or slope is None:
        return POISON
    return ctx.op(call, "leaky_relu", value, slope=slope)


@word("stop_gradient x")
def _stop_gradient(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    item = given["x"].item
    return ctx.op(call, "stop_gradient", item) if isinstance(item, Value) else item


@word("cast x type")
def _cast(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    target = dtype(ctx, given["type"], "cast")
    if target is None:
        return POISON
    item = given["x"].item
    if is_number(item):
        assert isinstance(item, (int, float, DimExpr))
        return _cast_number(ctx, given["x"], ctx.number(item), target)
    value = array(ctx, given["x"])
    if value is None or value.type.dtype is target:
        return POISON if value is None else value
    return ctx.op(call, "cast", value, dtype=target)


def _cast_number(ctx: Context, argument: Argument, value: float, target: DType) -> Item:
    if target.is_float:
        return ctx.constant(argument.node, float(value), target)
    if target is DType.BOOL:
        return ctx.constant(argument.node, value != 0, target)
    if not math.isfinite(value):
        message = f"{describe(value)} has no integer value"
        return ctx.error("GC0402", message, argument.node)
    return ctx.constant(argument.node, int(value), target)


@word("where condition a b")
def _where(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    condition, a, b = given["condition"], given["a"], given["b"]
    if isinstance(condition.item, bool):
        return a.item if condition.item else b.item
    mask = array(ctx, condition)
    if mask is None:
        return POISON
    if mask.type.dtype is not DType.BOOL:
        message = f"`where` takes a condition, and this holds `{mask.type.dtype}`"
        return ctx.error("GC0303", message, condition.node, help="compare it: `where(x > 0, a, b)`")
    branches = aligned(ctx, (a.item, b.item), (a.node, b.node), "`where`", call)
    if isinstance(branches, Poison):
        return POISON
    shape = broadcast_shapes(ctx, mask.type.shape, branches[0].type.shape)
    if shape is None:
        node = a.node if isinstance(a.item, Value) else b.node
        return shapes_differ(ctx, (mask, branches[0]), (condition.node, node), "`where`", call)
    parts = [
        stretch(ctx, value, shape, at.node)
        for value, at in zip((mask, *branches), (condition, a, b), strict=True)
    ]
    values = [part for part in parts if isinstance(part, Value)]
    return ctx.op(call, "select", *values) if len(values) == 3 else POISON


@word("clip x low high")
def _clip(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    low = extremum(ctx, call, "max", (given["x"], given["low"]))
    return extremum(ctx, call, "min", (Argument(low, call), given["high"]))


def extremum(ctx: Context, call: tree.Call, name: str, pair: tuple[Argument, Argument]) -> Item:
    """The elementwise greater or smaller of two."""
    a, b = pair[0].item, pair[1].item
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        # Python's own would depend on the order where one is NaN.
        return math.nan if math.isnan(a) or math.isnan(b) else (max if name == "max" else min)(a, b)
    operands = aligned(ctx, (a, b), (pair[0].node, pair[1].node), f"`{name}`", call)
    if isinstance(operands, Poison):
        return POISON
    if operands[0].type.dtype is DType.BOOL:
        help = "use `and` and `or` on conditions"
        return ctx.error("GC0303", f"`{name}` does not take `bool`", call, help=help)
    return ctx.op(call, name, *operands)
