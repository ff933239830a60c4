"""Expressions and statements: what each node of the syntax tree means.

One elaborator serves checking (dimensions are symbols) and lowering (they are integers). It runs
the program's compile-time part (``if``, ``for``, calls, instances) and emits ops for the rest.

Invariants: an expression that fails is POISON and reported once; statements after it still run, so
that several mistakes are found in one run. The depth of Python's stack is bounded by
``context.MAX_DEPTH``.
Non-goals: derivatives, optimisation.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Final

from gradc.frontend.elaborate.arithmetic import binary, invert, negate
from gradc.frontend.elaborate.calls import call, global_callable, similar
from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.declare import declare_param, declare_state, declare_use
from gradc.frontend.elaborate.glance import check_names, poison
from gradc.frontend.elaborate.indexing import index
from gradc.frontend.elaborate.loops import checkpoint, scan
from gradc.frontend.elaborate.shapes import element_type, tensor
from gradc.frontend.elaborate.values import (
    POISON,
    Instance,
    Instances,
    Item,
    Poison,
    describe,
    is_number,
    show_type,
)
from gradc.frontend.syntax import tree
from gradc.ir.diagnostics.diagnostic import Label, did_you_mean
from gradc.ir.tensor.core import TensorType, Value
from gradc.ir.tensor.dims import DimensionTooLarge

# Each level of an expression takes a few Python frames; the context's own limit comes first.
_STACK: Final = 12_000
_CONSTANTS: Final = {"pi": math.pi, "inf": math.inf, "nan": math.nan}


class Elaborator:
    """The meaning of expressions and statements, for ``Context``."""

    def evaluate(self, ctx: Context, node: tree.Expr) -> Item:
        """What ``node`` stands for."""
        return _EXPRESSIONS[type(node)](ctx, node)

    def execute(self, ctx: Context, block: tree.Block) -> None:
        """Runs statements until one returns."""
        for statement in block:
            try:
                _STATEMENTS[type(statement)](ctx, statement)
            except DimensionTooLarge:
                ctx.dimension_too_large(statement)
                ctx.frame.is_spoilt = True
            if ctx.report.is_full:
                ctx.frame.is_spoilt = True
            if ctx.frame.result is not None or ctx.report.is_full:
                return


def deepen_stack() -> None:
    """Raises Python's recursion limit to what ``MAX_DEPTH`` needs. It is never lowered: threads
    share it.
    """
    if sys.getrecursionlimit() < _STACK:
        sys.setrecursionlimit(_STACK)


# --- expressions


def _literal(_ctx: Context, node: tree.Expr) -> Item:
    assert isinstance(
        node,
        (tree.IntLiteral, tree.FloatLiteral, tree.BoolLiteral, tree.StringLiteral),
    )
    return node.value


def _name(ctx: Context, node: tree.Expr) -> Item:
    assert isinstance(node, tree.Name)
    text = node.text
    binding = ctx.frame.names.get(text)
    if binding is not None:
        return binding.item
    if text in ctx.frame.states:
        # A state's bare name is its stored value, except where it is called: `mean(x)` is the
        # function.
        return ctx.state_values.get(ctx.frame.states[text], POISON)
    if not ctx.frame.is_library and text in ctx.names.dims:
        ctx.used_dims[text] = None
        return ctx.dims[text]
    if text == "training":
        ctx.reads_training = True
        return ctx.training
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    dtype = element_type(ctx, text)
    if dtype is not None:
        return dtype
    found = global_callable(ctx, text)
    if found is not None:
        return found
    return ctx.error("GC0201", f"there is no `{text}` here", node, help=similar(ctx, text))


def _state_read(ctx: Context, node: tree.Expr) -> Item:
    assert isinstance(node, tree.StateRead)
    name = node.name.text
    path = ctx.frame.states.get(name)
    if path is not None and ctx.frame.kind == "update":
        return ctx.frame.names[name].item
    if path is None:
        known = list(ctx.frame.states)
        help = did_you_mean(name, known) or f"declare it: `state {name}: float[...] ~ zeros`"
        return ctx.error("GC0201", f"there is no state `{name}` here", node.name, help=help)
    return ctx.state_values.get(path, POISON)


def _unary(ctx: Context, node: tree.Expr) -> Item:
    assert isinstance(node, tree.Unary)
    item = ctx.evaluate(node.operand)
    if node.operator == "not":
        return invert(ctx, item, node)
    if node.operator == "-":
        return negate(ctx, item, node)
    if isinstance(item, (Value, Poison)) or is_number(item):
        return item
    return ctx.error("GC0308", f"`+` takes numbers and arrays, not {describe(item)}", node)


def _chain(ctx: Context, node: tree.Expr) -> Item:
    assert isinstance(node, tree.Chain)
    item = ctx.evaluate(node.first)
    left: tree.Node = node.first
    for count, link in enumerate(node.rest):
        right = ctx.evaluate(link.operand)
        place = tree.Node(node.prefix_span(count + 1))
        item = binary(ctx, link.operator, (item, right), (left, link.operand), place)
        left = place
    return item


def _call(ctx: Context, node: tree.Expr) -> Item:
    assert isinstance(node, tree.Call)
    return call(ctx, node)


def _index(ctx: Context, node: tree.Expr) -> Item:
    assert isinstance(node, tree.Index)
    return index(ctx, node)


def _attribute(ctx: Context, node: tree.Expr) -> Item:
    assert isinstance(node, tree.Attribute)
    base = ctx.evaluate(node.base)
    name = node.name.text
    if isinstance(base, Poison):
        return POISON
    if isinstance(base, Value) and name == "T":
        if base.type.rank == 2:
            return ctx.op(node, "transpose", base, perm=(1, 0))
        message = f"`.T` transposes matrices, and this is `{show_type(base)}`"
        return ctx.error("GC0308", message, node, help="use `transpose(x, [0, 2, 1])`")
    if isinstance(base, Instance):
        binding = base.names.get(name)
        if binding is not None:
            return binding.item
        if name in base.states:
            return ctx.state_values.get(base.states[name], POISON)
        known = [*base.names, *base.states]
        message = f"{describe(base)} has no part `{name}`"
        return ctx.error("GC0209", message, node.name, help=did_you_mean(name, known))
    help = "the only attribute of an array is `.T`" if isinstance(base, Value) else ""
    return ctx.error("GC0209", f"{describe(base)} has no part `{name}`", node.name, help=help)


def _items(ctx: Context, node: tree.Expr) -> Item:
    assert isinstance(node, (tree.ListExpr, tree.TupleExpr))
    items = tuple(ctx.evaluate(item) for item in node.items)
    return POISON if any(isinstance(item, Poison) for item in items) else items


_EXPRESSIONS: Final[dict[type[tree.Expr], Callable[[Context, tree.Expr], Item]]] = {
    tree.IntLiteral: _literal,
    tree.FloatLiteral: _literal,
    tree.BoolLiteral: _literal,
    tree.StringLiteral: _literal,
    tree.Name: _name,
    tree.StateRead: _state_read,
    tree.Unary: _unary,
    tree.Chain: _chain,
    tree.Call: _call,
    tree.Index: _index,
    tree.Attribute: _attribute,
    tree.ListExpr: _items,
    tree.TupleExpr: _items,
}


# --- statements


def _local_dim(ctx: Context, node: tree.Statement) -> None:
    assert isinstance(node, tree.LocalDim)
    for entry in node.entries:
        if entry.default is None:
            continue
        item = ctx.evaluate(entry.default)
        if not is_number(item) and not isinstance(item, Poison):
            message = f"a dimension must be an integer, not {describe(item)}"
            item = ctx.error("GC0402", message, entry.default)
        elif isinstance(item, float):
            help = "use `//` to divide dimensions"
            message = f"a dimension must be an integer, and this is {item}"
            item = ctx.error("GC0402", message, entry.default, help=help)
        ctx.bind(entry.name.text, item, entry.name.span)


def _assign(ctx: Context, node: tree.Statement) -> None:
    assert isinstance(node, tree.Assign)
    item = ctx.evaluate(node.value)
    if len(node.targets) == 1:
        ctx.bind(node.targets[0].text, item, node.targets[0].span)
        return
    parts = _unpacked(ctx, item, node)
    for target, part in zip(node.targets, parts, strict=True):
        ctx.bind(target.text, part, target.span)


def _unpacked(ctx: Context, item: Item, node: tree.Assign) -> tuple[Item, ...]:
    count = len(node.targets)
    if isinstance(item, tuple) and len(item) == count:
        return item
    if isinstance(item, Instances) and len(item.items) == count:
        return item.items
    if not isinstance(item, Poison):
        found = f"{len(item)} values" if isinstance(item, tuple) else "one value"
        help = "`split(x, parts, axis = -1)` cuts an array" if isinstance(item, Value) else ""
        message = f"{count} names are assigned {found}"
        ctx.error("GC0216", message, node, help=help)
    return (POISON,) * count


def _state_write(ctx: Context, node: tree.Statement) -> None:
    assert isinstance(node, tree.StateWrite)
    name = node.name.text
    item = ctx.evaluate(node.value)
    path = ctx.frame.states.get(name)
    if path is None:
        known = list(ctx.frame.states)
        help = did_you_mean(name, known) or f"declare it: `state {name}: float[...] ~ zeros`"
        ctx.error("GC0201", f"there is no state `{name}` here", node.name, help=help)
        return
    if ctx.frame.kind == "update":
        ctx.bind(name, item, node.name.span)
        return
    stored = ctx.state_values.get(path)
    if stored is None or isinstance(item, Poison):
        return
    if ctx.scans:
        help = f"carry it instead: `scan ... carry {name} = state {name}`, and write it after"
        ctx.error("GC0207", "a state cannot be written inside a `scan`", node, help=help)
        return
    ctx.reads_training = True
    if not ctx.training:
        help = "put it under `if training { ... }`"
        ctx.error("GC0214", f"`state {name}` is written outside of training", node, help=help)
        return
    value = _stored(ctx, item, stored.type, node)
    if value is not None:
        ctx.state_values[path] = value
        ctx.written.setdefault(path, ctx.span(node))


def _stored(ctx: Context, item: Item, type_: TensorType, node: tree.StateWrite) -> Value | None:
    """``item`` as what the state holds."""
    if is_number(item):
        made = tensor(ctx, item, node.value, type_.dtype)
        if isinstance(made, Value) and not type_.shape:
            return made
        item = made
    if isinstance(item, Poison):
        return None
    if (
        isinstance(item, Value)
        and item.type.dtype is type_.dtype
        and ctx.same_shape(item.type.shape, type_.shape)
    ):
        return item
    shown = f"`{show_type(item)}`" if isinstance(item, Value) else describe(item)
    declared = ctx.declared.get(ctx.frame.states[node.name.text])
    labels = [Label(declared.span, "declared here")] if declared is not None else []
    message = f"`state {node.name.text}` holds `{type_}`, and is given {shown}"
    ctx.error("GC0303", message, node.value, labels=labels)
    return None


def _output(ctx: Context, node: tree.Statement) -> None:
    assert isinstance(node, tree.Output)
    name = node.name.text
    item = ctx.evaluate(node.value if node.value is not None else node.name)
    if node.value is not None:
        ctx.bind(name, item, node.name.span)
    dtype = ctx.frame.floating if isinstance(item, float) else None
    value = tensor(ctx, item, node.value or node.name, dtype)
    if isinstance(value, Poison):
        return
    first = ctx.outputs.get(name)
    if first is not None:
        labels = [Label(first[1], "first here")]
        ctx.error("GC0202", f"there are two outputs `{name}`", node.name, labels=labels)
        return
    ctx.outputs[name] = (value, ctx.span(node.name))


def _return(ctx: Context, node: tree.Statement) -> None:
    assert isinstance(node, tree.Return)
    items = tuple(ctx.evaluate(value) for value in node.values)
    spoilt = any(isinstance(item, Poison) for item in items)
    frame = ctx.frame
    frame.result_span = ctx.span(tree.join(node.values[0].span, node.values[-1].span))
    frame.result = POISON if spoilt else items[0] if len(items) == 1 else items


def _yield(ctx: Context, node: tree.Statement) -> None:
    assert isinstance(node, tree.Yield)
    if ctx.frame.yielded is not None:
        ctx.error("GC0310", "a `scan` yields once in each step", node)
        return
    ctx.frame.yielded = tuple(ctx.evaluate(value) for value in node.values)


def _if(ctx: Context, node: tree.Statement) -> None:
    assert isinstance(node, tree.If)
    condition = ctx.evaluate(node.condition)
    if isinstance(condition, bool):
        ctx.execute(node.then if condition else node.otherwise)
        check_names(ctx, node.otherwise if condition else node.then)
        return
    if isinstance(condition, Poison):
        poison(ctx, node.then, node.otherwise)
        return
    if isinstance(condition, Value):
        message = "`if` decides at compile time, and this is only known while running"
        help = "choose with `where(condition, a, b)`"
    else:
        message = f"`if` takes a condition, not {describe(condition)}"
        help = "compare it, as in `if N > 1 { ... }`"
    ctx.error("GC0401", message, node.condition, help=help)
    poison(ctx, node.then, node.otherwise)


def _for(ctx: Context, node: tree.Statement) -> None:
    assert isinstance(node, tree.For)
    items = ctx.evaluate(node.iterable)
    if isinstance(items, Poison):
        ctx.bind(node.target.text, POISON, node.target.span)
        ctx.execute(node.body)
        return
    if isinstance(items, Instances):
        walked: tuple[Item, ...] = items.items
    elif isinstance(items, tuple):
        walked = items
    else:
        help = "loops over time are written `scan x in xs carry h = ... { ... }`"
        if isinstance(items, Instance):
            help = "make several instances: `use blocks = block(D) * 4`"
        message = f"`for` walks layer instances and lists, not {describe(items)}"
        ctx.error("GC0401", message, node.iterable, help=help)
        poison(ctx, node.body)
        return
    for item in walked:
        ctx.bind(node.target.text, item, node.target.span)
        ctx.execute(node.body)
        if ctx.too_large(node):
            return


def _checkpoint(ctx: Context, node: tree.Statement) -> None:
    assert isinstance(node, tree.Checkpoint)
    checkpoint(ctx, node)


def _scan(ctx: Context, node: tree.Statement) -> None:
    assert isinstance(node, tree.Scan)
    scan(ctx, node)


_STATEMENTS: Final[dict[type[tree.Statement], Callable[[Context, tree.Statement], None]]] = {
    tree.ParamDeclaration: declare_param,
    tree.StateDeclaration: declare_state,
    tree.UseDeclaration: declare_use,
    tree.LocalDim: _local_dim,
    tree.Assign: _assign,
    tree.StateWrite: _state_write,
    tree.Output: _output,
    tree.Return: _return,
    tree.Yield: _yield,
    tree.If: _if,
    tree.For: _for,
    tree.Checkpoint: _checkpoint,
    tree.Scan: _scan,
}
