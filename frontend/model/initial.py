"""Initialisers: how a parameter starts, as a tensor-IR Function of random draws.

``sample(shape, fan_in, fan_out)`` is elaborated in f64 with the parameter's shape;
``random_normal``, ``random_uniform`` and ``random_orthogonal`` become inputs of the Function
(``frontend.draws`` makes them).

Fans: a matrix ``[I, O]`` has fan-in I and fan-out O; a kernel ``[O, I, h, w]`` has I*h*w and O*h*w;
a vector its length twice; a scalar 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradc.frontend.elaborate import calls
from gradc.frontend.elaborate.context import Context, Declared
from gradc.frontend.elaborate.library import names as library_names
from gradc.frontend.elaborate.shapes import tensor
from gradc.frontend.elaborate.signatures import formals_of, match
from gradc.frontend.elaborate.values import (
    POISON,
    Argument,
    Binding,
    Frame,
    Item,
    Poison,
    describe,
    is_number,
)
from gradc.frontend.elaborate.words import Arguments, shape, word
from gradc.frontend.syntax import tree
from gradc.ir.diagnostics.diagnostic import did_you_mean
from gradc.ir.tensor.core import DType, Function, Role, Slot, Span, TensorType, Value
from gradc.ir.tensor.dims import Dim, product


@dataclass(frozen=True, slots=True, eq=False)
class InitializerIR:
    """One start: name and arguments as written, and the Function that computes it from its draws.

    ``draws[i]`` is the kind of parameter i of ``function``: ``normal`` (mean 0, deviation 1),
    ``uniform`` (in [0, 1)) or ``orthogonal`` (rows or columns orthonormal, first axis against all
    others).
    """

    name: str
    arguments: tuple[tuple[str, float], ...]
    function: Function
    draws: tuple[str, ...]


def fans(sizes: Sequence[Dim]) -> tuple[Dim, Dim]:
    """Fan-in and fan-out of a parameter of this shape."""
    if not sizes:
        return 1, 1
    if len(sizes) == 1:
        return sizes[0], sizes[0]
    if len(sizes) == 2:
        return sizes[0], sizes[1]
    field = product(tuple(sizes[2:]))
    return sizes[1] * field, sizes[0] * field


def elaborate_initializer(ctx: Context, declared: Declared) -> InitializerIR | None:
    """The start of a declared parameter or state, or None after reporting."""
    node = declared.initializer
    assert node is not None
    call = node if isinstance(node, tree.Call) else tree.Call(node.span, node, ())
    if not isinstance(call.callee, tree.Name):
        message = "after `~` stands an initializer, such as `zeros` or `normal(0.02)`"
        help = "a number is written `constant(0.5)`"
        ctx.error("GC0308", message, node, help=help)
        return None
    name = call.callee.text
    found = ctx.names.initializer(name, declared.frame.is_library)
    if found is None:
        known = [*ctx.names.initializers, *library_names("initializer")]
        help = did_you_mean(name, known) or f"there are {', '.join(known)}"
        ctx.error("GC0201", f"there is no initializer `{name}`", call.callee, help=help)
        return None
    declaration, is_library = found
    with ctx.entered(declared.frame):
        formals = formals_of(declaration.parameters)
        given = match(ctx, call, name, formals, declaration.name.span)
        caller = ctx.span(node)
    if given is None or not _are_numbers(ctx, given, name):
        return None
    return _elaborate(ctx, declaration, is_library, given, declared, caller)


def _are_numbers(ctx: Context, given: Arguments, name: str) -> bool:
    is_good = True
    for argument in given.values():
        if not is_number(argument.item) and not isinstance(argument.item, (bool, Poison)):
            message = f"`{name}` takes numbers, not {describe(argument.item)}"
            ctx.error("GC0308", message, argument.node)
            is_good = False
        is_good = is_good and not isinstance(argument.item, Poison)
    return is_good


def _elaborate(
    ctx: Context,
    declaration: tree.Initializer,
    is_library: bool,
    given: dict[str, Argument],
    declared: Declared,
    caller: Span,
) -> InitializerIR | None:
    sizes = declared.value.type.shape
    inner = ctx.sibling(DType.F64)
    inner.draws = []
    fan_in, fan_out = fans(sizes)
    frame = Frame(
        "sample",
        declaration.name.text,
        is_library,
        caller=caller,
        floating=DType.F64,
        body=declaration.sample.body,
        declaration=declaration,
    )
    with inner.entered(frame):
        arguments: list[tuple[str, float]] = []
        for parameter in declaration.parameters:
            argument = given.get(parameter.name.text)
            if argument is not None:
                item = argument.item
            else:
                assert parameter.default is not None
                item = inner.evaluate(parameter.default)
            inner.bind(parameter.name.text, item, parameter.name.span)
            if isinstance(item, (int, float)):
                arguments.append((parameter.name.text, float(item)))
        method: tuple[Item, ...] = (sizes, fan_in, fan_out)
        bind_sample(inner, declaration, method)
        item = calls.run_body(inner, frame, "initializer", declaration.name, ())
        value = _result(inner, item, declaration, sizes)
    if value is None:
        return None
    builder = inner.region.builder
    builder.parameters.extend(draw for _, draw in inner.draws)
    slots = [Slot(f"draw{i}", Role.INPUT) for i in range(len(inner.draws))]
    function = builder.function(
        declaration.name.text, [value], slots, [Slot(declared.path, Role.OUTPUT, declared.span)]
    )
    kinds = tuple(kind for kind, _ in inner.draws)
    return InitializerIR(declaration.name.text, tuple(arguments), function, kinds)


def bind_sample(ctx: Context, declaration: tree.Initializer, items: tuple[Item, ...]) -> None:
    """Binds the parameters of ``sample``, by position: shape, fan-in, fan-out."""
    parameters = declaration.sample.parameters
    if len(parameters) > len(items):
        message = "`sample` takes the shape, the fan-in and the fan-out"
        ctx.error(
            "GC0203", message, parameters[len(items)], help="`sample(shape, fan_in, fan_out)`"
        )
    for position, parameter in enumerate(parameters):
        item = items[position] if position < len(items) else POISON
        ctx.frame.names[parameter.name.text] = Binding(item, parameter.name.span)


def _result(
    ctx: Context, item: Item, declaration: tree.Initializer, sizes: tuple[Dim, ...]
) -> Value | None:
    at = declaration.name
    value = tensor(ctx, item, at, DType.F64 if is_number(item) else None)
    if isinstance(value, Poison):
        return None
    if value.type.rank == 0 and sizes:
        made = ctx.op(at, "broadcast", value, shape=sizes, dims=())
        return made if isinstance(made, Value) else None
    if value.type.shape != sizes:
        found = f"`{value.type}`"
        wanted = f"`{TensorType(sizes, DType.F64)}`"
        message = f"initializer `{at.text}` gives {found} for a parameter of shape {wanted}"
        ctx.error("GC0305", message, at)
        return None
    return value


def _draw(ctx: Context, call: tree.Call, given: Arguments, kind: str) -> Item:
    sizes = shape(ctx, given["shape"])
    if sizes is None:
        return POISON
    if ctx.draws is None:
        message = f"`random_{kind}` draws a start, and stands in `sample` of an initializer only"
        return ctx.error("GC0207", message, call, help="`dropout` is what is random in a model")
    value = Value(TensorType(sizes, DType.F64), kind)
    ctx.draws.append((kind, value))
    return value


@word("random_normal shape")
def _random_normal(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    return _draw(ctx, call, given, "normal")


@word("random_uniform shape")
def _random_uniform(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    return _draw(ctx, call, given, "uniform")


@word("random_orthogonal shape")
def _random_orthogonal(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    return _draw(ctx, call, given, "orthogonal")
