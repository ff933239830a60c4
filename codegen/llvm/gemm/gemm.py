"""Matrix products: a ``Gemm`` statement becomes a blocked, register-tiled kernel with its epilogue
fused in.

Loops, outer to inner: column block, chunk of strips, block of k, strip, panel. A column block of
the right factor and a strip of the left one are packed when their layout asks for it; the tile adds
one block of k to what is parked; after the last block the epilogue runs over the rows of the tile,
vector lanes along j. Where k is so long that sums have nodes of nodes, each level is parked by
itself and added to the next when it is complete.

Invariants: sums over k are trees fixed by k alone (``gemm_blocking``); ``[begin, end)`` counts
units (a strip of a column block of a batch element), so any cut into ranges gives the same bits;
packed factors and parked accumulators lie in scratch that the caller gives, nothing but registers
is spilled to the stack.
Non-goals: sizes that are not static, choosing the blocking (``gemm_blocking``).
"""

from __future__ import annotations

from dataclasses import replace

from gradc.codegen.llvm.gemm.blocking import FEW_ROWS, blocking, is_panel, oriented, tile_cost
from gradc.codegen.llvm.gemm.by_rows import RowEmitter, cut_for
from gradc.codegen.llvm.gemm.crossing import CrossEmitter
from gradc.codegen.llvm.gemm.emitter import Emitter, Epilogue, scratch_lines
from gradc.codegen.llvm.gemm.walking import WalkEmitter
from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.text import Module
from gradc.ir.loop.kernel import Gemm, Kernel


def products(kernel: Kernel) -> tuple[Gemm, ...]:
    """The products that ``kernel`` consists of, if none reads what it writes: their pieces may be
    shared among threads.
    """
    found = tuple(s for s in kernel.body if isinstance(s, Gemm))
    read = {factor.buffer.access for gemm in found for factor in (gemm.left, gemm.right)}
    return found if len(found) == len(kernel.body) and read <= {"read"} else ()


def units(gemm: Gemm, isa: Isa) -> int:
    """How many independent pieces ``[begin, end)`` counts."""
    gemm = oriented(gemm, isa)
    return blocking(gemm, isa).units if 0 not in (gemm.m, gemm.n, *gemm.batch) else 0


def units_together(gemm: Gemm, threads: int, isa: Isa) -> int:
    """How many units had best stay together for so many threads: those of a column block, which is
    then packed once, if it serves few rows and every thread gets as many blocks.
    """
    gemm = oriented(gemm, isa)
    if 0 in (gemm.m, gemm.n, *gemm.batch):
        return 1
    cut = blocking(gemm, isa)
    is_plain = cut.slide is None and cut.walk is None and cut.across is None
    if not (is_plain and cut.pack_right and cut.m <= FEW_ROWS) or threads < 2:
        return 1
    return cut.strips if cut.batch * cut.blocks % threads == 0 else 1


def column_blocks(gemm: Gemm, isa: Isa) -> int:
    """How many column blocks of all batch elements there are, each of as many units."""
    gemm = oriented(gemm, isa)
    cut = blocking(gemm, isa)
    return units(gemm, isa) // cut.strips


def is_over_panels(gemm: Gemm) -> bool:
    """Whether the right factor was laid out in panels, of which the last batch axis counts them."""
    if not gemm.batch or not is_panel(gemm):
        return False
    return not gemm.left.batch_strides[-1] and gemm.right.batch_strides[-1] == gemm.k * gemm.n


def rows_together(gemm: Gemm, rows: int, isa: Isa) -> int:
    """How many rows had best stay together where a thread has about so many; 0 if threads cannot
    share the rows of ``gemm``.
    """
    cut = cut_for(gemm, rows, isa)
    return 0 if cut is None else blocking(replace(gemm, m=rows), isa).rows


def row_scratch_bytes(gemm: Gemm, each: int, isa: Isa) -> int | None:
    """``scratch_bytes`` where ``each`` rows stay together; None if they cannot."""
    cut = cut_for(gemm, each, isa)
    return None if cut is None else sum(scratch_lines(cut))


def row_cost(gemm: Gemm, rows: int, isa: Isa) -> float:
    """Modelled cycles of ``rows`` rows."""
    return tile_cost(replace(gemm, m=rows), isa)


def scratch_bytes(gemm: Gemm, isa: Isa) -> int:
    """Scratch that one thread needs for packed factors and parked accumulators."""
    gemm = oriented(gemm, isa)
    return 0 if 0 in (gemm.m, gemm.n, *gemm.batch) else sum(scratch_lines(blocking(gemm, isa)))


def emit_kernel(
    module: Module,
    kernel: Kernel,
    gemm: Gemm,
    name: str,
    isa: Isa,
    epilogue: Epilogue,
    each: int = 0,
) -> None:
    """Defines ``void @name(ptr buffer..., ptr scratch, i64 begin, i64 end)`` for a kernel that is
    one Gemm. The range counts units or, if ``each`` of them stay together, rows.

    ``scratch`` is aligned to 64 bytes and has ``scratch_bytes``, which nobody else uses meanwhile.
    """
    gemm = oriented(gemm, isa)
    cut = blocking(gemm, isa)
    given = (module, kernel, gemm, name, isa, epilogue)
    if each:
        RowEmitter(*given, cut_for(gemm, each, isa)).emit()
        return
    emitter = WalkEmitter if cut.walk else CrossEmitter if cut.across else Emitter
    emitter(*given).emit()
