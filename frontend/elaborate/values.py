"""What an expression can stand for while a program is elaborated.

Compile-time values are plain Python ones: ``bool``, ``int``, ``DimExpr`` (an integer whose symbols
are not bound yet), ``float``, ``str``, ``DType`` and tuples of items. Run-time values are
``ir.core.Value``. What is left are references to declarations and layer instances. ``POISON``
stands for whatever an error has spoilt: every operation on it is silently poison, so that one
mistake gives one diagnostic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, Union

from gradc.frontend.syntax import tree
from gradc.ir.tensor.core import DType, Span, Value
from gradc.ir.tensor.dims import Dim, DimExpr

if TYPE_CHECKING:
    from gradc.frontend.elaborate.words import Word


class Poison:
    """The value of an expression that an error has been reported for."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "POISON"


POISON = Poison()


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """What a name means, and where the name was given."""

    item: Item
    span: Span | None


@dataclass(frozen=True, slots=True)
class Named:
    """The name that a program gives a value, in the outermost frame that names it (``depth`` 1: the
    model).

    ``scope`` is the layer instance, ``is_library`` whether the name is one of the standard library.
    """

    text: str
    span: Span | None
    scope: str
    depth: int
    is_library: bool


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One layer with its own parameters: ``names`` are its arguments and members, ``states`` maps
    to paths.
    """

    layer: tree.Layer
    path: str
    is_library: bool
    names: Mapping[str, Binding]
    states: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """The instances that ``use name = layer(...) * count`` makes."""

    path: str
    items: tuple[Instance, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Callee:
    """A declared function or layer, by name; ``is_library`` says whose names its body sees."""

    declaration: tree.Function | tree.Layer
    is_library: bool


Item: TypeAlias = Union[
    Value,
    bool,
    int,
    DimExpr,
    float,
    str,
    DType,
    "tuple[Item, ...]",
    Instance,
    Instances,
    Callee,
    "Word",
    Poison,
]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a call: its value and the expression it was written as (the call, for a
    default).
    """

    item: Item
    node: tree.Node
    is_given: bool = True


@dataclass(slots=True)
class Frame:
    """One body being elaborated: its names, where it was inlined from, and what it may do."""

    kind: str
    name: str
    is_library: bool
    names: dict[str, Binding] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    scope: str = ""
    caller: Span | None = None
    floating: DType = DType.F32
    body: tree.Block = ()
    declaration: tree.Declaration | None = None
    # A layer's `apply` may be reached again through another instance of the same layer.
    is_instance_call: bool = False
    # A declaration or statement failed, so that later consequences are not reported.
    is_spoilt: bool = False
    result: Item | None = None
    result_span: Span | None = None
    yielded: tuple[Item, ...] | None = None


def is_number(item: Item) -> bool:
    """Whether ``item`` is a compile-time number; booleans are not."""
    return isinstance(item, (int, float, DimExpr)) and not isinstance(item, bool)


def as_dim(item: Item) -> Dim | None:
    """``item`` as a dimension, or None."""
    if isinstance(item, DimExpr) or (isinstance(item, int) and not isinstance(item, bool)):
        return item
    return None


def describe(item: Item) -> str:
    """What ``item`` is, in the words of a message."""
    if isinstance(item, Value):
        return f"`{show_type(item)}`"
    if isinstance(item, bool):
        return f"`{str(item).lower()}`"
    if isinstance(item, (int, float, DimExpr)):
        return f"the number `{item}`"
    if isinstance(item, str):
        return f'the text "{item}"'
    if isinstance(item, DType):
        return f"the type `{item}`"
    if isinstance(item, tuple):
        return "a list"
    return _describe_reference(item)


def _describe_reference(item: Item) -> str:
    if isinstance(item, Instance):
        return f"an instance of layer `{item.layer.name.text}`"
    if isinstance(item, Instances):
        return f"a list of {len(item.items)} layers"
    if isinstance(item, Callee):
        kind = "layer" if isinstance(item.declaration, tree.Layer) else "function"
        return f"the {kind} `{item.declaration.name.text}`"
    return "a word of the language"


def show_type(value: Value) -> str:
    """The type of ``value`` as users write it: ``float[B, D]`` is shown by its element type,
    ``f32[B, D]``.
    """
    return str(value.type) if value.type.shape else str(value.type.dtype)
