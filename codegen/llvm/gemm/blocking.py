"""How a matrix product is cut: register tile, packing, blocks of k. A function of shapes, strides
and ISA only.

The register tile has ``rows`` x ``vectors`` accumulators. A *panel* is ``vectors`` registers of
columns; a *strip* is ``rows`` rows. Work is cut into units, one strip of one column block
(``panels`` panels) of one batch element; strips are the innermost unit so that a packed column
block serves many of them.

Sums over k are the trees of ``ir.loop.order``, one accumulator per element, whatever the blocking:
blocks of k are leaves or runs of leaves, and sums are parked in memory between them. So results
depend on K alone, not on tile, packing, threads or position.

Non-goals: emitting anything (``gemm``, ``gemm_tile``, ``gemm_pack``).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from gradc.codegen.llvm import amx
from gradc.codegen.llvm.gemm.pack import LINE
from gradc.codegen.llvm.gemm.slide import Slide, slide_of
from gradc.codegen.llvm.gemm.walk import (
    MOST_ROWS,
    Walk,
    across_of,
    block_of,
    channels_at_once,
    walk_of,
)
from gradc.codegen.llvm.gemm.within import tile_fits
from gradc.codegen.llvm.isa import Isa
from gradc.ir.loop.kernel import (
    Factor,
    Gemm,
    Load,
    Store,
)
from gradc.ir.loop.order import K_LEAF, K_NODE, node_spans
from gradc.ir.tensor.core import DType

PAGE = 4096  # strides from here on fall into the same few cache sets and a new page each
K_BLOCK = K_LEAF
PARKED_STRIPS = 48  # strips whose sums are parked between blocks of k
PACKED_STRIPS = 8  # strips packed together where rows are contiguous
PACKED_BYTES = 64 << 10  # ... at most, where all of k is packed at once
PIECES = 32  # into which a product worth several threads is cut if that is free
WORTH_CUTTING = 1 << 20  # products
K_UNBLOCKED = 1024  # up to here k is not blocked when nothing is packed
WAYS = 4  # lines of a panel that one set of the first cache keeps beside what else passes
PANEL_LINES = 4  # columns of a product laid out in panels, at most
WALK_BLOCKS = 4  # column blocks of a product whose left factor is windows read where they lie
WORTH_PACKING = 16  # strips that read a packed column block, from which on it is worth its time
PAGES = 32  # that the rows of a panel lie in at most: each is looked up again in every strip
MATRIX_ROWS, MATRIX_VECTORS = 2 * amx.ROWS, 2  # of a register tile on the matrix unit
FEW_ROWS = 384  # that a packed column block serves: it is worth packing it once only
WIDE = 8  # panels from which on a strip that fills the first cache is worth packing
WORTH_GATHERING = 7  # strips from which on rows in more pages are packed


@dataclass(frozen=True, slots=True)
class Blocking:
    """All choices for one Gemm. ``strips``, ``blocks`` and ``panels_total`` count what M and N are
    cut into.
    """

    dtype: DType  # of the accumulators: f32 or f64
    lanes: int
    rows: int
    vectors: int
    panels: int  # per column block
    k_block: int
    pack_left: bool
    pack_right: bool
    left_by_rows: bool  # whether k is the contiguous axis of the left factor, or made so
    left_is_patch: bool
    m: int
    n: int
    k: int  # steps: pairs of k if ``paired``
    batch: int
    paired: bool
    matrix: bool  # whether tiles are those of the matrix unit
    slide: Slide | None  # of a right factor that is read in place
    walk: Walk | None  # of a left factor that is
    across: Walk | None  # of a right factor that is, rows of places, vectors of rows of the result

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.lanes * self.vectors

    @property
    def strips(self) -> int:
        if self.across is not None:
            return 1
        return -(-self.m // self.rows)

    @property
    def columns(self) -> int:
        """Columns that are cut into panels together: a row of places, or all."""
        return self.n if self.slide is None else self.slide.width

    @property
    def panels_total(self) -> int:
        return self.n // self.columns * -(-self.columns // self.width)

    @property
    def blocks(self) -> int:
        """Column blocks."""
        if self.across is not None:
            return self.across.groups
        return -(-self.panels_total // self.panels)

    @property
    def block(self) -> int:
        """Places that are finished together, where vectors run across the result's rows."""
        return block_of(self.across.patch) if self.across is not None else 0

    @property
    def block_pitch(self) -> int:
        """Whole vectors of them."""
        return -(-self.block // self.lanes) * self.lanes

    @property
    def k_blocks(self) -> int:
        return max(1, -(-self.k // self.k_block))

    @property
    def units(self) -> int:
        return self.batch * self.blocks * self.strips

    @property
    def parked_strips(self) -> int:
        """Strips whose accumulators exist at once."""
        if self.walk is not None:
            return min(self.strips, self.walk.strips_at_once(self.rows))
        return min(PARKED_STRIPS, self.strips) if self.k_blocks > 1 else 1

    @property
    def parked_panels(self) -> int:
        return self.panels if self.k_blocks > 1 or self.walk is not None else 1

    @property
    def node_spans(self) -> tuple[int, ...]:
        """Steps of k of a node at each level above the first, the smallest first; of a leaf as
        well where blocks of k end inside of leaves.
        """
        spans = node_spans(self.k, K_LEAF, K_NODE)
        return spans[::-1] if self.walk or self.across else spans[-2::-1]

    @property
    def parked_size(self) -> int:
        """Elements parked per level."""
        if self.across is not None:
            return self.tile_size
        return self.parked_strips * self.parked_panels * self.tile_size

    @property
    def tile_size(self) -> int:
        """Elements of a parked tile; where vectors run across rows, of a block's tiles."""
        if self.across is not None:
            return self.block_pitch * self.width
        return self.rows * self.width

    @property
    def left_group(self) -> int:
        """Strips that are packed together. Contiguous rows lie in lines of memory that several
        strips share.
        """
        if self.slide is not None:
            fits = PACKED_BYTES // (self.left_size * self.dtype.itemsize)
            return max(1, min(PACKED_STRIPS, self.strips, fits))
        if self.left_is_patch:
            return min(PACKED_STRIPS, self.strips)
        return 1 if self.left_by_rows else PACKED_STRIPS

    @property
    def left_pitch(self) -> int:
        """Elements between the rows or, where rows are contiguous, the columns of a packed
        strip.
        """
        if self.slide is not None and self.left_by_rows:  # all of k at once
            return -(-self.k // self.lanes) * self.lanes + self.lanes
        if not self.left_by_rows:  # whole vectors, and no more of the first cache
            return -(-self.rows // self.lanes) * self.lanes
        # By rows whatever k is, so that products share their tiles.
        if self.left_is_patch and min(self.k, self.k_block) <= K_BLOCK:
            return K_BLOCK + self.lanes
        return 2 * K_BLOCK + self.lanes

    @property
    def left_size(self) -> int:
        """Elements of a packed strip, with room for whole vectors at its end."""
        if self.left_is_patch or (self.slide is not None and self.left_by_rows):
            return self.rows * self.left_pitch  # the rows of several strips follow each other
        depth = min(self.k, self.k_block)
        size = (self.rows if self.left_by_rows else depth) * self.left_pitch
        if not self.left_by_rows and size * self.dtype.itemsize % (PAGE // 2) == 0:
            # Strips are written side by side: not all into the same few sets of the first cache.
            return size + PAGE // PACKED_STRIPS // self.dtype.itemsize
        return size + self.lanes

    @property
    def scratch_sizes(self) -> tuple[int, int, int]:
        """Elements of the packed strip, the packed column block, and the parked accumulators."""
        depth = min(self.k, self.k_block)
        left = self.left_size * self.left_group if self.pack_left else 0
        if self.walk is not None and self.walk.packed is not None:
            left = channels_at_once(self.walk.patch) * self.walk.plane + self.lanes
        spill = self.lanes * self.width  # transposed blocks are written whole
        right = depth * self.panels * self.width + spill if self.pack_right else 0
        if self.slide is not None:
            right = self.slide.elements + spill
        levels = 1 + len(self.node_spans)
        if self.across is not None:
            packed = self.across.packed
            left = 0 if packed is None else packed.elements + self.lanes
            right = self.k * -(-self.m // self.width) * self.width + spill
            levels += 1
        return left, right, self.parked_size * levels


def factor_is_half(factor: Factor) -> bool:
    """Whether elements must be converted before they are multiplied."""
    return factor.buffer.dtype in (DType.BF16, DType.F16)


def is_paired(gemm: Gemm, isa: Isa) -> bool:
    """Whether the processor's dot product of bf16 pairs is used."""
    factors = (gemm.left, gemm.right)
    return (
        isa.pairs
        and gemm.k > 1
        and all(x.buffer.dtype is DType.BF16 and 1 in (x.row, x.column) for x in factors)
    )


def is_matrix(gemm: Gemm, isa: Isa) -> bool:
    """Whether the matrix unit is used. By k alone, as the unit has an order of sums of its own."""
    return isa.matrix and is_paired(gemm, isa) and gemm.k >= 2 * amx.PAIRS


def _tiles(isa: Isa, lanes: int) -> list[tuple[int, int]]:
    """Register tiles that fit: accumulators, one row of the right factor, and what a broadcast
    needs.
    """
    # AVX-512 broadcasts from memory in the multiplication itself; AVX2 has a register for it; what
    # multiplies and adds apart needs more.
    spare = 2 if isa.masks else 1 if isa.fma else 4
    found = []
    for vectors in (1, 2, 3, 4):
        most = (isa.registers - spare) // vectors - 1
        found += [(rows, vectors) for rows in range(1, min(most, 24) + 1)]
    return found


def _cycles(rows: int, vectors: int, is_panel: bool) -> float:
    """Modelled cycles of one k step of a tile: two multiplications and two loads a cycle, latency
    four.

    Vectors of the right factor count three times, unless it is a panel: where a caller's array is
    not aligned each spans two lines.
    """
    if is_panel:
        return max(rows * vectors / 2, (rows + vectors) / 2, 4.0)
    return max(rows * vectors / 2, (rows + 3 * vectors) / 2, 4.0) + 0.5


def _cost(
    m: int, n: int, k: int, rows: int, vectors: int, lanes: int, is_panel: bool = False
) -> float:
    """Modelled cycles of the whole product with this tile; the rest strip has its own height."""
    full, rest = divmod(m, rows)
    panels, over = divmod(n, vectors * lanes)
    edge = -(-over // lanes)
    total = 0.0
    for height, strips in ((rows, full), (rest, 1 if rest else 0)):
        for width, count in ((vectors, panels), (vectors if edge else 0, 1 if edge else 0)):
            if strips and count:
                step = _cycles(height, width, is_panel)
                total += strips * count * (step * k + 20 + 2.0 * height * width)
    # A rest strip is another tile to compile; where strips are few, another height does as well.
    return total * 1.05 if rest and m <= 64 else total


@functools.lru_cache(maxsize=4096)
def _tile(
    m: int, n: int, k: int, lanes: int, isa: Isa, most: int = 24, is_panel: bool = False
) -> tuple[int, int]:
    """The cheapest register tile of at most ``most`` rows under the model; the larger of equals."""
    return min(
        [tile for tile in _tiles(isa, lanes) if tile[0] <= most],
        key=lambda t: (_cost(m, n, max(k, 1), t[0], t[1], lanes, is_panel), -t[0] * t[1], t[1]),
    )


def _tile_within(gemm: Gemm, isa: Isa) -> tuple[int, int]:
    """The cheapest of the register tiles that ``tile_fits``."""
    m, n, k, lanes = max(gemm.m, 1), max(gemm.n, 1), max(gemm.k, 1), isa.lanes(gemm.acc.dtype)
    return min(
        [tile for tile in _tiles(isa, lanes) if tile_fits(gemm, tile[0], lanes * tile[1])],
        key=lambda t: (_cost(m, n, k, t[0], t[1], lanes), -t[0] * t[1], t[1]),
    )


def tile_cost(gemm: Gemm, isa: Isa) -> float:
    """Modelled cycles of the register tiles of a plain product."""
    lanes, panel = isa.lanes(gemm.acc.dtype), is_panel(gemm)
    m, n, k = max(gemm.m, 1), max(gemm.n, 1), max(gemm.k, 1)
    return math.prod(gemm.batch) * _cost(
        m, n, k, *_tile(m, n, k, lanes, isa, 24, panel), lanes, panel
    )


def _orientation_cost(gemm: Gemm, isa: Isa) -> float:
    """Modelled cycles of ``gemm`` as it stands: tiles, transposing the right factor, a scattered
    epilogue.
    """
    lanes = isa.lanes(gemm.acc.dtype)
    m, n, k = max(gemm.m, 1), max(gemm.n, 1), max(gemm.k, 1)
    cost = _cost(m, n, k, *_tile(m, n, k, lanes, isa), lanes)
    if gemm.right.column != 1:
        cost += 0.25 * n * k
    for statement in gemm.epilogue:
        if isinstance(statement, (Load, Store)):
            near = statement.offset.coefficient(gemm.j) in (0, 1)
            cost += (1.0 if near else 12.0) * m * n / lanes
    return cost


def oriented(gemm: Gemm, isa: Isa) -> Gemm:
    """``gemm``, or its transpose where vectors along i fill better than vectors along j (few
    columns, many rows).

    The sums and the epilogue of each element are the same, so are the bits.
    """
    if gemm.m <= gemm.n or gemm.left.patch is not None or gemm.right.patch is not None:
        return gemm
    if gemm.within is not None and gemm.within.terms:
        return gemm  # rows and columns are not left out by the same numbers

    other = gemm.turned()
    worth = _orientation_cost(other, isa) < 0.75 * _orientation_cost(gemm, isa)
    return other if worth else gemm


def _crowds(stride: int, steps: int, width: int) -> bool:
    """Whether so many lines of a panel, ``stride`` bytes apart, fall into so few sets of the first
    cache that they push each other out: then every strip reads the panel from the second.
    """
    lines = -(-width // LINE)
    sets = min(PAGE // LINE, PAGE // math.gcd(max(stride, 1), PAGE) * lines)
    return steps * lines > WAYS * sets


def is_panel(gemm: Gemm) -> bool:
    """Whether the right factor is a few whole lines wide and nothing else lies between its rows."""
    right, lines = gemm.right, PANEL_LINES * LINE
    width = gemm.n * right.buffer.dtype.itemsize
    is_dense = right.patch is None and (right.row, right.column) == (gemm.n, 1)
    return is_dense and width % LINE == 0 and width <= lines


def _is_far(gemm: Gemm, k: int, rows: int, width: int) -> bool:
    """Whether rows of the right factor lie so far apart, in so many pages, or so badly in the first
    cache, that strips of ``rows`` read panels of ``width`` bytes faster when they are packed once.
    """
    stride = gemm.right.row * gemm.acc.dtype.itemsize
    if stride >= PAGE and gemm.m > 2 * rows:
        return True
    steps = min(max(k, 1), K_BLOCK)
    if steps * stride > PAGES * PAGE and gemm.m > WORTH_GATHERING * rows:
        return True
    return _crowds(stride, steps, width) and gemm.m > WORTH_PACKING * rows


def _left_crowds(gemm: Gemm, k: int, rows: int) -> bool:
    """Whether a strip of a left factor whose rows are contiguous does not stay in the first cache
    from panel to panel.
    """
    left, size = gemm.left, gemm.acc.dtype.itemsize
    if left.patch is not None or left.row != 1 or gemm.m <= rows:
        return False
    return _crowds(left.column * size, min(max(k, 1), K_BLOCK), rows * size)


def _left_fills(gemm: Gemm, k: int, rows: int, width: int, isa: Isa) -> bool:
    """Whether such a strip, of which each of ``k`` steps is a line at least, and a panel of
    ``width`` bytes fill the first cache, and there are several groups of strips.
    """
    left, line = gemm.left, LINE + width
    is_strip = left.patch is None and left.row == 1 and left.column != 1
    return is_strip and gemm.m > WORTH_PACKING * rows and k * line >= isa.caches[0]


def _k_block(gemm: Gemm, k: int, pack_left: bool, pack_right: bool) -> int:
    """Steps of k in a block: all of them as long as blocks would cost more than they bring."""
    most = 2 * K_BLOCK if pack_right or pack_left else K_UNBLOCKED
    if pack_left and gemm.left.row == 1:
        # Strips are packed for every column block anew: few wide blocks rather than all of k.
        most = K_BLOCK
    return max(k, 1) if k <= most else K_BLOCK


def _register_tile(gemm: Gemm, size: tuple[int, int, int], isa: Isa, most: int) -> tuple[int, int]:
    """Rows and vectors of the register tile of a product of this size."""
    (down, wide, k), lanes = size, isa.lanes(gemm.acc.dtype)
    if is_matrix(gemm, isa):
        rows = min(-(-down // amx.ROWS) * amx.ROWS, MATRIX_ROWS)
        return rows, min(-(-wide // lanes), MATRIX_VECTORS)
    rows, vectors = _tile(down, wide, k, lanes, isa, most, is_panel(gemm))
    rows = -(-down // -(-down // rows))  # even strips
    return (rows, vectors) if tile_fits(gemm, rows, lanes * vectors) else _tile_within(gemm, isa)


def blocking(gemm: Gemm, isa: Isa) -> Blocking:
    """The cut of ``gemm`` on ``isa``."""
    dtype, lanes = gemm.acc.dtype, isa.lanes(gemm.acc.dtype)
    paired = is_paired(gemm, isa)
    m, n, k = max(gemm.m, 1), max(gemm.n, 1), (gemm.k + 1) // 2 if paired else gemm.k
    matrix = is_matrix(gemm, isa)
    k = -(-k // amx.PAIRS) * amx.PAIRS if matrix else k
    batch = math.prod(gemm.batch)
    slide, walk, across = slide_of(gemm, isa), walk_of(gemm, isa), across_of(gemm, isa)
    down, wide = (m, n if slide is None else slide.width)
    if across is not None:
        slide, down, wide = None, block_of(across.patch), m
    most = 24 if walk is None and across is None else MOST_ROWS
    rows, vectors = _register_tile(gemm, (down, wide, k), isa, most)
    width, size = lanes * vectors, dtype.itemsize
    panels_total = -(-n // width)
    far_left = max(gemm.left.row, gemm.left.column) * size >= PAGE and panels_total > 2
    is_near = gemm.right.column == 1 and not factor_is_half(gemm.right)
    pack_right = not is_near or _is_far(gemm, k, rows, width * size)
    scattered = 1 not in (gemm.left.row, gemm.left.column)
    crowded = panels_total > 2 and _left_crowds(gemm, k, rows)
    pack_left = factor_is_half(gemm.left) or far_left or scattered or crowded
    k_block = _k_block(gemm, k, pack_left, pack_right)
    # All of k in one block, with nothing packed, is worth more.
    if panels_total >= WIDE and (k_block <= K_BLOCK or pack_right):
        pack_left = pack_left or _left_fills(gemm, k_block, rows, width * size, isa)
        k_block = _k_block(gemm, k, pack_left, pack_right)
    stays = isa.caches[1] * 3 // 4  # a packed column block stays in the second cache
    room = stays if pack_right else 4 * stays
    panels = max(1, min(panels_total, room // (k_block * width * size)))
    if not pack_left and m * n * k * batch >= WORTH_CUTTING:
        # Few strips: more column blocks, so that many threads find a piece each.
        pieces = batch * -(-m // rows)
        panels = max(1, min(panels, panels_total * pieces // PIECES))
    blocks = -(-panels_total // panels)
    if blocks > 1 and pack_right and m <= FEW_ROWS:
        blocks += blocks % 2  # so that threads can have whole blocks
    panels = -(-panels_total // blocks)
    if slide is not None:
        k_block, panels = k, slide.block_groups * -(-slide.width // width)
        pack_left = factor_is_half(gemm.left) or scattered
    if walk is not None:
        k_block, pack_left = min(max(k, 1), K_LEAF), False
        if walk.packed is None:
            # Ranges of columns share nothing; ranges of strips would each turn all columns round.
            panels = min(panels, -(-panels_total // WALK_BLOCKS))
    if across is not None:
        k_block, pack_left, pack_right = K_LEAF, False, True
    is_patch = gemm.left.patch is not None
    tile = (dtype, lanes, rows, vectors, panels, k_block)
    packing = (pack_left, pack_right, gemm.left.column == 1 or is_patch or matrix, is_patch)
    return Blocking(*tile, *packing, m, n, k, batch, paired, matrix, slide, walk, across)
