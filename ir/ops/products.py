"""Sums of products as data: what a convolution and its transposes are, whatever computes them.

``result[outer] = sum over inner of left * right``, where each operand is read at positions that are
affine in both indices. Which axes run in parallel, which as vectors, what is computed together and
what is written out is decided when kernels are made (``passes.lower.products``); the order of the
sum is stated here and is a part of the meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

from gradc.ir.loop.order import CHAIN

# "chains": the first summed axis is a fold, whose terms are sums over the other axes, of ``CHAIN``
# products at most chains of fused multiply-adds (``ir.loop.order``).
# "rows": all but the last summed axis are the steps of k of a matrix product; each place of the
# last one has a sum of its own, and these are then summed along memory, as lanes.
# "product": the inner axes, the last fastest, are the steps of k of a matrix product, absent terms
# being zeros; with a divisor only those taps count that meet places of the same remainder.
# "planes": the inner axes are images and the places of planes, which are summed by bands of rows.
SumOrder: TypeAlias = Literal["chains", "rows", "product", "planes"]


@dataclass(frozen=True, slots=True)
class Position:
    """``(constant + sum(factor * index[axis])) / divisor`` along one axis of an operand; ``axis``
    counts the outer axes, then the inner ones.

    With an ``extent``, terms whose position is no whole number below it are absent (not zero times
    something); without one, all positions are inside.
    """

    terms: tuple[tuple[int, int], ...]
    constant: int = 0
    divisor: int = 1
    extent: int | None = None


@dataclass(frozen=True, slots=True)
class Products:
    """One sum of products.

    ``outer`` are the extents of the result's index, with groups as an axis of their own just before
    ``shared``; along ``shared``, neighbours read the same elements of ``left``. The first ``grid``
    outer axes have no places of an image or a filter in them.
    """

    outer: tuple[int, ...]
    inner: tuple[int, ...]
    left: tuple[Position, ...]
    right: tuple[Position, ...]
    result: tuple[Position, ...]
    shared: int
    grid: int
    order: SumOrder

    @property
    def has_epilogue(self) -> bool:
        """Whether what follows a sum, element by element, is computed with it."""
        return self.order == "product" or (self.order == "chains" and self.is_plane)

    @property
    def is_plane(self) -> bool:
        """Whether each channel of the result is made from one of the image, by few taps: a plane of
        one by a filter of two axes gives a plane of the other.
        """
        if 0 in (*self.outer, *self.inner) or self.outer[self.shared] != 1:
            return False
        if self.order == "planes":
            return True
        is_alone = self.order == "chains" and self.inner[0] == 1
        return is_alone and prod(self.inner) <= CHAIN and len(self.left) == 4


def at(*terms: tuple[int, int] | int) -> Position:
    """A position that is always inside: axes, or ``(axis, factor)`` pairs."""
    return Position(tuple((term, 1) if isinstance(term, int) else term for term in terms))
