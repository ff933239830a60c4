"""Operators: folding of compile-time numbers, elementwise ops on arrays, the matrix product.

Folding follows IEEE double precision and never raises: division by zero gives an infinity or NaN,
as at run time. Integers stay exact dimensions under ``+ - * // %`` and positive powers; ``/`` gives
a float.

Small integer powers become products, so that x^2 has the derivative 2x at every x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, TypeAlias

from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.shapes import aligned, broadcast_shapes, origin, retype, stretch
from gradc.frontend.elaborate.values import (
    POISON,
    Item,
    Poison,
    as_dim,
    describe,
    is_number,
    show_type,
)
from gradc.frontend.syntax import tree
from gradc.ir.tensor.core import DType, Value
from gradc.ir.tensor.dims import Dim, DimExpr, floordiv

Number: TypeAlias = int | float | DimExpr

ELEMENTWISE: Final = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "//": "floordiv",
    "%": "mod",
    "^": "pow",
    "<": "lt",
    "<=": "le",
    ">": "gt",
    ">=": "ge",
    "==": "eq",
    "!=": "ne",
    "and": "logical_and",
    "or": "logical_or",
}
_COMPARISONS: Final = frozenset(("<", "<=", ">", ">=", "==", "!="))
_LARGEST_FOLDED: Final = 2**63


def binary(
    ctx: Context,
    symbol: str,
    items: tuple[Item, Item],
    nodes: tuple[tree.Node, tree.Node],
    node: tree.Node,
) -> Item:
    """``items[0] symbol items[1]``, written as ``node``."""
    a, b = items
    if isinstance(a, Poison) or isinstance(b, Poison):
        return POISON
    if symbol == "@":
        return matmul(ctx, items, nodes, node)
    if not isinstance(a, Value) and not isinstance(b, Value):
        return _fold(ctx, symbol, a, b, node)
    if symbol == "^" and isinstance(b, (int, float)) and not isinstance(b, bool):
        assert isinstance(a, Value)
        return power(ctx, a, b, nodes, node)
    operands = aligned(ctx, items, nodes, f"`{symbol}`", node)
    if isinstance(operands, Poison):
        return POISON
    refusal = _refusal(symbol, operands[0].type.dtype)
    if refusal:
        return ctx.error(
            "GC0303",
            f"`{symbol}` does not apply to `{operands[0].type.dtype}`",
            node,
            labels=[origin(ctx, n, i) for n, i in zip(nodes, items, strict=True)],
            help=refusal,
        )
    return ctx.op(node, ELEMENTWISE[symbol], *operands)


def _refusal(symbol: str, dtype: DType) -> str:
    """What to write instead where ``symbol`` does not take ``dtype``, or an empty string."""
    is_logical = symbol in ("and", "or")
    if is_logical and dtype is not DType.BOOL:
        return "compare first, as in `x > 0 and x < 1`"
    if dtype is DType.BOOL and not is_logical and symbol not in ("==", "!="):
        return "convert it first: `cast(x, float)`"
    if symbol == "/" and not dtype.is_float:
        return "use `//` for integers, or convert first: `cast(x, float)`"
    if symbol in ("//", "%") and dtype.is_float:
        return "use `floor(a / b)`"
    if symbol == "^" and not dtype.is_float:
        return "convert it first: `cast(x, float)`"
    return ""


def power(
    ctx: Context,
    base: Value,
    exponent: float,
    nodes: tuple[tree.Node, tree.Node],
    node: tree.Node,
) -> Item:
    """``base ^ exponent`` for a known exponent."""
    dtype = base.type.dtype
    whole = int(exponent) if float(exponent).is_integer() and abs(exponent) <= 4 else None
    if whole is not None and whole >= 1 and dtype is not DType.BOOL:
        result: Value | Poison = base
        if whole >= 2:
            result = ctx.op(node, "mul", base, base)
        if whole == 4 and isinstance(result, Value):
            return ctx.op(node, "mul", result, result)
        if whole == 3 and isinstance(result, Value):
            return ctx.op(node, "mul", result, base)
        return result
    if dtype.is_float and exponent == 0.5:
        return ctx.op(node, "sqrt", base)
    if dtype.is_float and exponent == -1:
        one = ctx.constant(node, 1.0, dtype, base.type.shape)
        return ctx.op(node, "div", one, base)
    if not dtype.is_float:
        return ctx.error(
            "GC0303",
            f"`^` does not take `{dtype}` to the power {exponent}",
            node,
            help="integers have the powers 1 to 4; convert first: `cast(x, float)`",
        )
    return ctx.op(node, "pow", base, ctx.constant(nodes[1], exponent, dtype, base.type.shape))


# --- compile-time numbers


def _fold(ctx: Context, symbol: str, a: Item, b: Item, node: tree.Node) -> Item:
    if symbol in ("and", "or"):
        if isinstance(a, bool) and isinstance(b, bool):
            return (a and b) if symbol == "and" else (a or b)
        wrong = b if isinstance(a, bool) else a
        message = f"`{symbol}` joins conditions, not {describe(wrong)}"
        return ctx.error("GC0308", message, node)
    if symbol in ("==", "!=") and type(a) is type(b) and not is_number(a):
        return (a == b) == (symbol == "==")
    if not (is_number(a) and is_number(b)):
        wrong = b if is_number(a) else a
        return ctx.error(
            "GC0308", f"`{symbol}` takes numbers and arrays, not {describe(wrong)}", node
        )
    assert isinstance(a, (int, float, DimExpr)) and isinstance(b, (int, float, DimExpr))
    if symbol in _COMPARISONS:
        return _compare(symbol, ctx.number(a), ctx.number(b))
    dims = as_dim(a), as_dim(b)
    if dims[0] is not None and dims[1] is not None and symbol != "/":
        return fold_dims(ctx, symbol, dims[0], dims[1], node)
    return fold_floats(symbol, float(ctx.number(a)), float(ctx.number(b)))


def _compare(symbol: str, a: float, b: float) -> bool:
    table = {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b, "!=": a != b}
    return table[symbol]


def fold_dims(ctx: Context, symbol: str, a: Dim, b: Dim, node: tree.Node) -> Item:
    """Exact arithmetic of dimensions; a power with a negative or symbolic exponent gives a
    float.
    """
    if symbol in ("//", "%"):
        if b == 0:
            message = f"{a} {symbol} 0: a dimension is divided by zero"
            return ctx.error("GC0403", message, node)
        quotient = floordiv(a, b)
        return quotient if symbol == "//" else a - quotient * b
    if symbol == "^":
        return _dim_power(ctx, a, b)
    result = a + b if symbol == "+" else a - b if symbol == "-" else a * b
    if isinstance(result, int) and abs(result) >= _LARGEST_FOLDED:
        return ctx.error("GC0402", "this number is beyond 64 bits", node)
    return result


def _dim_power(ctx: Context, a: Dim, b: Dim) -> Item:
    if isinstance(b, int) and 0 <= b <= 8:
        result: Dim = 1
        for _ in range(b):
            result = result * a
        if not isinstance(result, int) or abs(result) < _LARGEST_FOLDED:
            return result
    return fold_floats("^", float(ctx.number(a)), float(ctx.number(b)))


def fold_floats(symbol: str, a: float, b: float) -> float:
    """IEEE arithmetic of two doubles; never raises."""
    if symbol == "+":
        return a + b
    if symbol == "-":
        return a - b
    if symbol == "*":
        return a * b
    if symbol == "/":
        return divide(a, b)
    if symbol == "^":
        return _float_power(a, b)
    quotient = divide(a, b)
    floored = float(math.floor(quotient)) if math.isfinite(quotient) else quotient
    return floored if symbol == "//" else a - floored * b


def divide(a: float, b: float) -> float:
    """IEEE division."""
    if b != 0.0:
        return a / b
    if a == 0.0 or math.isnan(a):
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1.0, b)


def _float_power(a: float, b: float) -> float:
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0 and b % 2 == 1 else math.inf
    except ValueError:
        # Zero to a negative power is infinite, a negative base has no other real power.
        return math.inf if a == 0.0 else math.nan


def negate(ctx: Context, item: Item, node: tree.Node) -> Item:
    """``-item``."""
    if isinstance(item, Poison):
        return item
    if isinstance(item, Value):
        if item.type.dtype is DType.BOOL:
            help = "use `not`, or convert it: `cast(x, float)`"
            return ctx.error("GC0303", "`-` does not apply to `bool`", node, help=help)
        return ctx.op(node, "neg", item)
    if isinstance(item, (int, float, DimExpr)) and not isinstance(item, bool):
        return -item
    return ctx.error("GC0308", f"`-` takes numbers and arrays, not {describe(item)}", node)


def invert(ctx: Context, item: Item, node: tree.Node) -> Item:
    """``not item``."""
    if isinstance(item, Poison):
        return item
    if isinstance(item, bool):
        return not item
    if isinstance(item, Value) and item.type.dtype is DType.BOOL:
        return ctx.op(node, "logical_not", item)
    shown = describe(item)
    help = "compare first, as in `not (x > 0)`"
    return ctx.error("GC0308", f"`not` takes conditions, not {shown}", node, help=help)


# --- the matrix product


def matmul(
    ctx: Context,
    items: tuple[Item, Item],
    nodes: tuple[tree.Node, tree.Node],
    node: tree.Node,
) -> Item:
    """``a @ b`` as NumPy means it: vectors, matrices, stacks of matrices whose stacks broadcast."""
    a, b = items
    for item, at in zip(items, nodes, strict=True):
        if not isinstance(item, Value) or item.type.rank == 0:
            message = f"`@` multiplies vectors and matrices, not {describe(item)}"
            return ctx.error("GC0302", message, at, help="use `*` for scalars")
    assert isinstance(a, Value) and isinstance(b, Value)
    inner_axis = max(b.type.rank - 2, 0)
    inner, other = a.type.shape[-1], b.type.shape[inner_axis]
    labels = [origin(ctx, n, v) for n, v in zip(nodes, (a, b), strict=True)]
    if a.type.dtype is not b.type.dtype or not a.type.dtype.is_float:
        message = f"`@` of `{show_type(a)}` and `{show_type(b)}`"
        help = "both sides must hold the same floating type; convert with `cast(x, float)`"
        return ctx.error("GC0303", message, node, labels=labels, help=help)
    if not ctx.same(inner, other):
        return ctx.error(
            "GC0302",
            f"shapes do not multiply: `{show_type(a)}` @ `{show_type(b)}`",
            node,
            label=f"inner sizes are `{inner}` and `{other}`",
            labels=labels,
            help=_matmul_help(ctx, a, b),
        )
    if a.type.rank <= 2 and b.type.rank <= 2:
        return contract(ctx, node, a, b, (), ((a.type.rank - 1, inner_axis),))
    if b.type.rank <= 2:
        return contract(ctx, node, a, b, (), ((a.type.rank - 1, inner_axis),))
    return _batched(ctx, a, b, nodes, node)


def _matmul_help(ctx: Context, a: Value, b: Value) -> str:
    """Names the transposition that would make the sizes fit, if there is one."""
    if b.type.rank >= 2 and ctx.same(a.type.shape[-1], b.type.shape[-1]):
        return "the sizes fit if the right side is transposed: `a @ b.T`"
    if a.type.rank >= 2 and ctx.same(a.type.shape[-2], b.type.shape[max(b.type.rank - 2, 0)]):
        return "the sizes fit if the left side is transposed: `a.T @ b`"
    return "the last size of the left side must be the first size of the right side"


def _batched(
    ctx: Context,
    a: Value,
    b: Value,
    nodes: tuple[tree.Node, tree.Node],
    node: tree.Node,
) -> Item:
    """``b`` is a stack of matrices; ``a`` a vector, a matrix or a stack."""
    stack = b.type.shape[:-2]
    if a.type.rank <= 2:
        # Free axes of a come first in the result; they belong behind the stack.
        product = contract(ctx, node, a, b, (), ((a.type.rank - 1, b.type.rank - 2),))
        if isinstance(product, Poison) or a.type.rank == 1:
            return product
        perm = (*range(1, 1 + len(stack)), 0, 1 + len(stack))
        return ctx.op(node, "transpose", product, perm=perm)
    common = broadcast_shapes(ctx, a.type.shape[:-2], stack)
    if common is None:
        message = f"stacks of matrices do not fit: `{show_type(a)}` @ `{show_type(b)}`"
        labels = [origin(ctx, n, v) for n, v in zip(nodes, (a, b), strict=True)]
        return ctx.error("GC0302", message, node, labels=labels)
    left = stretch(ctx, a, (*common, *a.type.shape[-2:]), nodes[0])
    right = stretch(ctx, b, (*common, *b.type.shape[-2:]), nodes[1])
    if isinstance(left, Poison) or isinstance(right, Poison):
        return POISON
    count = len(common)
    batch = tuple((axis, axis) for axis in range(count))
    return contract(ctx, node, left, right, batch, ((count + 1, count),))


def contract(
    ctx: Context,
    node: tree.Node,
    a: Value,
    b: Value,
    batch: Sequence[tuple[int, int]],
    pairs: Sequence[tuple[int, int]],
) -> Value | Poison:
    """Emits ``contract``; sizes that are equal only in the sample are renamed to those of ``a``
    first.
    """
    shape = list(b.type.shape)
    for left, right in (*batch, *pairs):
        shape[right] = a.type.shape[left]
    if tuple(shape) != b.type.shape:
        b = retype(ctx, b, tuple(shape), node)
    return ctx.op(node, "contract", a, b, batch=tuple(batch), contract=tuple(pairs))
