"""Functions with a derivative of their own: the op ``custom`` with a primal region and a pullback
region.

The pullback sees the function's arguments and whatever names its body gave: the body is elaborated
again inside the pullback, results that ``return`` names are taken from the op, and ops that nothing
needs are dropped. It returns one cotangent per floating argument; integer arguments have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.regions import Region, prune
from gradc.frontend.elaborate.shapes import element_type, literal, tensor
from gradc.frontend.elaborate.values import (
    POISON,
    Binding,
    Frame,
    Item,
    Poison,
    is_number,
    show_type,
)
from gradc.frontend.syntax import tree
from gradc.ir.diagnostics.diagnostic import Label
from gradc.ir.tensor.core import Attr, Block, Op, TensorType, Value

RunBody: TypeAlias = Callable[[Context, Frame, str, tree.Name, Sequence[tree.TypeExpr]], Item]


def call_custom(
    ctx: Context, function: tree.Function, pullback: tree.Pullback, run_body: RunBody
) -> Item:
    """The results of a function whose parameters are bound in the current frame."""
    frame = ctx.frame
    arguments = [
        (p, binding.item)
        for p in function.parameters
        if isinstance((binding := frame.names[p.name.text]).item, Value)
    ]
    operands = [item for _, item in arguments if isinstance(item, Value)]
    names = [p.name.text for p, _ in arguments]
    start = ctx.streams
    primal = Region(ctx.region)
    with ctx.inside(primal), ctx.entered(_with(frame, names, primal, operands)):
        item = run_body(ctx, ctx.frame, "function", function.name, function.results)
        results = _results(ctx, item, function)
    if results is None:
        return POISON
    end, ctx.streams = ctx.streams, start
    reverse = Region(ctx.region)
    with ctx.inside(reverse), ctx.entered(_with(frame, names, reverse, operands)):
        inner_results = [reverse.parameter(v.type) for v in results]
        cts = [reverse.parameter(v.type) for v in results]
        cotangents = _pull(ctx, function, pullback, operands, inner_results, cts)
    ctx.streams = max(end, ctx.streams)
    if cotangents is None:
        return POISON
    attributes: dict[str, Attr] = {"function": function.name.text}
    if pullback.is_asserted:
        attributes["asserted"] = True
    return _close(ctx, function, (primal, reverse), operands, results, cotangents, attributes)


def _with(frame: Frame, names: Sequence[str], region: Region, operands: Sequence[Value]) -> Frame:
    """The frame with its array arguments replaced by parameters of ``region``."""
    inner = dict(frame.names)
    for name, value in zip(names, operands, strict=True):
        inner[name] = Binding(region.parameter(value.type, name), inner[name].span)
    return replace(frame, names=inner)


def _results(ctx: Context, item: Item, function: tree.Function) -> list[Value] | None:
    items = item if isinstance(item, tuple) else (item,)
    results: list[Value] = []
    for one in items:
        dtype = ctx.frame.floating if is_number(one) else None
        value = tensor(ctx, one, function.name, dtype)
        if isinstance(value, Poison):
            return None
        results.append(ctx.region.bring(value))
    return results


def _pull(
    ctx: Context,
    function: tree.Function,
    pullback: tree.Pullback,
    operands: Sequence[Value],
    results: Sequence[Value],
    cts: Sequence[Value],
) -> list[Value] | None:
    """Runs the pullback's body behind the function's own; the cotangents of all operands."""
    frame = ctx.frame
    if len(pullback.parameters) != len(results):
        ctx.error(
            "GC0305",
            f"`pullback` takes one cotangent per result: {len(results)}, "
            f"and has {len(pullback.parameters)} parameters",
            pullback,
            labels=[Label(function.name.span, f"`{function.name.text}` is declared here")],
        )
        return None
    frame.body = function.body
    ctx.execute(function.body)
    _name_results(frame, function, results)
    frame.result = None
    for parameter, ct in zip(pullback.parameters, cts, strict=True):
        frame.names[parameter.name.text] = Binding(ct, parameter.name.span)
    ctx.execute(pullback.body)
    if frame.result is None:
        if not frame.is_spoilt:
            ctx.error("GC0204", "`pullback` does not return a value", pullback)
        return None
    if isinstance(frame.result, Poison):
        return None
    return _cotangents(ctx, function, operands, frame)


def _name_results(frame: Frame, function: tree.Function, results: Sequence[Value]) -> None:
    """Names that the function returns stand for the op's results, which need no recomputation."""
    last = function.body[-1] if function.body else None
    if isinstance(last, tree.Return) and len(last.values) == len(results):
        for node, value in zip(last.values, results, strict=True):
            if isinstance(node, tree.Name) and node.text in frame.names:
                is_argument = any(p.name.text == node.text for p in function.parameters)
                if not is_argument:
                    frame.names[node.text] = Binding(value, frame.names[node.text].span)


