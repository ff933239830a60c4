"""Checking declarations that no model uses, each on its own.

Arguments without a default count as dimensions, arrays have the shapes of their patterns, ``...``
stands for one dimension. Where a pattern leaves the shape open (``...``, or an argument without a
type), findings about shapes and types may be wrong for the call that is meant, so only those about
names are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gradc.frontend.elaborate.calls import call_custom_or_body, run_body
from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.elaborate import Elaborator, deepen_stack
from gradc.frontend.elaborate.names import Names
from gradc.frontend.elaborate.shapes import element_type
from gradc.frontend.elaborate.signatures import (
    dimension,
    is_bound,
    names_in,
    rank_fits,
    unknown_type,
)
from gradc.frontend.elaborate.values import POISON, Binding, Frame, Instance, Item
from gradc.frontend.model.initial import bind_sample
from gradc.frontend.model.models import symbolic_dims
from gradc.frontend.model.training import check_schedule, check_update
from gradc.frontend.syntax import tree
from gradc.frontend.syntax.walk import walk
from gradc.ir.diagnostics.diagnostic import Report
from gradc.ir.tensor.core import DType, TensorType, Value
from gradc.ir.tensor.dims import Dim, symbol

# What the hundreds of a code must be for a finding that holds whatever the shapes are.
_NAMES: Final = "GC02"
_REST: Final = "rest"


def check_unused(names: Names, report: Report) -> None:
    """Checks every function, layer, optimiser, schedule and initialiser that nothing has used
    yet.
    """
    declarations: list[tree.Declaration] = [
        *names.callables.values(),
        *names.optimizers.values(),
        *names.schedules.values(),
        *names.initializers.values(),
    ]
    # Later ones may use earlier ones; checking from the end finds what is inlined first.
    for declaration in reversed(declarations):
        if id(declaration) in names.reached:
            continue
        for training in (True, False):
            ctx = _context(names, training)
            _check(ctx, declaration)
            is_open = _is_open(declaration)
            for found in ctx.report.diagnostics:
                if not is_open or found.code.startswith(_NAMES):
                    report.add(found)
            if not ctx.reads_training:
                break


def _context(names: Names, training: bool) -> Context:
    deepen_stack()
    report = Report(names.report.sources)
    inner = names.reporting_to(report)
    dims, sample = symbolic_dims(inner, report, {})
    report.clear()
    return Context(Elaborator(), inner, report, dims, sample, DType.F32, training)


def _is_open(declaration: tree.Declaration) -> bool:
    """Whether the shapes that a declaration is called with are not known from its text."""
    if isinstance(declaration, tree.Layer):
        parameters: Sequence[tree.Parameter] = declaration.apply.parameters
        if any(p.default is None for p in declaration.parameters):
            return True
    elif isinstance(declaration, tree.Function):
        parameters = declaration.parameters
    else:
        return True
    return any(
        p.type is None or any(isinstance(node, tree.Ellipsis) for node in walk(p.type))
        for p in parameters
    )


def _check(ctx: Context, declaration: tree.Declaration) -> None:
    if isinstance(declaration, tree.Function):
        _check_function(ctx, declaration)
    elif isinstance(declaration, tree.Layer):
        _check_layer(ctx, declaration)
    elif isinstance(declaration, tree.Optimizer):
        check_update(ctx, declaration)
    elif isinstance(declaration, tree.Schedule):
        check_schedule(ctx, declaration)
    elif isinstance(declaration, tree.Initializer):
        frame = Frame(
            "sample",
            declaration.name.text,
            False,
            floating=DType.F64,
            body=declaration.sample.body,
            declaration=declaration,
        )
        ctx.draws = []
        with ctx.entered(frame):
            _bind_options(ctx, declaration.parameters)
            sizes: tuple[Dim, ...] = (symbol("I"), symbol("O"))
            bind_sample(ctx, declaration, (sizes, *sizes))
            run_body(ctx, frame, "initializer", declaration.name, ())


def _check_function(ctx: Context, declaration: tree.Function) -> None:
    frame = Frame(
        "fn", declaration.name.text, False, body=declaration.body, declaration=declaration
    )
    with ctx.entered(frame):
        _bind_arrays(ctx, declaration.parameters)
        call_custom_or_body(ctx, declaration)


def _check_layer(ctx: Context, layer: tree.Layer) -> None:
    name = layer.name.text
    frame = Frame("layer", name, False, scope=name, body=layer.members, declaration=layer)
    with ctx.entered(frame):
        _bind_options(ctx, layer.parameters)
        ctx.execute(layer.members)
    instance = Instance(layer, name, False, frame.names, frame.states)
    inner = Frame(
        "apply",
        name,
        False,
        names=dict(instance.names),
        states=dict(instance.states),
        scope=name,
        body=layer.apply.body,
        declaration=layer,
        is_instance_call=True,
        is_spoilt=frame.is_spoilt,
    )
    with ctx.entered(inner):
        _bind_arrays(ctx, layer.apply.parameters)
        run_body(ctx, inner, "layer", layer.name, layer.apply.results)


def _bind_options(ctx: Context, parameters: Sequence[tree.Parameter]) -> None:
    """Arguments of layers and the like: their defaults, or symbols."""
    for parameter in parameters:
        name = parameter.name
        item: Item = symbol(name.text)
        if parameter.default is not None:
            item = ctx.evaluate(parameter.default)
        ctx.frame.names[name.text] = Binding(item, name.span)


def _bind_arrays(ctx: Context, parameters: Sequence[tree.Parameter]) -> None:
    for parameter in parameters:
        name = parameter.name
        item: Item = POISON
        if parameter.type is not None:
            item = _array(ctx, parameter.type)
        elif parameter.default is not None:
            item = ctx.evaluate(parameter.default)
        ctx.frame.names[name.text] = Binding(item, name.span)


def _array(ctx: Context, type_: tree.TypeExpr) -> Item:
    dtype = element_type(ctx, type_.element.text)
    if dtype is None:
        return unknown_type(ctx, type_)
    shape: list[Dim] = []
    if not rank_fits(ctx, type_):
        return POISON
    for dim in type_.dims:
        if isinstance(dim, tree.Ellipsis):
            shape.append(symbol(_REST))
            continue
        for unbound in names_in(dim):
            if not is_bound(ctx, unbound):
                ctx.frame.names[unbound] = Binding(symbol(unbound), dim.span)
        size = dimension(ctx, dim)
        if size is None:
            return POISON
        shape.append(size)
    return Value(TensorType(tuple(shape), dtype))
