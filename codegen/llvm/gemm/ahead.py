"""Lines that the next packing reads are asked for while tiles compute: then it need not wait for
memory.

A factor larger than the second cache is packed from further away, and while it is, nothing else
happens. Each call of a tile asks for its share of what is packed next: of the right factor the same
panel in the next block of k, or in the next column block; of the left one the next strips.

Non-goals: when to pack (``blocking``); factors that lie in windows.
"""

from __future__ import annotations

from gradc.codegen.llvm import static
from gradc.codegen.llvm.gemm.blocking import Blocking
from gradc.codegen.llvm.gemm.pack import LINE, memory_type, offset, prefetch
from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.static import i64
from gradc.codegen.llvm.text import Function, Module, Value
from gradc.ir.loop.kernel import Factor


def emit_ask(module: Module) -> str:
    """Defines ``void @ask(ptr at, i64 stride, i64 count)``; returns its name. Nothing need be
    there: what is asked for is not read.
    """
    name = "gradc.ask"
    if name not in module.functions:
        parameters = (("ptr", "at"), ("i64", "stride"), ("i64", "count"))
        f = module.function(name, "void", parameters, attributes="noinline")
        at, stride, count = f.parameters
        with f.loop(i64(0), count, 1, [at], nonempty=True) as loop:
            (line,) = loop.carried
            prefetch(f, line, 2)
            loop.next = [f.address(line, "i8", stride)]
        f.ret()
    return name


def is_worth_asking(factor: Factor, is_packed: bool, isa: Isa) -> bool:
    """Whether a factor is packed from beyond the second cache."""
    size = factor.buffer.size * factor.buffer.dtype.itemsize
    return is_packed and factor.patch is None and size > isa.caches[1]


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
    for n in range(lines):
        line = f.address(at, "i8", i64(n * LINE))
        f.line(f"call void @{emit_ask(f.module)}({line}, i64 {stride * size}, i64 {count})")


def ask_left(
    f: Function, factor: Factor, cut: Blocking, after: Value, strip: Value, panel: Value
) -> None:
    """Asks for a share of the strips that begin at ``after``, as panel ``panel`` of strip ``strip``
    of those before them.
    """
    element, size = memory_type(factor.buffer.dtype), factor.buffer.dtype.itemsize
    if cut.left_by_rows:
        steps = -(-cut.k_block // cut.panels)
        lines, stride, count = 1, factor.row, cut.rows
    else:
        steps = -(-cut.k_block // (cut.panels * cut.left_group))
        panel = static.add(f, static.mul(f, strip, i64(cut.panels)), panel)
        lines = 1 + -(-cut.left_group * cut.rows * size // LINE)
        stride, count = factor.column, steps
    at = offset(f, after, element, (static.mul(f, panel, i64(steps)), factor.column))
    for n in range(lines):
        line = f.address(at, "i8", i64(n * LINE))
        f.line(f"call void @{emit_ask(f.module)}({line}, i64 {stride * size}, i64 {count})")