def _cotangents(
    ctx: Context, function: tree.Function, operands: Sequence[Value], frame: Frame
) -> list[Value] | None:
    assert frame.result_span is not None
    given = frame.result if isinstance(frame.result, tuple) else (frame.result,)
    floating = [p for p in function.parameters if _is_floating(ctx, p)]
    at = tree.Node(frame.result_span)
    if len(given) != len(floating):
        names = ", ".join(f"`{p.name.text}`" for p in floating)
        ctx.error(
            "GC0305",
            f"`pullback` returns one cotangent per floating argument, {len(floating)} of them, "
            f"and {len(given)} are returned",
            at,
            help=f"the floating arguments are {names}" if floating else "",
        )
        return None
    by_name = {p.name.text: item for p, item in zip(floating, given, strict=True)}
    result: list[Value] = []
    position = 0
    for parameter in function.parameters:
        if not isinstance(frame.names[parameter.name.text].item, Value) or position >= len(
            operands
        ):
            continue
        type_ = operands[position].type
        position += 1
        found = by_name.get(parameter.name.text)
        value = _cotangent(ctx, found, type_, parameter, at)
        if value is None:
            return None
        result.append(value)
    return result


def _is_floating(ctx: Context, parameter: tree.Parameter) -> bool:
    """Whether a parameter is declared to hold floating-point numbers."""
    if parameter.type is None:
        return False
    dtype = element_type(ctx, parameter.type.element.text)
    return dtype is not None and dtype.is_float


def _cotangent(
    ctx: Context,
    item: Item | None,
    type_: TensorType,
    parameter: tree.Parameter,
    at: tree.Node,
) -> Value | None:
    if item is None or not type_.dtype.is_float:
        return ctx.constant(
            at, False if type_.dtype.value == "bool" else 0, type_.dtype, type_.shape
        )
    if isinstance(item, (int, float)) and not isinstance(item, bool):
        made = literal(ctx, item, at, type_)
        return made if isinstance(made, Value) else None
    if isinstance(item, Value) and item.type == type_:
        return item
    shown = f"`{show_type(item)}`" if isinstance(item, Value) else "something else"
    ctx.error(
        "GC0305",
        f"the cotangent of `{parameter.name.text}` must be `{type_}`, and {shown} is returned",
        at,
        labels=[Label(parameter.span, "declared here")],
    )
    return None


def _close(
    ctx: Context,
    function: tree.Function,
    regions: tuple[Region, Region],
    operands: Sequence[Value],
    results: Sequence[Value],
    cotangents: Sequence[Value],
    attributes: dict[str, Attr],
) -> Item:
    """Makes the op; values that either region captured become operands without a derivative."""
    primal, reverse = regions
    captured = list(dict.fromkeys((*primal.captured, *reverse.captured)))
    count = len(operands)
    heads = [list(region.builder.parameters) for region in regions]
    inner = [[region.bring(value) for value in captured] for region in regions]
    with ctx.inside(reverse):
        zeros = [ctx.constant(function, 0, v.type.dtype, v.type.shape) for v in captured]
    blocks = (
        _block(primal, (*heads[0], *inner[0]), results),
        _block(
            reverse,
            (*heads[1][:count], *inner[1], *heads[1][count:]),
            (*(reverse.bring(v) for v in cotangents), *zeros),
        ),
    )
    types = [value.type for value in results]
    caller = ctx.frame.caller
    node = tree.Node(caller) if caller is not None else function
    made = ctx.append(node, "custom", [*operands, *captured], types, attributes, blocks)
    return made[0] if len(made) == 1 else tuple(made)


def _block(region: Region, parameters: Sequence[Value], outputs: Sequence[Value]) -> Block:
    end = Op("yield", tuple(outputs), (), {}, (), region.builder.span, region.builder.scope)
    return prune(Block(tuple(parameters), (*region.builder.ops, end)))
