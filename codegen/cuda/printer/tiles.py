"""Which tiles compute a product: a block has a rectangle of the result, a thread 8 x 8 or 4 x 4
elements of it in registers, from slices of both factors in shared memory (``slices``).

Tiles decide how fast a product is and never its bits: every element is one chain of fused
multiply-adds in k's order, leaves of ``K_LEAF`` steps added in theirs. Non-goals: the text
(``squares``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from gradc.codegen.cuda.verbs import MEMORY_BYTES, MOST_SHARED
from gradc.ir.loop.kernel import Factor, Gemm
from gradc.ir.loop.order import K_LEAF, K_NODE, node_spans
from gradc.ir.tensor.core import DType

PAD = 4  # elements between the steps of a slice, so that neighbours in k meet no bank twice
_LEAST = 16  # rows and columns under which a tile is mostly empty
_LEAST_OF_WINDOWS = 4
_MOST_ROOM = 1.5  # elements of all tiles for one of the result
_PART = 16  # results of a thread that lie in shared memory together, where not all of them do
_MOST_LEVELS = 2  # of sums that are kept besides the one in registers


@dataclass(frozen=True, slots=True)
class Tile:
    """``rows`` x ``columns`` results by a block, ``own`` x ``own`` by a thread (or ``tall`` rows of
    them); slices of ``depth`` steps of k, ``stages`` of them in shared memory. Worth it from
    ``least`` blocks a processor.
    """

    rows: int
    columns: int
    own: int
    depth: int
    stages: int
    least: float = 1.0
    most_levels: int = _MOST_LEVELS
    dtype: str = "f32"
    tall: int = 0

    @property
    def down(self) -> int:
        """Rows of a thread."""
        return self.tall or self.own

    @property
    def across(self) -> int:
        """Threads along a row."""
        return self.columns // self.own

    @property
    def threads(self) -> int:
        return self.across * self.rows // self.down

    @property
    def values(self) -> int:
        """Results of a thread."""
        return self.own * self.down

    @property
    def left(self) -> int:
        """Elements of the left factor's slice, padding included."""
        return self.depth * (self.rows + PAD)

    @property
    def right(self) -> int:
        return self.depth * (self.columns + PAD)

    @property
    def part(self) -> int:
        """Results of a thread that its epilogue takes at once from shared memory."""
        return self.values if self.rows * self.columns <= 64 * 64 else min(self.values, _PART)

    def rooms(self, levels: int) -> tuple[tuple[str, int], ...]:
        """Shared memory: slices, and results or the sums of every level."""
        results = self.part if not levels else self.values
        each = (self.stages * self.left, self.stages * self.right)
        sums = (results * self.threads,) * max(1, levels)
        return tuple((self.dtype, size) for size in (*each, *sums))

    def fits(self, levels: int) -> bool:
        nbytes = sum(size for _, size in self.rooms(levels)) * MEMORY_BYTES[self.dtype]
        return levels <= self.most_levels and nbytes <= MOST_SHARED

    def __str__(self) -> str:
        return f"{self.rows} x {self.columns} x {self.depth}"


# With one leaf of k results stay in registers to the end; with several their sum lies in shared
# memory, of which the largest tile has too little. 64 threads are few for a processor, so that
# tiles of 64 x 64 have them only where several blocks share one. Narrow ones are for few channels,
# those of one warp for what is small either way.
TILES = (
    Tile(128, 128, 8, 8, 2, most_levels=0),
    Tile(128, 64, 8, 8, 2),
    Tile(64, 64, 8, 8, 4, least=4.0),
    Tile(64, 64, 4, 16, 4),
    Tile(32, 32, 4, 16, 4),
    Tile(64, 16, 4, 16, 4),
    Tile(16, 64, 4, 16, 4),
    Tile(16, 32, 4, 16, 4),
)
_WIDE_TILES = (Tile(64, 64, 4, 8, 2, dtype="f64"), Tile(32, 32, 4, 16, 2, dtype="f64"))


def levels_of(k: int) -> int:
    """Sums over leaves and nodes that are kept at once, over so many steps."""
    return len(node_spans(k, K_LEAF, K_NODE))


def blocks(gemm: Gemm, tile: Tile) -> int:
    """How many blocks compute ``gemm`` in such tiles."""
    return prod(gemm.batch) * -(-gemm.m // tile.rows) * -(-gemm.n // tile.columns)


def tile_of(gemm: Gemm, processors: int) -> Tile | None:
    """The ``largest`` of all; None where a thread per element is better, or tiles do not do."""
    factors, levels = (gemm.left, gemm.right), levels_of(gemm.k)
    if not choice_of(gemm) or gemm.k < 8 or levels > _MOST_LEVELS:
        return None
    # An element of a window costs more than a tile that is mostly empty.
    least = _LEAST if all(factor.patch is None for factor in factors) else _LEAST_OF_WINDOWS
    if min(gemm.m, gemm.n) < least:
        return None
    tiles = [found for tile in choice_of(gemm) if (found := fitting(tile, levels))]
    return largest(gemm, tiles, processors)


def largest(gemm: Gemm, tiles: Sequence[Tile], processors: int, parts: int = 1) -> Tile:
    """The first of ``tiles`` that the product mostly fills and of which, for each of ``parts``,
    there are enough for ``processors``; else of those of which there are enough the one that is
    filled best; else the one of which there are most.
    """

    def room(tile: Tile) -> int:
        return blocks(gemm, tile) * tile.rows * tile.columns

    most = _MOST_ROOM * prod(gemm.batch) * gemm.m * gemm.n
    many = [tile for tile in tiles if parts * blocks(gemm, tile) >= tile.least * processors]
    for tile in many:
        if room(tile) <= most:
            return tile
    if many:
        return min(many, key=room)
    return max(tiles, key=lambda tile: (blocks(gemm, tile), -room(tile)))


def choice_of(gemm: Gemm) -> tuple[Tile, ...]:
    """The tiles for its types, the largest first."""
    types = {factor.buffer.dtype for factor in (gemm.left, gemm.right)}
    if len(types) > 1:
        return ()
    return {DType.F32: TILES, DType.F64: _WIDE_TILES}.get(types.pop(), ())


def fitting(tile: Tile, levels: int) -> Tile | None:
    """``tile`` with as many stages as there is room for."""
    found = tile if tile.fits(levels) else replace(tile, stages=2)
    return found if found.fits(levels) else None


def strides(gemm: Gemm, factor: Factor) -> tuple[int, int]:
    """How far rows (columns of the right factor) and steps of k lie apart."""
    if factor is gemm.left:
        return factor.row, factor.column
    return factor.column, factor.row
