"""How nests are cut: decided before a kernel is written, from shapes and the Target.

Nothing here changes a bit of a result: the order of sums is ``ir.loop.order``'s and the op's.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from gradc.ir.loop.order import CHAIN, LANE_BYTES
from gradc.ir.ops.products import Products
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import DType

_LONG_LINE = 64  # lines of so many neighbours fill lanes by themselves
_MOST_LINES = 16  # lines side by side; lines one by one that share what is computed once


@dataclass(frozen=True, slots=True)
class Cuts:
    """The answers to what ops with nests of their own ask (``ir.loop.nest.Cutting``)."""

    target: Target

    def columns(self, count: int) -> int:
        """How many of ``count`` independent columns one iteration of the grid owns."""
        return min(count, self.target.columns)

    def row(self, count: int, itemsize: int) -> int:
        """How many of ``count`` running values an iteration of the grid keeps in a row."""
        return max(min(count, self.target.row_bytes // itemsize), 1)

    def lines(self, count: int, length: int, is_run: bool) -> tuple[int, int]:
        """How many of ``count`` lines go side by side as lanes, as many as caches hold, and how
        many such passes one iteration makes; ``is_run``: elements of a line are neighbours in
        memory.
        """
        if is_run and length >= _LONG_LINE:
            return 1, min(max(count // _MOST_LINES, 1), _MOST_LINES)
        fits = length * _MOST_LINES * DType.F64.itemsize <= self.target.caches[-1]
        return max(min(count, _MOST_LINES if fits else _MOST_LINES // 2), 1), 1


@dataclass(frozen=True, slots=True)
class ProductSchedule:
    """How a sum of products is computed: ``block`` neighbours along its shared axis together, from
    what is read once; chains ``written`` out term by term; of sums by rows, ``taps`` places at
    once.
    """

    block: int
    written: bool
    taps: int


def schedule_products(spec: Products, itemsize: int, target: Target) -> ProductSchedule:
    """The schedule of ``spec``, accumulated in elements of ``itemsize`` bytes."""
    count = spec.outer[spec.shared]
    block = next(b for b in range(max(target.block, 1), 0, -1) if count % b == 0)
    written = prod(spec.inner[1:]) <= CHAIN
    places = prod(spec.outer[spec.grid :])
    vectors = max(1, -(-spec.inner[-1] * itemsize // LANE_BYTES))
    passes = -(-places // max(1, target.accumulators // (block * vectors)))
    return ProductSchedule(block, written, max(1, -(-places // max(passes, 1))))
