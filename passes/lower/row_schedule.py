"""How a row kernel is cut, decided before a line of it is written: chunks, stages, what is kept.

Invariant: bits follow from the layout alone. A chunk is a leaf of the sums over the rows or a node
of leaves, so what the Target says about parallelism and memory changes who adds what, and where,
but no order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gradc.ir.loop.order import LEAF
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import Block, DType, Op, Value
from gradc.passes.lower.cost import elementwise_us, size_of
from gradc.passes.lower.joins import joined_results
from gradc.passes.lower.keep import kept_values
from gradc.passes.lower.piece import Temp
from gradc.passes.lower.space import (
    CHUNKED_ELEMENTS,
    FLAT_PIECE,
    Layout,
    ReductionKind,
    chunk_rows,
    leaf_rows,
)

_OVER_COLUMNS = (ReductionKind.ROW, ReductionKind.FULL_TAIL)


@dataclass(frozen=True, slots=True)
class Stage:
    """One loop over the columns: what it folds, what it adds to sums per column, which full results
    it stores, and which values it keeps for later stages.
    """

    folds: tuple[Value, ...]
    columns: tuple[Value, ...]
    stores: tuple[Value, ...]
    kept: tuple[Value, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is no loop to write."""
        return not (self.folds or self.columns or self.stores)


@dataclass(frozen=True, slots=True)
class Room:
    """Where a row of values is kept: memory of the thread, or one row per chunk of a temporary."""

    name: str
    dtype: DType
    temp: int | None = None


@dataclass(frozen=True, slots=True)
class RowSchedule:
    """A row kernel, decided.

    ``size`` rows (columns, if flat) belong to a chunk; ``leaves`` are rooms for the sums of a leaf
    per column, empty where a chunk is one leaf; ``rooms`` are those of kept values. ``partial``
    names the temporaries that tails are summed in.
    """

    place: Layout
    stages: tuple[Stage, ...]
    is_parallel: bool
    is_flat: bool
    size: int
    chunks: int
    temps: tuple[Temp, ...]
    partial: Mapping[Value, int]
    leaves: tuple[Room, ...]
    rooms: Mapping[Value, Room]

    @property
    def extent(self) -> int:
        """What is cut into chunks."""
        space = self.place.space
        return space.columns if self.is_flat else space.rows

    @property
    def is_ragged(self) -> bool:
        """Whether the last chunk is smaller."""
        return self.chunks > 1 and self.extent % self.size != 0

    @property
    def is_split(self) -> bool:
        """Whether a second kernel finishes the tails."""
        return bool(self.place.tails) and self.chunks > 1 and self.is_parallel


def makers_of(block: Block) -> dict[Value, Op]:
    """The op that makes each value."""
    return {op.results[0]: op for op in block.body}


