"""A glance at code that is not elaborated: are its names there at all?

The branch of an ``if`` that this program does not take has no values and no shapes here, but a
misspelt name in it is a mistake all the same. A name counts as known if it is assigned or bound
anywhere in the declaration.

Non-goals: whether a name has its value at that point, calls, shapes.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradc.frontend.elaborate.calls import global_callable, similar
from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.shapes import element_type
from gradc.frontend.elaborate.values import POISON
from gradc.frontend.syntax import tree
from gradc.frontend.syntax.walk import children

CONSTANTS = ("pi", "inf", "nan", "training")


def check_names(ctx: Context, block: tree.Block) -> None:
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


def poison(ctx: Context, *blocks: tree.Block) -> None:
    """Names that skipped statements would have bound stand for anything: one mistake, one
    diagnostic.
    """
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


def _bound(root: tree.Node) -> Iterator[str]:
    """Names that statements give a meaning."""
    for node in _walk(root):
        match node:
            case tree.Assign(targets=targets):
                yield from (target.text for target in targets)
            case tree.Scan(targets=targets, inputs=inputs, carries=carries):
                yield from (target.text for target in targets)
                yield from (item.target.text for item in inputs)
                yield from (carry.name.text for carry in carries)
            case tree.For(target=target):
                yield target.text
            case (
                tree.ParamDeclaration(name=name)
                | tree.StateDeclaration(name=name)
                | tree.UseDeclaration(name=name)
                | tree.DimEntry(name=name)
                | tree.Output(name=name)
            ):
                yield name.text


def _read(root: tree.Node) -> Iterator[tree.Name]:
    """Names that are read as values, where they stand; calls of initialisers have names of their
    own.
    """
    pending = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, tree.Name):
            yield node
            continue
        pending.extend(reversed(_operands(node)))


def _operands(node: tree.Node) -> tuple[tree.Node, ...]:
    """The parts of a node that are expressions or statements, without names that are labels."""
    match node:
        case tree.Argument(value=value) | tree.Assign(value=value):
            return (value,)
        case tree.Attribute(base=base):
            return (base,)
        case tree.StateRead():
            return ()
        case tree.StateWrite(value=value):
            return (value,)
        case tree.ParamDeclaration(type=type_):
            return (type_,)
        case tree.StateDeclaration(type=type_):
            return () if type_ is None else (type_,)
        case tree.TypeExpr(dims=dims):
            return dims
        case tree.UseDeclaration(layer=layer, count=count):
            return (layer,) if count is None else (layer, count)
        case tree.DimEntry(default=default):
            return () if default is None else (default,)
        case tree.Output(name=name, value=value):
            return (name,) if value is None else (value,)
        case tree.For(iterable=iterable, body=body):
            return (iterable, *body)
        case tree.ScanInput(source=source):
            return (source,)
        case tree.Carry(initial=initial):
            return (initial,)
        case tree.Scan(inputs=inputs, carries=carries, truncate=truncate, body=body):
            window = () if truncate is None else (truncate,)
            return (*inputs, *carries, *window, *body)
        case _:
            return children(node)


def _walk(root: tree.Node) -> Iterator[tree.Node]:
    pending = [root]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(child for child in children(node) if not isinstance(child, tree.Expr))
