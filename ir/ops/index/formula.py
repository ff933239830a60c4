"""What an op says of its elements in formulas that people read: ``FormulaRule``.

``formula(reader, op, at)`` is the element of the result at ``at`` in the formulas of the operands,
written over the reader (``codegen/symbolic/formulas``), which has the algebra. Unlike an
``ElementRule`` it may presume what programs guard against, and says so (``assume``). An op without
a rule is read through its axes if it is a silent view, by its verb if it is one, and otherwise
named as an application.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Protocol, TypeAlias

from gradc.ir.tensor.core import DType, Op, Value

# A formula, and an index in one, belong to the reader.
Formula: TypeAlias = Any
Index: TypeAlias = Any


class Unsaid(Exception):
    """The op at hand has no reading as a formula."""


class Formulas(Protocol):
    """Reads elements of values as formulas; what formula rules are written over."""

    def read(self, value: Value, at: Sequence[Index]) -> Formula:
        """The element of ``value`` at ``at``."""
        ...

    def index(self, value: Value, at: Sequence[Index]) -> Index | Fraction | None:
        """An integer value as an index, or the constant it is, or None."""
        ...

    def condition(self, value: Value, at: tuple[Index, ...]) -> Formula:
        """A boolean value as an indicator. Raises Unsaid."""
        ...

    def truth(self, value: Value, at: tuple[Index, ...]) -> Formula:
        """``condition``, or a mask with a name of its own."""
        ...

    def is_nan(self, value: Value) -> bool:
        """Whether ``value`` is NaN everywhere."""
        ...

    def assume_in_range(self, ids: Index) -> None:
        """Notes that the formula presumes ids in range."""
        ...

    def fresh(self, size: int) -> Index:
        """An index that occurs nowhere yet, for an axis of ``size``."""
        ...

    def literal(self, value: Any, dtype: DType) -> Formula:
        """A program's constant."""
        ...

    def number(self, index: Index | Fraction) -> Formula:
        """An index as a number."""
        ...

    def equals(self, a: Index, b: Index) -> Formula:
        """1 where two indices are equal, else 0."""
        ...

    def product(self, *factors: Formula) -> Formula:
        """The product of formulas."""
        ...

    def total(self, body: Formula, over: Sequence[tuple[Index, int]]) -> Formula:
        """The sum of ``body`` over indices, each with its size."""
        ...

    def chosen(self, holds: Formula, a: Value, b: Value, at: tuple[Index, ...]) -> Formula:
        """The element of ``a`` where ``holds``, else that of ``b``."""
        ...


FormulaRule: TypeAlias = Callable[[Formulas, Op, tuple[Index, ...]], Formula]
