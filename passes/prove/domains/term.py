"""What ``prove_terms`` computes with: an array as a normal form, what a literal means, and views of
numbers that are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.tensor.core import DType
from gradc.passes.prove.domains.literals import meaning

Shape: TypeAlias = tuple[int, ...]
Key: TypeAlias = tuple[Any, ...]
# The monomial without factors.
ONE = 0
NUMBERS = NumpyArrays()


class Term:
    """An array: ``linear`` maps atoms to coefficients (floating arrays); integers and booleans are
    single atoms.
    """

    __slots__ = ("is_discrete", "known", "linear", "number", "shape")

    def __init__(
        self,
        number: int,
        shape: Shape,
        linear: dict[int, Fraction],
        is_discrete: bool,
        known: Any = None,
    ) -> None:
        self.number = number  # its own: there is one term of each shape and form
        self.shape = shape
        self.linear = linear
        self.is_discrete = is_discrete
        self.known = known  # the values of an array of integers or booleans, where they are known

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def constant(self) -> Fraction | None:
        """The number that every element is, if that is known."""
        if not self.linear:
            return Fraction(0)
        return self.linear[ONE] if list(self.linear) == [ONE] else None


def exact(value: float, dtype: DType) -> Fraction | float:
    """What a literal means (``literals``); one that is near no fraction is its binary value, and
    what is not finite stays a float.
    """
    if not math.isfinite(value):
        return value
    found = meaning(value, dtype if dtype.is_float else DType.F64)
    return found.multiple if found is not None and found.is_rational else Fraction(value)


def wide_axes(shape: Shape) -> list[int]:
    """The axes of more than one element."""
    return [axis for axis, n in enumerate(shape) if n != 1]


def wide(shape: Shape) -> list[int]:
    """Their sizes."""
    return [n for n in shape if n != 1]


def is_sorted(pairs: Key) -> bool:
    """Whether axes that are moved as ``pairs`` say keep their order."""
    ends = [o for _, o in sorted(pairs)]
    return ends == sorted(ends)


def _spread_numbers(x: Any, pairs: Key, shape: Shape) -> Any:
    places = dict(pairs)
    ordered = sorted(places, key=lambda axis: places[axis])
    moved = x.transpose([*ordered, *(a for a in range(x.ndim) if a not in places)])
    sizes = {places[a]: x.shape[a] for a in ordered}
    spaced = moved.reshape([sizes.get(axis, 1) for axis in range(len(shape))])
    return np.broadcast_to(spaced, shape)


class View(StrEnum):
    """How a term is seen; every view of arrays becomes one of these."""

    SPREAD = "spread"
    RESHAPE = "reshape"
    SLICE = "slice"
    REVERSE = "reverse"


VIEWS: dict[View, Callable[[Any, Key, Shape], Any]] = {
    View.SPREAD: _spread_numbers,
    View.RESHAPE: lambda x, _, shape: x.reshape(shape),
    View.SLICE: lambda x, cut, shape: NUMBERS.slice(x, *cut),
    View.REVERSE: lambda x, axes, shape: NUMBERS.reverse(x, axes),
}
