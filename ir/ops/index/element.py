"""What an op says of its elements for every shape: ``ElementRule``.

``element(elements, op, index)`` is the element of the result at an index, in elements of the
operands: a sum of products (``sums.py``). Where derivatives are not those of that polynomial, as
for extrema, ``law`` emits the derivative along a direction. ``fit`` says how sizes become symbols
that fit each other and the attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from gradc.ir.ops.index.sums import Binder, Entry, Factor, LinearIndex
from gradc.ir.tensor.core import Op, TensorType, Value
from gradc.ir.tensor.dims import Dim

if TYPE_CHECKING:
    from gradc.ir.ops.builder import Builder


class Elements(Protocol):
    """Reads elements of values; what element rules are written over."""

    binder: Binder

    def read(self, value: Value, index: LinearIndex) -> Entry:
        """``value[index]``. Raises Unfit."""
        ...

    def sum_over(self, extents: Sequence[Dim], term: Callable[[LinearIndex], Entry]) -> Entry:
        """The sum of ``term`` over indices below ``extents``."""
        ...

    def opaque(self, op: Op, index: LinearIndex) -> Entry:
        """A function of elements of the operands, of which only its name is known."""
        ...

    def argument(self, x: Value, index: LinearIndex) -> Factor:
        """``x[index]`` as a function of some places, its name spelling out which."""
        ...


# Sizes of each operand, some of them symbols; rules change them in place.
Shapes: TypeAlias = list[list[Dim]]
Fit: TypeAlias = Callable[[Sequence[TensorType], Shapes, dict[str, Any]], None]
Law: TypeAlias = Callable[["Builder", Op, Value], Value]


@dataclass(frozen=True, slots=True)
class ElementRule:
    """One op in the index algebra.

    ``otherwise`` says in words why a rule of some instance is not proved for every shape, should
    the algebra give up on it.
    """

    element: Callable[[Elements, Op, LinearIndex], Entry] | None = None
    fit: Fit | None = None
    law: Law | None = None
    otherwise: str = "sizes as they are"
