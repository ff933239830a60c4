"""Loops of products of which a thread computes some rows, all columns of them.

Outer to inner: batch element, column block, chunk of strips and so on as everywhere (``emitter``).
``[begin, end)`` counts rows; the range begins where a strip does and ends so, or with the rows.
Products that share a range have strips of one height, or of a part of it.
"""

from __future__ import annotations

from dataclasses import replace

from gradc.codegen.llvm import static
from gradc.codegen.llvm.gemm.blocking import Blocking, blocking, oriented
from gradc.codegen.llvm.gemm.emitter import Emitter, Scratch
from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.static import i64
from gradc.codegen.llvm.text import Function, Value
from gradc.ir.loop.kernel import Gemm


def cut_for(gemm: Gemm, each: int, isa: Isa) -> Blocking | None:
    """The cut of ``gemm`` for threads that have ``each`` rows or multiples of that; None if they
    would pack what others pack too.
    """
    if 0 in (gemm.m, gemm.n, *gemm.batch) or gemm.left.patch or gemm.right.patch:
        return None
    some = replace(gemm, m=each)
    if oriented(some, isa) is not some:
        return None
    cut = blocking(some, isa)
    if cut.pack_right or cut.matrix:
        return None
    rows = max(n for n in range(1, min(cut.rows, each) + 1) if each % n == 0)
    return replace(cut, m=gemm.m, rows=rows)


class RowEmitter(Emitter):
    """Emits a product that has a ``cut_for`` its threads, in that cut."""

    def _column_blocks(self, f: Function, scratch: Scratch, begin: Value, end: Value) -> None:
        cut = self.cut
        first = static.div(f, begin, cut.rows)
        last = static.div(f, static.add(f, end, i64(cut.rows - 1)), cut.rows)
        with static.counted(f, i64(0), i64(cut.batch * cut.blocks), 1, nonempty=True) as loop:
            block = static.rem(f, loop.index, cut.blocks)
            batch = self._batch(f, static.div(f, loop.index, cut.blocks))
            bases = self._bases(f, batch)
            self._column_block(f, scratch, batch, bases, block, (first, last))
