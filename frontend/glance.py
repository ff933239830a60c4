"""A glance at code that is not elaborated: are its names there at all?

The branch of an ``if`` that this program does not take has no values and no shapes here, but a misspelt name in it is
a mistake all the same. A name counts as known if it is assigned or bound anywhere in the declaration.

Non-goals: whether a name has its value at that point, calls, shapes.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradc.frontend import syntax
from gradc.frontend.calls import global_callable, similar
from gradc.frontend.context import Context
from gradc.frontend.shapes import element_type
from gradc.frontend.values import POISON
from gradc.frontend.walk import children

CONSTANTS = ("pi", "inf", "nan", "training")


def check_names(ctx: Context, block: syntax.Block) -> None:
    """Reports names in ``block``, which is not elaborated, that nothing in scope explains."""
    if ctx.frame.is_library or not block:
        return
    # What a layer declares under another condition is known in its `apply`.
    whole = ctx.frame.declaration
    bound = {name for part in (block if whole is None else (whole,)) for name in _bound(part)}
    for statement in block:
        for name in _read(statement):
            if name.text not in bound and not _is_known(ctx, name.text):
                help = similar(ctx, name.text)
                ctx.error("GC0201", f"there is no `{name.text}` here", name, help=help)


def poison(ctx: Context, *blocks: syntax.Block) -> None:
    """Names that skipped statements would have bound stand for anything: one mistake, one diagnostic."""
    for block in blocks:
        for statement in block:
            for name in _bound(statement):
                ctx.bind(name, POISON, statement.span)
    ctx.frame.is_spoilt = True


def _is_known(ctx: Context, text: str) -> bool:
    return (
        text in ctx.frame.names
        or text in ctx.frame.states
        or text in ctx.names.dims
        or text in CONSTANTS
        or element_type(ctx, text) is not None
        or global_callable(ctx, text) is not None
    )


def _bound(root: syntax.Node) -> Iterator[str]:
    """Names that statements give a meaning."""
    for node in _walk(root):
        match node:
            case syntax.Assign(targets=targets):
                yield from (target.text for target in targets)
            case syntax.Scan(targets=targets, inputs=inputs, carries=carries):
                yield from (target.text for target in targets)
                yield from (item.target.text for item in inputs)
                yield from (carry.name.text for carry in carries)
            case syntax.For(target=target):
                yield target.text
            case (
                syntax.ParamDeclaration(name=name)
                | syntax.StateDeclaration(name=name)
                | syntax.UseDeclaration(name=name)
                | syntax.DimEntry(name=name)
                | syntax.Output(name=name)
            ):
                yield name.text


def _read(root: syntax.Node) -> Iterator[syntax.Name]:
    """Names that are read as values, where they stand; calls of initialisers have names of their own."""
    pending = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, syntax.Name):
            yield node
            continue
        pending.extend(reversed(_operands(node)))


def _operands(node: syntax.Node) -> tuple[syntax.Node, ...]:
    """The parts of a node that are expressions or statements, without names that are labels."""
    match node:
        case syntax.Argument(value=value) | syntax.Assign(value=value):
            return (value,)
        case syntax.Attribute(base=base):
            return (base,)
        case syntax.StateRead():
            return ()
        case syntax.StateWrite(value=value):
            return (value,)
        case syntax.ParamDeclaration(type=type_):
            return (type_,)
        case syntax.StateDeclaration(type=type_):
            return () if type_ is None else (type_,)
        case syntax.TypeExpr(dims=dims):
            return dims
        case syntax.UseDeclaration(layer=layer, count=count):
            return (layer,) if count is None else (layer, count)
        case syntax.DimEntry(default=default):
            return () if default is None else (default,)
        case syntax.Output(name=name, value=value):
            return (name,) if value is None else (value,)
        case syntax.For(iterable=iterable, body=body):
            return (iterable, *body)
        case syntax.ScanInput(source=source):
            return (source,)
        case syntax.Carry(initial=initial):
            return (initial,)
        case syntax.Scan(inputs=inputs, carries=carries, truncate=truncate, body=body):
            window = () if truncate is None else (truncate,)
            return (*inputs, *carries, *window, *body)
        case _:
            return children(node)


def _walk(root: syntax.Node) -> Iterator[syntax.Node]:
    pending = [root]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(child for child in children(node) if not isinstance(child, syntax.Expr))