def schedule_rows(block: Block, place: Layout, target: Target) -> RowSchedule:
    """The schedule of ``block`` laid out as ``place``."""
    space = place.space
    time = elementwise_us(block, space.rows * space.columns, target.costs)
    is_small = bool(place.tails) and space.rows * space.columns < CHUNKED_ELEMENTS
    is_parallel = time > target.costs.parallel_us and not is_small
    is_flat = _is_flat(place, is_parallel)
    size = _chunk_size(place, is_parallel, is_flat, target)
    chunks = max(1, -(-(space.columns if is_flat else space.rows) // size))
    stages = _stages(block, place, is_flat, target)
    temps, partial = _partial(place, chunks)
    leaves, rooms = _rooms(_leaf_sums(place, size, is_flat), stages, temps, chunks, place, target)
    cut = (is_parallel, is_flat, size, chunks)
    return RowSchedule(place, stages, *cut, tuple(temps), partial, leaves, rooms)


def _is_flat(place: Layout, is_parallel: bool) -> bool:
    """One row, or no rows to speak of: the columns are cut instead."""
    space = place.space
    is_one = space.rows == 1 and space.is_trailing
    if not is_one or place.of_kind(ReductionKind.ROW) or place.of_kind(ReductionKind.COLUMN_TAIL):
        return False
    is_map = is_parallel and not place.of_kind(ReductionKind.FULL_TAIL)
    return space.columns >= CHUNKED_ELEMENTS or is_map


def _chunk_size(place: Layout, is_parallel: bool, is_flat: bool, target: Target) -> int:
    """How many rows (columns, if flat) one iteration of the outer loop takes."""
    space = place.space
    if is_flat:
        return max(1, FLAT_PIECE if place.tails else -(-space.columns // target.chunks))
    if not place.tails:
        return max(1, -(-space.rows // target.chunks) if is_parallel else space.rows)
    by_leaves = place.of_kind(ReductionKind.COLUMN_TAIL) or leaf_rows(space) < LEAF
    if is_parallel or by_leaves:
        return chunk_rows(space, is_parallel, target.nodes)
    return max(1, space.rows)


def main_outputs(block: Block, place: Layout) -> list[Value]:
    """The results that do not wait for a tail."""
    return [v for v in block.outputs if not place.post[v]]


def _stages(block: Block, place: Layout, is_flat: bool, target: Target) -> tuple[Stage, ...]:
    """One stage per level of row reductions."""
    makers, levels = makers_of(block), place.levels
    outputs, joined = main_outputs(block, place), joined_results(block, place.space.shape)
    inputs = [makers[v].operands[0] for v in place.tails]
    above = [levels[v] - 1 for v in place.of_kind(ReductionKind.ROW)]
    count = 1 + max([*(levels[v] for v in (*outputs, *inputs)), *above], default=0)
    found: list[Stage] = []
    known: dict[Value, None] = {}
    for number in range(count):
        stage = _stage(makers, place, outputs, joined, number)
        if not stage.is_empty and not is_flat and number + 1 < count:
            roots = [makers[v].operands[0] for v in (*stage.folds, *stage.columns)]
            roots += stage.stores
            kept = kept_values(block, place, number, roots, outputs, known, target.costs)
            known.update(dict.fromkeys(kept))
            stage = Stage(stage.folds, stage.columns, stage.stores, tuple(kept))
        found.append(stage)
    return tuple(found)


def _stage(
    makers: Mapping[Value, Op],
    place: Layout,
    outputs: Sequence[Value],
    joined: Mapping[Value, Op],
    number: int,
) -> Stage:
    """The folds over columns, the column tails and the full results of one level."""
    levels = place.levels

    def of(*kinds: ReductionKind) -> tuple[Value, ...]:
        found = [v for kind in kinds for v in place.of_kind(kind)]
        return tuple(v for v in found if levels[makers[v].operands[0]] == number)

    shape = place.space.shape
    full = [v for v in outputs if v.type.static_shape == shape or v in joined]
    stores = tuple(v for v in full if levels[v] == number)
    return Stage(of(*_OVER_COLUMNS), of(ReductionKind.COLUMN_TAIL), stores)


def _partial(place: Layout, chunks: int) -> tuple[list[Temp], dict[Value, int]]:
    """The temporaries of tails: per chunk, or per row for sums of row values."""
    temps: list[Temp] = []
    partial: dict[Value, int] = {}
    for value in place.tails:
        kind = place.kinds[value]
        if chunks == 1 and kind is ReductionKind.FULL_TAIL:
            continue
        is_row = kind is ReductionKind.ROW_TAIL
        size = place.space.rows if is_row else chunks * size_of(value.type.static_shape)
        partial[value] = len(temps)
        temps.append(Temp(size, value.type.dtype.accumulator))
    return temps, partial


def _leaf_sums(place: Layout, size: int, is_flat: bool) -> tuple[Value, ...]:
    """The sums per column that are taken leaf by leaf within a chunk."""
    space = place.space
    is_one = is_flat or space.rows == 1 or min(size, space.rows) <= leaf_rows(space)
    return () if is_one else place.of_kind(ReductionKind.COLUMN_TAIL)


def _rooms(
    leaf_sums: Sequence[Value],
    stages: Iterable[Stage],
    temps: list[Temp],
    chunks: int,
    place: Layout,
    target: Target,
) -> tuple[tuple[Room, ...], dict[Value, Room]]:
    """Rooms for leaves, then for kept values: the thread's memory while there is any, else
    temporaries, which are added to ``temps``.
    """
    width, taken = place.space.columns, 0

    def room(name: str, dtype: DType) -> Room:
        nonlocal taken
        if taken + width * dtype.itemsize <= target.row_bytes:
            taken += width * dtype.itemsize
            return Room(name, dtype)
        temps.append(Temp(chunks * width, dtype))
        return Room(name, dtype, len(temps) - 1)

    leaves = [room(f"leaf{n}", v.type.dtype.accumulator) for n, v in enumerate(leaf_sums)]
    kept = [value for stage in stages for value in stage.kept]
    rooms = {value: room(f"s{n}", value.type.dtype) for n, value in enumerate(kept)}
    return tuple(leaves), rooms
