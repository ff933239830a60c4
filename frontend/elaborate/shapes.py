"""Shapes and element types of operands: constants become tensors, sizes are compared, ones are
stretched.

Broadcasting aligns trailing dimensions; only a dimension that *is* the integer 1 stretches. Symbols
that happen to be bound to 1 are checked as symbols first, so they never stretch by accident.

Invariants: what is emitted has operands of equal type. Errors name both operands and where they
come from.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.values import POISON, Item, Poison, describe, is_number, show_type
from gradc.frontend.syntax import tree
from gradc.ir.diagnostics.diagnostic import Label
from gradc.ir.tensor.core import DType, TensorType, Value
from gradc.ir.tensor.dims import Dim, DimExpr

DTYPES = {
    "int": DType.I32,
    "bool": DType.BOOL,
    "f64": DType.F64,
    "f32": DType.F32,
    "bf16": DType.BF16,
    "f16": DType.F16,
    "i64": DType.I64,
    "i32": DType.I32,
    "u32": DType.U32,
}


def element_type(ctx: Context, name: str) -> DType | None:
    """The element type called ``name``; ``float`` is the program's (or this call's) floating
    type.
    """
    return ctx.frame.floating if name == "float" else DTYPES.get(name)


def origin(ctx: Context, node: tree.Node, item: Item) -> Label:
    """A label that shows the type of the operand ``item`` written as ``node``, where it was
    given.
    """
    if isinstance(node, tree.Name):
        binding = ctx.frame.names.get(node.text)
        if binding is not None and binding.span is not None:
            return Label(binding.span, f"`{node.text}` is {plain(item)}")
    return Label(ctx.span(node), f"this is {plain(item)}")


def plain(item: Item) -> str:
    """The type of a tensor without quotes, or what else it is."""
    return show_type(item) if isinstance(item, Value) else describe(item)


def tensor(ctx: Context, item: Item, node: tree.Node, dtype: DType | None = None) -> Value | Poison:
    """``item`` as a tensor; compile-time numbers become scalars of ``dtype`` (or their natural
    type).
    """
    if isinstance(item, (Value, Poison)):
        return item
    if isinstance(item, bool):
        return ctx.constant(node, item, DType.BOOL)
    if isinstance(item, float):
        if dtype is not None and not dtype.is_float:
            return ctx.error("GC0303", f"`{item}` is not an integer", node, help=_cast_help(dtype))
        return ctx.constant(node, item, dtype or ctx.frame.floating)
    if isinstance(item, (int, DimExpr)):
        return ctx.constant(node, item, dtype or DType.I32)
    if isinstance(item, tuple):
        return ctx.error(
            "GC0308",
            f"an array is expected here, not {describe(item)}",
            node,
            help="combine scalars and arrays with `stack` or `concat`",
        )
    return ctx.error("GC0308", f"an array is expected here, not {describe(item)}", node)


def _cast_help(dtype: DType) -> str:
    return f"the other side holds `{dtype}`; convert it with `cast(..., float)`"


def literal(ctx: Context, item: Item, node: tree.Node, like: TensorType) -> Value | Poison:
    """A compile-time number as a tensor of the shape and element type ``like``, to which it
    adapts.
    """
    assert isinstance(item, (bool, int, float, DimExpr))
    dtype = like.dtype
    if isinstance(item, bool) != (dtype is DType.BOOL):
        return ctx.error(
            "GC0303",
            f"{describe(item)} and an array of `{dtype}` do not mix",
            node,
            help="choose between values with `where(condition, a, b)`",
        )
    if isinstance(item, float) and not dtype.is_float:
        return ctx.error(
            "GC0303",
            f"{describe(item)} is not an integer, and the other operand holds `{dtype}`",
            node,
            help="convert the integers first: `cast(x, float)`",
        )
    return ctx.constant(node, item, dtype, like.shape)


def broadcast_shapes(ctx: Context, a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...] | None:
    """The common shape, or None where two dimensions differ and neither is 1."""
    rank = max(len(a), len(b))
    result: list[Dim] = []
    for left, right in zip(_padded(a, rank), _padded(b, rank), strict=True):
        if left == 1:
            result.append(right)
        elif right == 1 or ctx.same(left, right):
            result.append(left)
        else:
            return None
    return tuple(result)


def _padded(shape: Sequence[Dim], rank: int) -> tuple[Dim, ...]:
    return (*((1,) * (rank - len(shape))), *shape)


def stretch(ctx: Context, value: Value, shape: tuple[Dim, ...], node: tree.Node) -> Value | Poison:
    """``value`` broadcast to ``shape``, which it is known to fit."""
    if value.type.shape == shape:
        return value
    offset = len(shape) - value.type.rank
    if offset == 0 and all(
        a == b or (a != 1 and ctx.same(a, b)) for a, b in zip(value.type.shape, shape, strict=True)
    ):
        return retype(ctx, value, shape, node)
    # Dimensions equal only in the sample are renamed first, so that the op sees equal ones.
    own = tuple(d if d == 1 else shape[offset + axis] for axis, d in enumerate(value.type.shape))
    if own != value.type.shape:
        value = retype(ctx, value, own, node)
    dims = tuple(range(offset, len(shape)))
    return ctx.op(node, "broadcast", value, shape=shape, dims=dims)


def retype(ctx: Context, value: Value, shape: tuple[Dim, ...], node: tree.Node) -> Value:
    """``value`` with dimensions that are equal but cannot be shown to be; a reshape that is checked
    later.
    """
    type_ = value.type.with_shape(shape)
    (result,) = ctx.append(node, "reshape", [value], [type_], {"shape": shape})
    return result


def aligned(
    ctx: Context,
    items: Sequence[Item],
    nodes: Sequence[tree.Node],
    what: str,
    node: tree.Node,
) -> list[Value] | Poison:
    """The operands of an elementwise op as tensors of one type; compile-time numbers adapt to the
    others.
    """
    if any(isinstance(item, Poison) for item in items):
        return POISON
    for item, at in zip(items, nodes, strict=True):
        if not isinstance(item, (Value, bool)) and not is_number(item):
            return ctx.error("GC0308", f"{what} takes arrays, not {describe(item)}", at)
    first: Value | None = None
    shape: tuple[Dim, ...] = ()
    for index, item in enumerate(items):
        if not isinstance(item, Value):
            continue
        if first is None:
            first, shape, first_index = item, item.type.shape, index
            continue
        if item.type.dtype is not first.type.dtype:
            return types_differ(ctx, (first, item), (nodes[first_index], nodes[index]), what, node)
        common = broadcast_shapes(ctx, shape, item.type.shape)
        if common is None:
            pair = (nodes[first_index], nodes[index])
            return shapes_differ(ctx, (first, item), pair, what, node)
        shape = common
    if first is None:
        return _scalars(ctx, items, nodes)
    like = TensorType(shape, first.type.dtype)
    result: list[Value] = []
    for item, at in zip(items, nodes, strict=True):
        made = (
            stretch(ctx, item, shape, at)
            if isinstance(item, Value)
            else literal(ctx, item, at, like)
        )
        if isinstance(made, Poison):
            return POISON
        result.append(made)
    return result


def _scalars(
    ctx: Context, items: Sequence[Item], nodes: Sequence[tree.Node]
) -> list[Value] | Poison:
    """Compile-time numbers alone become scalars of the program's type, integers if all are."""
    dtype = ctx.frame.floating
    if all(isinstance(item, bool) for item in items):
        dtype = DType.BOOL
    elif not any(isinstance(item, float) for item in items):
        dtype = DType.I32
    made = [
        literal(ctx, item, at, TensorType((), dtype)) for item, at in zip(items, nodes, strict=True)
    ]
    values = [value for value in made if isinstance(value, Value)]
    return values if len(values) == len(made) else POISON


