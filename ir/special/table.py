"""Functions of numbers beyond the verbs: rows of one table, from which the ops ``function1`` and
``function2`` are made.

A row states a meaning, a stable composition of verbs, case by case where that keeps digits, and its
slopes: the exact derivatives, in verbs and other rows, so they can be differentiated again to any
order. A slope is never the
derivative of the composition: cases that meet at a point would give it a false tie. Rows marked
``wide`` are computed in f64 and rounded once at the end.

Non-goals: proofs of the approximations (``tests/runtime/test_special.py`` measures them against
SciPy and mpmath).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Meaning = Callable[..., Any]  # meaning(k, *operands), and order= where the row is ordered
Slope = Callable[..., Any]  # slope(w, y, *operands), `w` being Words


@dataclass(frozen=True, slots=True)
class Special:
    """One function: its composition, and per operand the derivative (None where it is identically
    zero).
    """

    name: str
    meaning: Meaning
    slopes: tuple[Slope | None, ...]
    wide: bool
    ordered: bool


TABLE: dict[str, Special] = {}


def special(
    name: str,
    meaning: Meaning,
    *slopes: Slope | None,
    wide: bool = False,
    ordered: bool = False,
) -> None:
    """Adds a row; an ``ordered`` one takes an integer ``order`` too. Raises ValueError if the name
    is taken.
    """
    if name in TABLE:
        raise ValueError(f"{name!r} is defined twice")
    TABLE[name] = Special(name, meaning, slopes, wide, ordered)


def meaning_of(k: Any, name: str, *operands: Any, order: int = 0) -> Any:
    """Row ``name`` in the verbs of ``k``."""
    row = TABLE[name]
    return row.meaning(k, *operands, order=order) if row.ordered else row.meaning(k, *operands)


def polynomial(k: Any, x: Any, coefficients: tuple[float, ...]) -> Any:
    """Horner's rule, highest power first."""
    total = k.const(coefficients[0])
    for coefficient in coefficients[1:]:
        total = k.fma(total, x, k.const(coefficient))
    return total


class Words:
    """What slopes are written in: verbs as attributes, rows by call, which stay rows where the
    algebra emits ops.
    """

    def __init__(self, k: Any) -> None:
        self._k = k

    def __getattr__(self, name: str) -> Any:
        return getattr(self._k, name)

    def __call__(self, name: str, *operands: Any, order: int = 0) -> Any:
        """A row of the table, on values and Python numbers."""
        values = [self._k.const(float(x)) if isinstance(x, (int, float)) else x for x in operands]
        emit = getattr(type(self._k), "function", None)  # only the algebra of IR values has it
        if emit is not None:
            return emit(self._k, name, *values, order=order)
        return meaning_of(self._k, name, *values, order=order)
