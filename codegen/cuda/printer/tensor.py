"""Products of bf16 and f16 on tensor cores: a block has 128 x 128 or 64 x 64 results, each of its
warps 64 x 32 of them, from slices of 32 steps of k in shared memory, three of which are there or on
their way. Where groups of warps multiply it is they that have a block's results (``groups``).

A factor lies in a slice as it lies in memory, in chunks of 16 bytes. Chunks are swapped among
neighbours so that the eight rows of a matrix meet no bank twice: where k is fast chunk c of place p
is at ``c ^ (p / 2 mod 4)``, where places are fast chunk c of step s at ``c ^ (s mod 8)``. Factors
that are aligned come by chunks or halves and quarters of such, others and windows of images by
elements (``halves``).

Sums are f32 from the first step of k to the last, in an order that the processor does not tell:
results repeat from run to run, and are not the CPU's bits (docs/cuda-texts.md). Where results are
few and k is long sums are those of leaves of k, added in order: by the shape alone, so that bits do
not depend on the device. Epilogues are as everywhere, on registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod

from gradc.codegen.cuda.printer import groups
from gradc.codegen.cuda.printer.halves import CHUNK, Chunks, Elements, Slab, is_even
from gradc.codegen.cuda.printer.nest import Nest
from gradc.codegen.cuda.printer.products import unflatten
from gradc.codegen.cuda.printer.tiles import strides
from gradc.codegen.cuda.verbs import GROUP, WARP
from gradc.ir.loop.kernel import Buffer, Factor, Gemm
from gradc.ir.loop.order import K_LEAF
from gradc.ir.tensor.core import DType

DEPTH, STAGES = 32, 3
_WIDTHS = (8, 4, 2)  # elements of a copy
_LEAST = 8  # rows, columns and steps under which all of it is mostly empty
_LEAST_OF_WINDOWS = 4  # an element of these costs more than a tile that is mostly empty
_MMA = {DType.BF16: "mma_bf16", DType.F16: "mma_f16"}
_MOST_ROOM = 1.5  # elements of all large blocks for one of the result
_FEW = 64  # small blocks under which leaves of k are summed apart


@dataclass(frozen=True, slots=True)
class Block:
    """A block of ``down`` times ``across`` warps; or of ``down`` groups of warps, each with
    ``across`` times 64 columns.
    """

    down: int
    across: int
    by_groups: bool = False

    @property
    def rows(self) -> int:
        return 64 * self.down

    @property
    def columns(self) -> int:
        return (groups.SIDE if self.by_groups else 32) * self.across

    @property
    def threads(self) -> int:
        if self.by_groups:
            return GROUP * self.down
        return WARP * self.down * self.across

    @property
    def together(self) -> int:
        """Blocks of a multiprocessor: a thread then has 128 registers."""
        return 512 // self.threads

    @property
    def rooms(self) -> tuple[tuple[str, int], ...]:
        return tuple(("u16", STAGES * DEPTH * size) for size in (self.rows, self.columns))


LARGE, SMALL = Block(2, 4), Block(1, 2)
LARGE_GROUPS, SMALL_GROUPS = Block(2, 2, True), Block(1, 1, True)


def fits(gemm: Gemm) -> bool:
    """Whether tensor cores do this product."""
    types = {factor.buffer.dtype for factor in (gemm.left, gemm.right)}
    if len(types) != 1 or not types <= set(_MMA) or gemm.acc.dtype is not DType.F32:
        return False
    is_window = any(factor.patch is not None for factor in (gemm.left, gemm.right))
    return min(gemm.m, gemm.n) >= (_LEAST_OF_WINDOWS if is_window else _LEAST) and gemm.k >= _LEAST


def block_of(gemm: Gemm, processors: int, by_groups: bool, aligned: frozenset[Buffer]) -> Block:
    """The large block if the product mostly fills such and there is one for every processor; of
    groups where a device has their instructions (``by_groups``) and the product is large enough.
    A large block of these has no registers left to copy both factors by elements.
    """
    own = by_groups and groups.fits(gemm, DEPTH)
    large, small = (LARGE_GROUPS, SMALL_GROUPS) if own else (LARGE, SMALL)
    room = blocks(gemm, LARGE) * LARGE.rows * LARGE.columns
    is_full = room <= _MOST_ROOM * prod(gemm.batch) * gemm.m * gemm.n
    if own and not any(_width(gemm, factor, aligned) for factor in (gemm.left, gemm.right)):
        return small
    return large if is_full and blocks(gemm, large) >= processors else small


def is_split(gemm: Gemm) -> bool:
    """Whether leaves of k are summed apart."""
    return gemm.k >= 4 * K_LEAF and blocks(gemm, SMALL) < _FEW


def _width(gemm: Gemm, factor: Factor, aligned: frozenset[Buffer]) -> int:
    """How many elements of a factor are contiguous, aligned and inside or outside as a whole: those
    of a copy; 0 where they come one by one.
    """
    stride, k_stride = strides(gemm, factor)
    extent, k = gemm.m if factor is gemm.left else gemm.n, gemm.k
    if factor.patch is not None or factor.buffer not in aligned or 1 not in (stride, k_stride):
        return 0
    other, run = (stride, k) if k_stride == 1 else (k_stride, extent)
    moves = (other, run, factor.offset, *factor.batch_strides)
    return next((width for width in _WIDTHS if not any(n % width for n in moves)), 0)


def _widths(gemm: Gemm, block: Block, aligned: frozenset[Buffer]) -> tuple[int, ...]:
    """How many elements of each factor a copy has; 0 where they come one by one. Beside fragments
    registers are few: pieces of a chunk then only where both factors come by such, of four at
    least, that are swapped alike in all lines of a thread.
    """
    found = tuple(_width(gemm, factor, aligned) for factor in (gemm.left, gemm.right))
    spare = block.by_groups
    if not spare:
        sizes = (block.rows, block.columns)
        lines = [
            DEPTH if strides(gemm, factor)[1] == 1 else size
            for factor, size in zip((gemm.left, gemm.right), sizes, strict=True)
        ]
        rows = list(zip(found, lines, strict=True))
        spare = all(n >= 4 and is_even(block.threads, line // n) for n, line in rows)
    return found if spare else tuple(n if n == CHUNK else 0 for n in found)


def blocks(gemm: Gemm, block: Block) -> int:
    """How many blocks compute ``gemm``."""
    return prod(gemm.batch) * -(-gemm.m // block.rows) * -(-gemm.n // block.columns)


def write_tensor(
    nest: Nest, gemm: Gemm, block: Block, aligned: frozenset[Buffer], span: int | None = None
) -> None:
    """Writes what a block does. ``span``: a block sums that many steps of k only, those that the
    first of the batch's indices counts.
    """
    add = nest.lines.add
    for name, (dtype, size) in zip(("left", "right"), block.rooms, strict=True):
        add(f"{name} = {'shared_lines' if block.by_groups else 'shared'}({dtype}, {size})")
    across, down = -(-gemm.n // block.columns), -(-gemm.m // block.rows)
    batch = [nest.words.define(var) for var in gemm.batch_index]
    unflatten(nest, "b", (*gemm.batch, down, across), [*batch, "down", "across"])
    add(f"row = {block.rows} * down")
    add(f"column = {block.columns} * across")
    if span is not None:
        add(f"first = {span} * {batch[0]}")
        add(f"stop = min(first + {span}, {gemm.k})")
    if block.by_groups:
        groups.write_places(nest)
    else:
        _places(nest, block)
    left = _side(nest, gemm, gemm.left, block, aligned)
    right = _side(nest, gemm, gemm.right, block, aligned)
    for side in (left, right):
        side.copies.base(batch)
        if not block.by_groups:
            side.fragments()
    _sum(
        nest, gemm, block, (left, right), ("0", str(gemm.k)) if span is None else ("first", "stop")
    )
    _results(nest, gemm, block)


def _places(nest: Nest, block: Block) -> None:
    """A warp's part of the block, a lane's of what fragments are read from."""
    add = nest.lines.add
    add("# a warp's part of the tile; which row of which of four matrices a lane says")
    add(f"y = 64 * floordiv(t, {WARP * block.across})")
    add(f"x = 32 * mod(floordiv(t, 32), {block.across})")
    add("line = mod(t, 8)")
    add("one = mod(floordiv(t, 8), 2)")
    add("other = mod(floordiv(t, 16), 2)")


def _side(
    nest: Nest, gemm: Gemm, factor: Factor, block: Block, aligned: frozenset[Buffer]
) -> _Side:
    is_left = factor is gemm.left
    stride, k_stride = strides(gemm, factor)
    names = ("left", "row") if is_left else ("right", "column")
    size, extent = (block.rows, gemm.m) if is_left else (block.columns, gemm.n)
    line = groups.SIDE if block.by_groups else size
    slab = Slab(*names, size, extent, gemm.k, DEPTH, block.threads, line)
    width = _widths(gemm, block, aligned)[0 if is_left else 1]
    copies: Chunks | Elements
    if width:
        copies = Chunks(nest, factor, slab, (stride, k_stride), width)
    else:
        copies = Elements(nest, factor, slab, stride, k_stride)
    if is_left:
        return _Side(nest, slab, copies, "y", ("one", "other"))
    return _Side(nest, slab, copies, "x", ("other", "one"))


@dataclass
class _Side:
    """One factor: how a warp reads it. ``halves`` name what chooses the second eight places, and
    the second eight steps of k, of a fragment.
    """

    nest: Nest
    slab: Slab
    copies: Chunks | Elements
    warp: str
    halves: tuple[str, str]

    @property
    def name(self) -> str:
        return self.slab.name

    @property
    def along_k(self) -> bool:
        return self.copies.along_k

    @property
    def count(self) -> int:
        """Runs of sixteen places of a warp."""
        return 4 if self.name == "left" else 2

    def fragments(self) -> None:
        """Where the fragments of this lane begin in a slice."""
        add, name, (place, step) = self.nest.lines.add, self.name, self.halves
        if self.copies.along_k:
            add(f"turn = bitxor({step}, mod(floordiv(line, 2), 4))")
            add(f"{name}_line = {DEPTH} * ({self.warp} + line + 8 * {place})")
            for half in (0, 1):
                add(f"{name}_now{half} = {name}_line + 8 * bitxor(turn, {2 * half})")
            return
        add(f"turn = bitxor(floordiv({self.warp}, 8) + {place}, line)")
        add(f"{name}_line = {self.slab.size} * (line + 8 * {step})")
        for run in range(self.count):
            add(f"{name}_now{run} = {name}_line + 8 * bitxor(turn, {2 * run})")

    def load(self, half: int) -> str:
        """The fragments of sixteen steps of k."""
        found = []
        for run in range(self.count):
            if self.copies.along_k:
                at = f"{self.name}_now{half} + {16 * DEPTH * run}"
            else:
                at = f"{self.name}_now{run} + {16 * self.slab.size * half}"
            verb = "matrices" if self.copies.along_k else "turned_matrices"
            found.append(f"{verb}({self.name}, slot + {at})")
        return " + ".join(found)


def _sum(
    nest: Nest, gemm: Gemm, block: Block, sides: Sequence[_Side], within: tuple[str, str]
) -> None:
    """Slices in order; the one after the next sets off while one is multiplied."""
    lines, add = nest.lines, nest.lines.add
    start, stop = within
    verb = _MMA[gemm.left.buffer.dtype]

    def copy(k: str, slot: str, condition: str) -> None:
        with lines.block(f"if {condition}"):
            for side in sides:
                side.copies.copy(k, slot)
        add("commit_copies()")

    with lines.block(f"for stage in range({STAGES - 1})"):
        add(f"k = {'' if start == '0' else f'{start} + '}{DEPTH} * stage")
        copy("k", "stage", f"k < {stop}")
    parts = groups.sums(block.across) if block.by_groups else ["acc"]
    for part in parts:
        add(f"{part} = zeros(f32, {32 if block.by_groups else 64})")
    add("now = 0")
    add(f"free = {STAGES - 1}")
    with lines.block(f"for k in range({start}, {stop}, {DEPTH})"):
        add(f"wait_copies({STAGES - 2})")
        if block.by_groups:
            add("publish()")
        add("barrier()")
        ahead = DEPTH * (STAGES - 1)
        copy(f"k + {ahead}", "free", f"k + {ahead} < {stop}")
        add(f"slot = {sides[0].slab.slice} * now")  # the right slice is as large
        if block.by_groups:
            groups.write_slice(nest, gemm, sides, DEPTH, block.across)
        else:
            for half in (0, 1):
                add(f"rows = {sides[0].load(half)}")
                add(f"columns = {sides[1].load(half)}")
                add(f"acc = {verb}(acc, rows, columns)")
        add("free = now")
        add("now = now + 1")
        with lines.block(f"if now == {STAGES}"):
            add("now = 0")


def _results(nest: Nest, gemm: Gemm, block: Block) -> None:
    """Epilogues of this thread's elements: of each sum of 16 x 8 two neighbours in two rows."""
    lines, add, words = nest.lines, nest.lines.add, nest.words
    if block.by_groups:
        add(f"acc = {' + '.join(groups.sums(block.across))}")
    with lines.block(f"for run in range({8 * block.across if block.by_groups else 16})"):
        if block.by_groups:
            add("place = row + y + line")
            add("step = column + 8 * run + 2 * mod(t, 4)")
        else:
            add("place = row + y + 16 * floordiv(run, 4) + mod(floordiv(t, 4), 8)")
            add("step = column + x + 8 * mod(run, 4) + 2 * mod(t, 4)")
        for n in range(4):
            state = words.state()
            i, j = words.define(gemm.i), words.define(gemm.j)
            add(f"{i} = place" + (" + 8" if n // 2 else ""))
            add(f"{j} = step" + (" + 1" if n % 2 else ""))
            inside = [f"({i} < {gemm.m})"] if gemm.m % block.rows else []
            inside += [f"({j} < {gemm.n})"] if gemm.n % block.columns else []
            with lines.block(f"if {' & '.join(inside)}") if inside else nullcontext():
                add(f"{words.define(gemm.acc)} = acc[{n}]")
                nest.body(gemm.epilogue)
            words.reset(state)
        add("acc = turned(acc, 4)")