def shapes_differ(
    ctx: Context,
    operands: tuple[Value, Value],
    nodes: tuple[tree.Node, tree.Node],
    what: str,
    node: tree.Node,
) -> Poison:
    """Reports two shapes that do not broadcast."""
    a, b = operands
    return ctx.error(
        "GC0301",
        f"shapes do not fit: {what} of `{show_type(a)}` and `{show_type(b)}`",
        node,
        label=_first_conflict(ctx, a.type.shape, b.type.shape),
        labels=[origin(ctx, nodes[0], a), origin(ctx, nodes[1], b)],
        help="trailing dimensions are aligned, and only a literal size of 1 stretches; "
        "add axes with `x[:, None]` or use `reshape`",
    )


def _first_conflict(ctx: Context, a: Sequence[Dim], b: Sequence[Dim]) -> str:
    for left, right in zip(reversed(a), reversed(b), strict=False):
        if left != 1 and right != 1 and not ctx.same(left, right):
            return f"`{left}` against `{right}`"
    return ""


def types_differ(
    ctx: Context,
    operands: tuple[Value, Value],
    nodes: tuple[tree.Node, tree.Node],
    what: str,
    node: tree.Node,
) -> Poison:
    """Reports two element types that do not mix."""
    a, b = (value.type.dtype for value in operands)
    if a.is_float != b.is_float and DType.BOOL not in (a, b):
        help = "convert the integers with `cast(x, float)`"
    elif DType.BOOL in (a, b):
        help = (
            "choose between values with `where(condition, a, b)`, or convert with `cast(x, float)`"
        )
    else:
        help = f"convert one of them, as in `cast(x, {a})`"
    return ctx.error(
        "GC0303",
        f"element types differ: {what} of `{a}` and `{b}`",
        node,
        labels=[origin(ctx, n, v) for n, v in zip(nodes, operands, strict=True)],
        help=help,
    )
