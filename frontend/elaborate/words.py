"""The words of the language: built-in functions, each with its signature and what it emits.

A word is a row of a table: name, formals, and a function of the elaboration context, the call and
the matched arguments. What can be written in the language is not a word but a function of the
standard library.

Non-goals: what words mean at run time (``ir.ops``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.shapes import tensor
from gradc.frontend.elaborate.signatures import REQUIRED, Formal, Required, dimension, match
from gradc.frontend.elaborate.values import (
    POISON,
    Argument,
    Item,
    Poison,
    as_dim,
    describe,
    is_number,
)
from gradc.frontend.syntax import tree
from gradc.ir.tensor.core import DType, TensorType, Value
from gradc.ir.tensor.dims import Dim, DimExpr

Arguments: TypeAlias = Mapping[str, Argument]
Meaning: TypeAlias = Callable[[Context, tree.Call, Arguments], Item]


@dataclass(frozen=True, slots=True, eq=False)
class Word:
    """One built-in function."""

    name: str
    formals: tuple[Formal, ...]
    meaning: Meaning


WORDS: dict[str, Word] = {}


def word(signature: str, **defaults: Item) -> Callable[[Meaning], Meaning]:
    """Registers a function as the word ``signature``: its name and formals, separated by spaces."""
    name, *formals = signature.split()

    def register(meaning: Meaning) -> Meaning:
        rows = tuple(Formal(f, defaults.get(f, REQUIRED)) for f in formals)
        WORDS[name] = Word(name, rows, meaning)
        return meaning

    return register


def call_word(ctx: Context, found: Word, call: tree.Call) -> Item:
    """Applies a word to the arguments of a call."""
    given = match(ctx, call, found.name, found.formals)
    if given is None:
        return POISON
    if any(isinstance(argument.item, Poison) for argument in given.values()):
        return POISON
    for formal in found.formals:
        if formal.name not in given:
            default = formal.default
            assert not isinstance(default, (Required, tree.Expr))
            given[formal.name] = Argument(default, call, False)
    return found.meaning(ctx, call, given)


# --- reading arguments. Each reports and returns None when the argument is not what is needed.


def array(ctx: Context, argument: Argument, dtype: DType | None = None) -> Value | None:
    """An array, or a compile-time number as a scalar (of the program's floating type, if not
    ``dtype``).
    """
    item = argument.item
    if is_number(item) and dtype is None:
        dtype = ctx.frame.floating
    value = tensor(ctx, item, argument.node, dtype)
    return value if isinstance(value, Value) else None


def floats(ctx: Context, argument: Argument, what: str) -> Value | None:
    """An array of floating type."""
    value = array(ctx, argument)
    if value is None or value.type.dtype.is_float:
        return value
    message = f"`{what}` takes floating-point numbers, and this holds `{value.type.dtype}`"
    ctx.error("GC0303", message, argument.node, help="convert it first: `cast(x, float)`")
    return None


def numbers(ctx: Context, argument: Argument, what: str, instead: str) -> Value | None:
    """An array of numbers, not conditions; ``instead`` is what to write for those."""
    value = array(ctx, argument)
    if value is None or value.type.dtype is not DType.BOOL:
        return value
    message = f"`{what}` takes numbers, and this holds `bool`"
    ctx.error("GC0303", message, argument.node, help=instead)
    return None


def axis(ctx: Context, argument: Argument, rank: int, what: str) -> int | None:
    """One axis, counted from the end if negative, in ``range(rank)``."""
    found = argument.item
    if not isinstance(found, int) or isinstance(found, bool):
        message = f"an axis must be a known integer, not {describe(found)}"
        ctx.error("GC0306", message, argument.node)
        return None
    if not -rank <= found < rank:
        shown = "is a scalar" if rank == 0 else f"has axes 0 to {rank - 1}, or -{rank} to -1"
        message = f"axis {found} is out of range: {what} {shown}"
        ctx.error("GC0306", message, argument.node)
        return None
    return found % rank


def axes(ctx: Context, argument: Argument, value: Value) -> tuple[int, ...] | None:
    """One axis or a list of axes of ``value``, in order; ``"all"`` means every axis."""
    rank = value.type.rank
    if argument.item == "all":
        return tuple(range(rank))
    items = argument.item if isinstance(argument.item, tuple) else (argument.item,)
    found: list[int] = []
    for item in items:
        one = axis(ctx, Argument(item, argument.node), rank, f"`{value.type}`")
        if one is None:
            return None
        if one in found:
            ctx.error("GC0306", f"axis {item} is named twice", argument.node)
            return None
        found.append(one)
    return tuple(sorted(found))


def flag(ctx: Context, argument: Argument, what: str) -> bool | None:
    """``true`` or ``false``, known at compile time."""
    if isinstance(argument.item, bool):
        return argument.item
    message = f"`{what}` is `true` or `false`, not {describe(argument.item)}"
    ctx.error("GC0308", message, argument.node)
    return None


def integer(ctx: Context, argument: Argument, what: str, least: int | None = None) -> int | None:
    """A known integer; symbols count as their defaults."""
    dim = as_dim(argument.item)
    known = None if dim is None else ctx.sampled(dim)
    if known is None:
        message = f"{what} must be a known integer, not {describe(argument.item)}"
        ctx.error("GC0401", message, argument.node)
        return None
    if least is not None and known < least:
        ctx.error("GC0405", f"{what} must be at least {least}, and this is {known}", argument.node)
        return None
    return known


def number(ctx: Context, argument: Argument, what: str) -> float | None:
    """A known number."""
    item = argument.item
    if isinstance(item, (int, float, DimExpr)) and not isinstance(item, bool):
        return float(ctx.number(item))
    message = f"{what} must be known before running, and this is {describe(item)}"
    ctx.error("GC0401", message, argument.node)
    return None


def shape(ctx: Context, argument: Argument) -> tuple[Dim, ...] | None:
    """A list of dimensions; one dimension alone counts as a list of one."""
    items = argument.item if isinstance(argument.item, tuple) else (argument.item,)
    nodes: tuple[tree.Node, ...] = (argument.node,) * len(items)
    if isinstance(argument.node, (tree.ListExpr, tree.TupleExpr)):
        nodes = argument.node.items
    result: list[Dim] = []
    for item, node in zip(items, nodes, strict=True):
        if isinstance(item, Poison):
            return None
        dim = as_dim(item)
        if dim is None:
            message = f"a shape is a list of dimensions, and this is {describe(item)}"
            ctx.error("GC0402", message, node, help="as in `[B, T, 4*D]`")
            return None
        result.append(dim)
    return tuple(result)


def dtype(ctx: Context, argument: Argument, what: str) -> DType | None:
    """An element type."""
    if isinstance(argument.item, DType):
        return argument.item
    message = f"`{what}` takes a type such as `float` or `int`, not {describe(argument.item)}"
    ctx.error("GC0308", message, argument.node)
    return None


def scalar_type(value: DType) -> TensorType:
    """The type of one element."""
    return TensorType((), value)


__all__ = [
    "WORDS",
    "Arguments",
    "Word",
    "array",
    "axes",
    "axis",
    "call_word",
    "dimension",
    "dtype",
    "flag",
    "floats",
    "integer",
    "number",
    "scalar_type",
    "shape",
    "word",
]
