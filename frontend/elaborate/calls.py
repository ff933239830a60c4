"""Calls of functions and layers, which are inlined where they are called; instances of layers.

The body of a function or layer sees its own arguments and members, the dimensions of its file (the
library has none) and the program's declarations; never the names of its caller.

Invariants: inlining ends (a call inside itself is an error); ops carry the chain of places they
were inlined at.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradc.frontend.elaborate.context import MAX_INLINING, Context
from gradc.frontend.elaborate.custom import call_custom
from gradc.frontend.elaborate.shapes import DTYPES, element_type, tensor
from gradc.frontend.elaborate.signatures import (
    bind_parameters,
    formals_of,
    match,
    settle_floating,
    unify,
    unknown_type,
)
from gradc.frontend.elaborate.values import (
    POISON,
    Argument,
    Callee,
    Frame,
    Instance,
    Instances,
    Item,
    Poison,
    describe,
    is_number,
    show_type,
)
from gradc.frontend.elaborate.words import WORDS, Word, call_word
from gradc.frontend.syntax import tree
from gradc.frontend.syntax.foreign import foreign_hint, foreign_names
from gradc.ir.diagnostics.diagnostic import Label, closest, did_you_mean
from gradc.ir.tensor.core import Value

# How alike an unknown name and a function must be for the one to be a slip of the pen for the
# other.
_SLIP = 0.66


def call(ctx: Context, node: tree.Call) -> Item:
    """The value of a call."""
    callee = resolve(ctx, node.callee)
    if isinstance(callee, Poison):
        # Arguments may hold mistakes of their own.
        for argument in node.arguments:
            ctx.evaluate(argument.value)
        return POISON
    if isinstance(callee, Word):
        return call_word(ctx, callee, node)
    if isinstance(callee, Instance):
        return apply(ctx, callee, node)
    if isinstance(callee, Callee) and isinstance(callee.declaration, tree.Function):
        return call_function(ctx, callee.declaration, callee.is_library, node)
    return _not_callable(ctx, callee, node)


def _not_callable(ctx: Context, callee: Item, node: tree.Call) -> Poison:
    help = ""
    if isinstance(callee, Callee):
        name = callee.declaration.name.text
        help = f"make an instance first: `use a = {name}(...)`, then call `a(x)`"
    elif isinstance(callee, Instances):
        help = "call one of them, `blocks[0](x)`, or walk them: `for b in blocks { x = b(x) }`"
    elif is_number(callee) or isinstance(callee, Value):
        help = "write `*` to multiply"
    message = f"{describe(callee)} cannot be called"
    return ctx.error("GC0206", message, node.callee, help=help)


def resolve(ctx: Context, node: tree.Expr, is_used: bool = False) -> Item:
    """What a callee stands for, in a call or after ``use``; a local name that cannot be called does
    not hide a function.
    """
    if isinstance(node, tree.Name):
        binding = ctx.frame.names.get(node.text)
        callables = (Instance, Instances, Callee, Word, Poison)
        if binding is not None and isinstance(binding.item, callables):
            return binding.item
        found = global_callable(ctx, node.text, is_used)
        if found is not None:
            return found
    return ctx.evaluate(node)


def global_callable(ctx: Context, name: str, is_used: bool = False) -> Callee | Word | None:
    """The function, layer or word called ``name``, the program's own first. A layer of the library
    may be called like the word it is made of: ``use`` takes the layer, a call the word.
    """
    found, word = ctx.names.callable(name, ctx.frame.is_library), WORDS.get(name)
    if found is not None and found.is_library and isinstance(found.declaration, tree.Layer):
        return found if is_used else word or found
    return found or word


# --- bodies


def enter(
    ctx: Context,
    node: tree.Node,
    declaration: tree.Declaration,
    name: str,
) -> bool:
    """Whether a body may be inlined here; reports recursion and calls nested too deeply."""
    if any(f.declaration is declaration and not f.is_instance_call for f in ctx.frames):
        ctx.error(
            "GC0205",
            f"`{name}` calls itself",
            node,
            help="functions and layers are unrolled, so they cannot recur; use `scan` for loops",
        )
        return False
    if len(ctx.frames) > MAX_INLINING:
        message = f"calls are nested more than {MAX_INLINING} deep"
        ctx.error("GC0404", message, node)
        return False
    ctx.names.reached.add(id(declaration))
    ctx.inlined += 1
    return not ctx.too_large(node)


def run_body(
    ctx: Context,
    frame: Frame,
    what: str,
    name: tree.Name,
    results: Sequence[tree.TypeExpr],
) -> Item:
    """Executes the body of the current frame and returns what it returns, checked."""
    ctx.execute(frame.body)
    if frame.result is None:
        if frame.is_spoilt:
            return POISON
        return ctx.error("GC0204", f"{what} `{name.text}` does not return a value", name)
    return check_results(ctx, frame, results)


def check_results(ctx: Context, frame: Frame, results: Sequence[tree.TypeExpr]) -> Item:
    """The returned value as the declared types have it."""
    item, span = frame.result, frame.result_span
    assert item is not None and span is not None
    if isinstance(item, Poison) or not results:
        return item
    items = item if isinstance(item, tuple) else (item,)
    if len(items) != len(results):
        return ctx.error(
            "GC0305",
            f"{len(items)} value{'s are' if len(items) != 1 else ' is'} returned, "
            f"and {len(results)} declared",
            span,
            labels=[Label(results[0].span, "declared here")],
        )
    checked: list[Item] = []
    for one, declared in zip(items, results, strict=True):
        checked.append(_check_result(ctx, one, declared, frame))
    if any(isinstance(one, Poison) for one in checked):
        return POISON
    return checked[0] if len(checked) == 1 else tuple(checked)


def _check_result(ctx: Context, item: Item, declared: tree.TypeExpr, frame: Frame) -> Item:
    dtype = element_type(ctx, declared.element.text)
    span = frame.result_span
    assert span is not None
    if dtype is None:
        return unknown_type(ctx, declared)
    if is_number(item) and not declared.dims and (dtype.is_float or not isinstance(item, float)):
        return item
    at = tree.Node(span)
    value = tensor(ctx, item, at, dtype if is_number(item) else None)
    if isinstance(value, Poison):
        return POISON
    problem = None
    if value.type.dtype is dtype:
        problem = unify(ctx, declared, value.type.shape)
        if problem is None:
            return value
    wanted = ctx.text_of(declared.span)
    return ctx.error(
        "GC0305",
        f"`{wanted}` is declared as the result, and `{show_type(value)}` is returned",
        span,
        label=problem or "",
        labels=[Label(declared.span, "declared here")],
        help="" if problem else f"the element type is `{value.type.dtype}`; convert it with `cast`",
    )


def call_function(
    ctx: Context, declaration: tree.Function, is_library: bool, node: tree.Call
) -> Item:
    """Inlines a function."""
    name = declaration.name.text
    given = match(ctx, node, name, formals_of(declaration.parameters), declaration.name.span)
    if given is None or any(isinstance(a.item, Poison) for a in given.values()):
        return POISON
    return inline(ctx, declaration, is_library, given, node)


def inline(
    ctx: Context,
    declaration: tree.Function,
    is_library: bool,
    given: dict[str, Argument],
    node: tree.Call,
) -> Item:
    """The value of a function for arguments that match its parameters."""
    if not enter(ctx, node, declaration, declaration.name.text):
        return POISON
    frame = Frame(
        "fn",
        declaration.name.text,
        is_library,
        scope=ctx.frame.scope,
        caller=ctx.span(node),
        floating=settle_floating(ctx, declaration.parameters, given),
        body=declaration.body,
        declaration=declaration,
    )
    with ctx.entered(frame):
        if not bind_parameters(ctx, declaration.parameters, given, frame.name):
            return POISON
        return call_custom_or_body(ctx, declaration)


def call_custom_or_body(ctx: Context, declaration: tree.Function) -> Item:
    """Runs a function whose parameters are bound in the current frame."""
    if declaration.pullback is not None:
        return call_custom(ctx, declaration, declaration.pullback, run_body)
    return run_body(ctx, ctx.frame, "function", declaration.name, declaration.results)


def apply(ctx: Context, instance: Instance, node: tree.Call) -> Item:
    """Inlines the ``apply`` of a layer instance."""
    layer = instance.layer
    method = layer.apply
    shown = instance.path
    given = match(ctx, node, shown, formals_of(method.parameters), method.name.span)
    if given is None or any(isinstance(a.item, Poison) for a in given.values()):
        return POISON
    if not enter(ctx, node, layer, layer.name.text):
        return POISON
    frame = Frame(
        "apply",
        layer.name.text,
        instance.is_library,
        names=dict(instance.names),
        states=dict(instance.states),
        scope=instance.path,
        caller=ctx.span(node),
        floating=settle_floating(ctx, method.parameters, given),
        body=method.body,
        declaration=layer,
        is_instance_call=True,
    )
    with ctx.entered(frame):
        if not bind_parameters(ctx, method.parameters, given, shown):
            return POISON
        return run_body(ctx, frame, "layer", layer.name, method.results)


def instantiate(ctx: Context, use: tree.UseDeclaration, path: str) -> Instance | Poison:
    """One instance of the layer that ``use`` names, its parameters declared under ``path``."""
    callee = resolve(ctx, use.layer.callee, is_used=True)
    if isinstance(callee, Poison):
        return POISON
    if not isinstance(callee, Callee) or not isinstance(callee.declaration, tree.Layer):
        shown = describe(callee)
        help = ""
        if isinstance(callee, (Callee, Word)):
            help = "functions have no parameters; call them without `use`"
        return ctx.error(
            "GC0206",
            f"`use` makes an instance of a layer, not of {shown}",
            use.layer.callee,
            help=help,
        )
    layer = callee.declaration
    name = layer.name.text
    given = match(ctx, use.layer, name, formals_of(layer.parameters), layer.name.span)
    if given is None or any(isinstance(a.item, Poison) for a in given.values()):
        return POISON
    if not enter(ctx, use, layer, name):
        return POISON
    frame = Frame(
        "layer",
        name,
        callee.is_library,
        scope=path,
        caller=ctx.span(use),
        floating=ctx.frame.floating,
        body=layer.members,
        declaration=layer,
    )
    with ctx.entered(frame):
        if not bind_parameters(ctx, layer.parameters, given, name):
            return POISON
        ctx.execute(layer.members)
        if frame.is_spoilt:
            return POISON
        return Instance(layer, path, callee.is_library, frame.names, frame.states)


def similar(ctx: Context, name: str) -> str:
    """A hint for an unknown name: what another library's name is here, or the closest of everything
    in scope.
    """
    if foreign := foreign_hint(name):
        return foreign
    if name in foreign_names():
        # It was meant, so it is a slip only of what the program itself has in scope.
        return did_you_mean(name, ctx.frame.names, _SLIP) or f"gradc has no `{name}`"
    known = [*ctx.frame.names, *DTYPES, "float", "pi", "inf", "nan", "training"]
    if not ctx.frame.is_library:
        known += ctx.names.dims
    functions = [*ctx.names.callable_names(), *WORDS]
    # A function of another meaning is worse than no hint, so it must be closer than a name of the
    # program.
    near = [known for known in functions if closest(name, [known], _SLIP)]
    return did_you_mean(name, [*known, *near])
