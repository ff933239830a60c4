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
_WIDEST_ROW = 1 << 14  # elements of a row of a band that is copied
_MOST_LOTS = 8  # parts of a table, each of which looks through all that is added to it
_MOST_PLANES = 8  # planes of an image that are summed over together
_PARTS = 8  # ... so that there are as many parts for threads
_FEW_TAPS = 4  # of sums that are read where they lie
_MOST_LINES = 16  # lines side by side; lines one by one that share what is computed once


@dataclass(frozen=True, slots=True)
class Cuts:
    """The answers to what ops with nests of their own ask (``ir.loop.nest.Cutting``)."""

    target: Target

    def columns(self, count: int) -> int:
        """How many of ``count`` independent columns one iteration of the grid owns."""
        return min(count, self.target.columns)

    def places(self, count: int, nbytes: int) -> int:
        """How many of ``count`` rows of a table, of ``nbytes`` each, one iteration of the grid
        owns.
        """
        lots = min(count * nbytes // self.target.table_bytes, _MOST_LOTS)
        return -(-count // max(lots, 1))

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
    once; of planes, ``columns`` of the sums of so many taps at once, from a band that is copied or
    where it lies.
    """

    block: int
    written: bool
    taps: int
    columns: int = 1
    copies: bool = False


def schedule_products(spec: Products, itemsize: int, target: Target) -> ProductSchedule:
    """The schedule of ``spec``, accumulated in elements of ``itemsize`` bytes."""
    count = spec.outer[spec.shared]
    block = next(b for b in range(max(target.block, 1), 0, -1) if count % b == 0)
    written = prod(spec.inner[1:]) <= CHAIN
    places = prod(spec.outer[spec.grid :])
    if spec.order == "planes":
        return _schedule_planes(spec, places, itemsize, target)
    vectors = max(1, -(-spec.inner[-1] * itemsize // LANE_BYTES))
    passes = -(-places // max(1, target.accumulators // (block * vectors)))
    taps = max(1, -(-places // max(passes, 1)))
    return ProductSchedule(block, written, taps, copies=spec.is_plane and _copies(spec, target))


def _copies(spec: Products, target: Target) -> bool:
    """Whether bands of planes are copied: rows are short, and a place jumps or is divided."""
    across = spec.left[-1]
    (place, stride), _ = across.terms
    width = (*spec.outer, *spec.inner)[place] * stride
    return target.copies and width <= _WIDEST_ROW and (stride == 1 or across.divisor == 1)


def _schedule_planes(spec: Products, places: int, itemsize: int, target: Target) -> ProductSchedule:
    """As many taps as registers hold beside what is read, of a vector of columns each; some
    neighbouring planes together, since they lie together in every image.
    """
    groups = spec.outer[0]
    if not target.copies:
        return ProductSchedule(1, False, min(places, _FEW_TAPS), spec.inner[-1])
    most_planes = min(_MOST_PLANES, max(1, groups // _PARTS))
    block = next(n for n in range(most_planes, 0, -1) if groups % n == 0)
    most = max(1, target.registers - 4)
    lanes = max(1, target.lane_bytes // itemsize)
    taps = -(-places // -(-places // most))
    return ProductSchedule(block, False, taps, lanes, _copies(spec, target))
