"""Declarations in bodies: parameters, states and layer instances.

Invariants: a path is declared once; parameters become block parameters of the function being built,
whatever region is current (structure keeps declarations out of regions).
"""

from __future__ import annotations

from gradc.frontend.elaborate import calls
from gradc.frontend.elaborate.context import Context, Declared
from gradc.frontend.elaborate.shapes import element_type
from gradc.frontend.elaborate.signatures import exact_shape, unknown_type
from gradc.frontend.elaborate.values import POISON, Instances, Item, Poison, as_dim, describe
from gradc.frontend.syntax import tree
from gradc.ir.diagnostics.diagnostic import Label
from gradc.ir.tensor.core import Role, TensorType, Value

# `use blocks = block(D) * count` makes at most this many instances.
MAX_INSTANCES = 10_000


def path_of(ctx: Context, name: str) -> str:
    """The path of a member called ``name`` of what is being elaborated."""
    scope = ctx.frame.scope
    return f"{scope}.{name}" if scope else name


def is_free(ctx: Context, name: tree.Name, what: str) -> bool:
    """Whether nothing was declared under ``name`` here; reports otherwise."""
    path = path_of(ctx, name.text)
    first = ctx.paths.get(path)
    if first is None:
        ctx.paths[path] = ctx.span(name)
        return True
    ctx.error(
        "GC0202",
        f"{what} `{name.text}` is declared, and there is one of this name already",
        name,
        labels=[Label(first, "first declared here")],
        help="rename one of the two",
    )
    return False


def declare_param(ctx: Context, node: tree.Statement) -> None:
    """``param w: float[I, O] ~ he_normal``."""
    assert isinstance(node, tree.ParamDeclaration)
    name = node.name
    item: Item = POISON
    if is_free(ctx, name, "parameter"):
        item = _declare(ctx, node, node.type, Role.PARAM)
        if isinstance(item, Value) and not item.type.dtype.is_float:
            ctx.error(
                "GC0313",
                f"a parameter is trained, and `{item.type.dtype}` has no derivative",
                node.type,
                help="use `float`, or `state` for what is not trained",
            )
            item = POISON
    ctx.bind(name.text, item, name.span)
    if isinstance(item, Poison):
        ctx.frame.is_spoilt = True


def declare_state(ctx: Context, node: tree.Statement) -> None:
    """``state mean: float[C] ~ zeros``."""
    assert isinstance(node, tree.StateDeclaration)
    path = path_of(ctx, node.name.text)
    if node.type is None:
        message = f"`state {node.name.text}` has no type"
        help = f"write `state {node.name.text}: float[C] ~ zeros`"
        ctx.error("GC0118", message, node, help=help)
        return
    if not is_free(ctx, node.name, "state"):
        return
    ctx.frame.states[node.name.text] = path
    item = _declare(ctx, node, node.type, Role.STATE)
    if isinstance(item, Value):
        ctx.state_values[path] = item


def _declare(
    ctx: Context,
    node: tree.ParamDeclaration | tree.StateDeclaration,
    type_: tree.TypeExpr,
    role: Role,
) -> Item:
    dtype = element_type(ctx, type_.element.text)
    if dtype is None:
        return unknown_type(ctx, type_)
    shape = exact_shape(ctx, type_)
    if shape is None:
        return POISON
    path = path_of(ctx, node.name.text)
    if node.initializer is None:
        word = "param" if role is Role.PARAM else "state"
        start = "he_normal" if role is Role.PARAM else "zeros"
        return ctx.error(
            "GC0208",
            f"`{word} {node.name.text}` does not say how it starts",
            node,
            help=f"write `{word} {node.name.text}: {ctx.text_of(type_.span)} ~ {start}`",
        )
    value = Value(TensorType(shape, dtype), path)
    ctx.declared[path] = Declared(
        path, role, value, node, ctx.span(node.name), node.initializer, ctx.frame
    )
    return value


def declare_use(ctx: Context, node: tree.Statement) -> None:
    """``use fc1 = dense(D, H)`` or ``use blocks = block(D, N) * L``."""
    assert isinstance(node, tree.UseDeclaration)
    item: Item = POISON
    if is_free(ctx, node.name, "layer"):
        path = path_of(ctx, node.name.text)
        item = (
            calls.instantiate(ctx, node, path)
            if node.count is None
            else _several(ctx, node, node.count, path)
        )
    ctx.bind(node.name.text, item, node.name.span)
    if isinstance(item, Poison):
        ctx.frame.is_spoilt = True


def _several(
    ctx: Context, node: tree.UseDeclaration, count: tree.Expr, path: str
) -> Instances | Poison:
    number = ctx.evaluate(count)
    if isinstance(number, Poison):
        return POISON
    dim = as_dim(number)
    known = None if dim is None else ctx.sampled(dim)
    if known is None or not 0 <= known <= MAX_INSTANCES:
        shown = describe(number)
        message = f"the number of layers is an integer from 0 to {MAX_INSTANCES}, not {shown}"
        return ctx.error("GC0401", message, count)
    made = []
    for position in range(known):
        instance = calls.instantiate(ctx, node, f"{path}.{position}")
        if isinstance(instance, Poison) or ctx.too_large(node):
            return POISON
        made.append(instance)
    return Instances(path, tuple(made))
