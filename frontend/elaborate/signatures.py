"""Calls meet signatures: arguments are matched with parameters, types with patterns.

A pattern such as ``float[..., I]`` binds what it can: a dimension name that is in scope must match,
one that is not is bound by the call; ``...`` stands for any leading (or inner) dimensions; ``4*D``
with an unbound D is solved where that is exact. ``float`` in a function's signature is the floating
type of the call.

Invariants: every problem is reported at the argument that causes it, with the place of the
declaration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gradc.frontend.elaborate.context import MAX_RANK, Context
from gradc.frontend.elaborate.shapes import DTYPES, element_type, tensor
from gradc.frontend.elaborate.values import (
    POISON,
    Argument,
    Binding,
    Item,
    Poison,
    as_dim,
    describe,
    is_number,
    show_type,
)
from gradc.frontend.syntax import tree
from gradc.frontend.syntax.foreign import ARGUMENTS
from gradc.frontend.syntax.walk import walk
from gradc.ir.diagnostics.diagnostic import Label, did_you_mean
from gradc.ir.tensor.core import DType, Span, Value
from gradc.ir.tensor.dims import Dim, divide_exactly


class Required:
    """Marks a parameter that has no default."""

    __slots__ = ()


REQUIRED: Final = Required()


@dataclass(frozen=True, slots=True)
class Formal:
    """A parameter as calls see it: a default is an expression, a value, or REQUIRED."""

    name: str
    default: tree.Expr | Item | Required = REQUIRED


def formals_of(parameters: Sequence[tree.Parameter]) -> tuple[Formal, ...]:
    """The parameters of a declaration."""
    return tuple(
        Formal(p.name.text, p.default if p.default is not None else REQUIRED) for p in parameters
    )


def match(
    ctx: Context,
    call: tree.Call,
    callee: str,
    formals: Sequence[Formal],
    declared: Span | None = None,
) -> dict[str, Argument] | None:
    """The given arguments by parameter name, evaluated; None after reporting what does not match.

    Defaults are not filled in: what they mean depends on the callee's names.
    """
    given: dict[str, Argument] = {}
    is_good = True
    labels = [] if declared is None else [Label(declared, f"`{callee}` is declared here")]
    names = [formal.name for formal in formals]
    for position, argument in enumerate(call.arguments):
        item = ctx.evaluate(argument.value)
        if argument.name is None:
            if position >= len(names):
                ctx.error(
                    "GC0203",
                    f"`{callee}` takes {_count(len(names))}, and this is number {position + 1}",
                    argument,
                    labels=labels,
                    help=f"the arguments are {_list(names)}" if names else "",
                )
                return None
            name = names[position]
        else:
            name = argument.name.text
            if name not in names:
                ctx.error(
                    "GC0203",
                    f"`{callee}` has no argument `{name}`",
                    argument.name,
                    labels=labels,
                    help=_similar_argument(name, names),
                )
                is_good = False
                continue
        if name in given:
            message = f"`{callee}` is given its argument `{name}` twice"
            ctx.error("GC0203", message, argument, labels=labels)
            is_good = False
            continue
        given[name] = Argument(item, argument.value)
    missing = [f.name for f in formals if f.name not in given and isinstance(f.default, Required)]
    if missing and is_good:
        noun = "argument" if len(missing) == 1 else "arguments"
        ctx.error(
            "GC0203",
            f"`{callee}` misses its {noun} {_list(missing)}",
            call,
            labels=labels,
            help=f"the arguments are {_list(names)}",
        )
    return given if is_good and not missing else None


def _count(number: int) -> str:
    if number == 0:
        return "no arguments"
    return f"{number} argument{'s' if number > 1 else ''}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def bind_parameters(
    ctx: Context,
    parameters: Sequence[tree.Parameter],
    given: dict[str, Argument],
    callee: str,
) -> bool:
    """Binds the parameters of the current frame to ``given`` arguments and defaults; False after an
    error.

    Arguments were evaluated in the caller; defaults are evaluated here, in order.
    """
    is_good = True
    for parameter in parameters:
        name = parameter.name.text
        argument = given.get(name)
        if argument is None:
            assert parameter.default is not None
            argument = Argument(ctx.evaluate(parameter.default), parameter.default, False)
        item = argument.item
        if isinstance(item, Poison):
            is_good = False
        elif parameter.type is not None:
            item = conform(ctx, argument, parameter.type, parameter, callee)
            is_good = is_good and not isinstance(item, Poison)
        ctx.frame.names[name] = Binding(item, parameter.name.span)
    return is_good


def settle_floating(
    ctx: Context, parameters: Sequence[tree.Parameter], given: dict[str, Argument]
) -> DType:
    """What ``float`` means in a call: the type of the first array given for a ``float``
    parameter.
    """
    for parameter in parameters:
        argument = given.get(parameter.name.text)
        if argument is None or not isinstance(argument.item, Value):
            continue
        is_float = parameter.type is None or parameter.type.element.text == "float"
        if is_float and argument.item.type.dtype.is_float:
            return argument.item.type.dtype
    return ctx.frame.floating


def conform(
    ctx: Context,
    argument: Argument,
    pattern: tree.TypeExpr,
    parameter: tree.Parameter,
    callee: str,
) -> Item:
    """The argument as the parameter's type has it; unbound dimensions of the pattern become
    bound.
    """
    dtype = element_type(ctx, pattern.element.text)
    if dtype is None:
        return unknown_type(ctx, pattern)
    item = argument.item
    if is_number(item) and not pattern.dims:
        # A scalar stays a compile-time number, so that it can serve where one is needed.
        if isinstance(item, float) and not dtype.is_float:
            return _not_conforming(ctx, argument, ctx.text_of(pattern.span), parameter, callee)
        return item
    if isinstance(item, bool) and not pattern.dims and dtype is DType.BOOL:
        return item
    if is_number(item) and dtype is not DType.BOOL:
        item = tensor(ctx, item, argument.node, dtype)
    if isinstance(item, Poison):
        return POISON
    if not isinstance(item, Value) or item.type.dtype is not dtype:
        return _not_conforming(ctx, argument, ctx.text_of(pattern.span), parameter, callee)
    problem = unify(ctx, pattern, item.type.shape)
    if problem is None:
        return item
    return _not_conforming(ctx, argument, ctx.text_of(pattern.span), parameter, callee, problem)


def _not_conforming(
    ctx: Context,
    argument: Argument,
    pattern: str,
    parameter: tree.Parameter,
    callee: str,
    problem: str = "",
) -> Poison:
    name = parameter.name.text
    item = argument.item
    help = ""
    if isinstance(item, Value) and not problem:
        help = f"it holds `{item.type.dtype}`; convert it with `cast(..., float)`"
        if item.type.dtype.is_float:
            help = f"it holds `{item.type.dtype}`; convert it with `cast`"
    # The argument is the caller's expression: it is reported in the caller's frame.
    frame = ctx.frames.pop() if argument.is_given else None
    try:
        found = f"`{show_type(item)}`" if isinstance(item, Value) else describe(item)
        return ctx.error(
            "GC0304",
            f"`{callee}` takes `{name}: {pattern}`, and gets {found}",
            argument.node,
            label=problem,
            labels=[Label(parameter.span, "declared here")],
            help=help,
        )
    finally:
        if frame is not None:
            ctx.frames.append(frame)


def unknown_type(ctx: Context, pattern: tree.TypeExpr) -> Poison:
    """Reports an element type that does not exist."""
    name = pattern.element.text
    known = ("float", *DTYPES)
    help = did_you_mean(name, known) or f"the types are {_list(known)}"
    return ctx.error("GC0201", f"there is no type `{name}`", pattern.element, help=help)


def unify(ctx: Context, pattern: tree.TypeExpr, shape: Sequence[Dim]) -> str | None:
    """Matches ``shape`` with ``pattern``, binding names that are not in scope; the problem found,
    or None.
    """
    dims = pattern.dims
    rest = [i for i, dim in enumerate(dims) if isinstance(dim, tree.Ellipsis)]
    if rest:
        fixed = len(dims) - 1
        if len(shape) < fixed:
            return f"at least {fixed} dimension{'s' if fixed > 1 else ''}, found {len(shape)}"
        first = rest[0]
        tail = len(dims) - first - 1
        pairs = [*zip(dims[:first], shape[:first], strict=True)]
        if tail:
            pairs += zip(dims[first + 1 :], shape[len(shape) - tail :], strict=True)
    elif len(shape) != len(dims):
        return f"{len(dims)} dimension{'s' if len(dims) != 1 else ''}, found {len(shape)}"
    else:
        pairs = list(zip(dims, shape, strict=True))
    later: list[tuple[tree.Expr, Dim]] = []
    for dim, size in pairs:
        assert not isinstance(dim, tree.Ellipsis)
        if isinstance(dim, tree.Name) and not is_bound(ctx, dim.text):
            ctx.bind(dim.text, size, dim.span)
        else:
            later.append((dim, size))
    for dim, size in later:
        problem = _unify_one(ctx, dim, size)
        if problem is not None:
            return problem
    return None


def is_bound(ctx: Context, name: str) -> bool:
    """Whether ``name`` means something as a dimension in the current frame."""
    return name in ctx.frame.names or (not ctx.frame.is_library and name in ctx.names.dims)


def _unify_one(ctx: Context, dim: tree.Expr, size: Dim) -> str | None:
    unbound = [n for n in names_in(dim) if not is_bound(ctx, n)]
    if len(unbound) == 1:
        return _solve(ctx, dim, unbound[0], size)
    wanted = dimension(ctx, dim)
    if wanted is None or ctx.same(wanted, size):
        return None
    return f"`{_shown(ctx, dim, wanted)}` does not match `{size}`"


def _shown(ctx: Context, dim: tree.Expr, wanted: Dim) -> str:
    text = ctx.text_of(dim.span)
    return text if text == str(wanted) else f"{text} = {wanted}"


def _solve(ctx: Context, dim: tree.Expr, name: str, size: Dim) -> str | None:
    """Binds ``name`` so that ``dim == size``, for ``dim`` linear in it."""
    saved = ctx.frame.names.get(name)
    values: list[Dim] = []
    was_muted, ctx.is_muted = ctx.is_muted, True
    for trial in (0, 1, 2):
        ctx.frame.names[name] = Binding(trial, dim.span)
        found = as_dim(ctx.evaluate(dim))
        if found is None:
            break
        values.append(found)
    ctx.is_muted = was_muted
    if saved is None:
        del ctx.frame.names[name]
    else:
        ctx.frame.names[name] = saved
    if len(values) == 3 and values[2] - values[1] == values[1] - values[0]:
        slope, rest = values[1] - values[0], size - values[0]
        solved = divide_exactly(rest, slope) if slope != 0 else None
        if solved is not None:
            ctx.bind(name, solved, dim.span)
            return None
        return f"no `{name}` makes `{_shown(ctx, dim, size)}`"
    return f"`{name}` cannot be found from this dimension alone"


def names_in(node: tree.Node) -> list[str]:
    """The names in an expression, each once."""
    found = [part.text for part in walk(node) if isinstance(part, tree.Name)]
    return list(dict.fromkeys(found))


def dimension(ctx: Context, node: tree.Expr) -> Dim | None:
    """The size that ``node`` stands for, or None after reporting."""
    item = ctx.evaluate(node)
    if isinstance(item, Poison):
        return None
    dim = as_dim(item)
    if dim is not None:
        if isinstance(dim, int) and dim < 0:
            ctx.error("GC0405", f"a dimension cannot be negative, and this is {dim}", node)
            return None
        return dim
    if isinstance(item, float):
        help = "use `//` to divide dimensions"
        ctx.error("GC0402", f"a dimension must be an integer, and this is {item}", node, help=help)
    elif isinstance(item, Value):
        message = f"a dimension must be known before running, and this is {describe(item)}"
        ctx.error("GC0401", message, node, help="sizes are made of dimensions and integers")
    else:
        ctx.error("GC0402", f"a dimension must be an integer, not {describe(item)}", node)
    return None


def _similar_argument(name: str, names: Sequence[str]) -> str:
    meant = ARGUMENTS.get(name, "")
    if meant in names:
        return f"write `{meant} = ...`"
    return did_you_mean(name, names) or f"the arguments are {_list(names)}"


def rank_fits(ctx: Context, type_: tree.TypeExpr) -> bool:
    """Whether a declared type has no more axes than arrays may have; reports it."""
    if len(type_.dims) <= MAX_RANK:
        return True
    ctx.error("GC0404", f"arrays have at most {MAX_RANK} axes", type_)
    return False


def exact_shape(ctx: Context, type_: tree.TypeExpr) -> tuple[Dim, ...] | None:
    """The shape that a declaration's type gives, every name being in scope; None after
    reporting.
    """
    shape: list[Dim] = []
    if not rank_fits(ctx, type_):
        return None
    for dim in type_.dims:
        if isinstance(dim, tree.Ellipsis):
            ctx.error("GC0304", "`...` stands for no known shape here", dim)
            return None
        size = dimension(ctx, dim)
        if size is None:
            return None
        shape.append(size)
    return tuple(shape)
