"""Lines that are read next are asked for while tiles compute: then nobody waits for memory.

A factor larger than the second cache is packed, or read where it lies, from further away, and while
it is, nothing else happens. Each call of a tile asks for its share of what is packed next: of the
right factor the same panel in the next block of k, or in the next column block; of the left one the
next strips. Of a left factor that is read in place it asks for a share of the next strip, and of
what the epilogue reads for what belongs to the tile itself: for stores to one result nobody waits.

Non-goals: when to pack (``blocking``); factors that lie in windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gradc.codegen.llvm import static
from gradc.codegen.llvm.gemm.blocking import Blocking
from gradc.codegen.llvm.gemm.pack import LINE, memory_type, offset, prefetch
from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.static import i64
from gradc.codegen.llvm.text import Function, Module, Value
from gradc.ir.loop.kernel import Affine, Buffer, Factor, Gemm, Load, Store

SHORT_ROW = 8 * LINE  # bytes
LONG = 32  # steps of k from which on a tile takes longer than asking for what its epilogue touches
UNROLLED = 24  # lines that are asked for without a loop


def emit_ask(module: Module, count: int, level: int) -> str:
    """Defines ``void @ask(ptr at, i64 stride)``, which asks for ``count`` lines, for the cache of
    that level; returns its name. Nothing need be there: what is asked for is not read.
    """
    name = f"gradc.ask{level}.{count}"
    if name not in module.functions:
        f = module.function(name, "void", (("ptr", "at"), ("i64", "stride")), attributes="noinline")
        at, stride = f.parameters
        if count > UNROLLED:
            with f.loop(i64(0), i64(count), 1, [at], nonempty=True) as loop:
                (line,) = loop.carried
                prefetch(f, line, level)
                loop.next = [f.address(line, "i8", stride)]
        else:
            for _ in range(count):
                prefetch(f, at, level)
                at = f.address(at, "i8", stride)
        f.ret()
    return name


def _ask(f: Function, at: Value, lines: int, stride: int, count: int, level: int = 2) -> None:
    """Asks for ``lines`` side by side from ``at`` on, ``count`` times, ``stride`` bytes apart."""
    for n in range(lines):
        line = f.address(at, "i8", i64(n * LINE))
        f.line(f"call void @{emit_ask(f.module, count, level)}({line}, i64 {stride})")


def is_far(factor: Factor, cut: Blocking, isa: Isa) -> bool:
    """Whether a factor comes from beyond the second cache, row by row and single."""
    size = factor.buffer.size * factor.buffer.dtype.itemsize
    is_plain = factor.patch is None and cut.slide is None and not cut.paired
    return is_plain and size > isa.caches[1]


def is_worth_asking(factor: Factor, cut: Blocking, isa: Isa) -> bool:
    """Whether a left factor is asked for: where it is packed, or read in place by rows so short
    that they end before the processor has seen where they lead.
    """
    is_short = cut.left_by_rows and cut.k_block * factor.buffer.dtype.itemsize <= SHORT_ROW
    return is_far(factor, cut, isa) and (cut.pack_left or is_short)


def ask_right(
    f: Function, factor: Factor, cut: Blocking, right: Value, k: Value, panel: Value, number: Value
) -> None:
    """Asks for a share of panel ``panel`` of what is packed after the block of k at ``k``, as strip
    ``number`` of those that share it.
    """
    element, size = memory_type(factor.buffer.dtype), factor.buffer.dtype.itemsize
    strips = min(cut.parked_strips, cut.strips) if cut.k_blocks > 1 else cut.strips
    steps = -(-cut.k_block // strips)
    if cut.k_blocks > 1:
        k = static.add(f, k, i64(cut.k_block))
    else:
        panel = static.add(f, panel, i64(cut.panels))
    k = static.add(f, k, static.mul(f, number, i64(steps)))
    at = offset(f, right, element, (k, factor.row), (panel, cut.width * factor.column))
    is_straight = factor.column == 1
    stride, count = (factor.row, steps) if is_straight else (factor.column, cut.width)
    lines = -(-cut.width * size // LINE) if is_straight else 1
    _ask(f, at, lines, stride * size, count)


def ask_left(
    f: Function, factor: Factor, cut: Blocking, after: Value, strip: Value, panel: Value
) -> None:
    """Asks for a share of the strips that begin at ``after``, as panel ``panel`` of strip ``strip``
    of those before them.
    """
    element, size = memory_type(factor.buffer.dtype), factor.buffer.dtype.itemsize
    if cut.left_by_rows:
        # Whole lines, and none twice: where there are fewer than panels, the last ask for nothing.
        lines = -(-cut.k_block * size // LINE)
        share = -(-lines // cut.panels)
        first = static.mul(f, panel, i64(share))
        at = offset(f, after, "i8", (first, LINE))
        with static.when(f, static.less(f, first, i64(lines))):
            _ask(f, at, share, factor.row * size, cut.rows)
        return
    steps = -(-cut.k_block // (cut.panels * cut.left_group))
    panel = static.add(f, static.mul(f, strip, i64(cut.panels)), panel)
    lines = 1 + -(-cut.left_group * cut.rows * size // LINE)
    at = offset(f, after, element, (static.mul(f, panel, i64(steps)), factor.column))
    _ask(f, at, lines, factor.column * size, steps)


def ask_touched(
    f: Function,
    gemm: Gemm,
    cut: Blocking,
    places: Mapping[Buffer, Value],
    batch: Sequence[Value],
    tile: tuple[Value, Value, Value],
    isa: Isa,
) -> None:
    """Asks for what the epilogue touches of ``tile``, a strip, a panel and whether it will be
    finished, where columns are contiguous.
    """
    strip, panel, done = tile
    first = static.mul(f, strip, i64(cut.rows)), static.mul(f, panel, i64(cut.width))
    known = {gemm.i: first[0], gemm.j: first[1], **dict(zip(gemm.batch_index, batch, strict=True))}
    for buffer, place in _touched(gemm, isa):
        if cut.slide is not None or cut.k < LONG or any(var not in known for var, _ in place.terms):
            continue
        size, row = buffer.dtype.itemsize, place.coefficient(gemm.i)
        terms = [(known[var], factor * size) for var, factor in place.terms]
        # The ends of lines: of rows that do not begin with one, the panel before asked for theirs.
        end = place.constant * size + min(LINE, cut.width * size) - size
        with static.when(f, done):
            at = offset(f, f.address(places[buffer], "i8", i64(end)), "i8", *terms)
            _ask(f, at, -(-cut.width * size // LINE), row * size, cut.rows, 1)


def _touched(gemm: Gemm, isa: Isa) -> dict[tuple[Buffer, Affine], None]:
    """What the epilogue reads that is not of a column alone nor always in the first cache; and what
    it writes, where that is more than one result: of several the stores are waited for too.
    """
    stores = [s for s in gemm.epilogue if isinstance(s, Store)]
    return {
        (s.buffer, s.offset): None
        for s in gemm.epilogue
        if (isinstance(s, Load) or (isinstance(s, Store) and (s.combine or len(stores) > 1)))
        and s.offset.coefficient(gemm.j) == 1
        and s.offset.coefficient(gemm.i) != 0
        and s.buffer.size * s.buffer.dtype.itemsize > isa.caches[0]
    }
