"""Products of one kernel, block by block of columns in turns: they read and write the same places
of memory, those of some images, while these are near.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gradc.codegen.llvm.static import i64
from gradc.codegen.llvm.text import Function, Value


def in_turns(
    fn: Function,
    products: Sequence[tuple[int, int]],
    bounds: tuple[Value, Value],
    call: Callable[[int, Value, Value], None],
) -> None:
    """Emits ``call(number, begin, end)`` for the units of each of ``products``, each so many units
    in so many column blocks, that lie within ``bounds``, which count the units of all.
    """
    turns = max(1, min(blocks for _, blocks in products)) if len(products) > 1 else 1
    with fn.loop(i64(0), i64(turns), 1, nonempty=True) as turn:
        following = fn.binary("add", turn.index, i64(1))
        first = 0
        for number, (count, blocks) in enumerate(products):
            strips = count // max(blocks, 1)
            edges = []
            for at in (turn.index, following):
                block = fn.binary("udiv", fn.binary("mul", at, i64(blocks)), i64(turns))
                edges.append(fn.binary("mul", block, i64(strips)))
            begin, end = (fn.binary("sub", bound, i64(first)) for bound in bounds)
            low = fn.intrinsic("llvm.smax", begin, edges[0])
            high = fn.intrinsic("llvm.smin", end, edges[1])
            with fn.branch(fn.compare("icmp slt", low, high)):
                call(number, low, high)
            first += count
