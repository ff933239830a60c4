"""Packing for products of pairs: two bf16 steps of k in one 32-bit element, as the processor's dot
product takes them.

Layouts are those of ``gemm_pack`` with pairs for elements: panels of ``pairs x width``, strips
``row x pitch`` or ``pair x row``. Where k is odd the last pair is filled up with zero on both
sides. Sums then run over pairs of k in
order: both products of a pair are added before the accumulator, and denormals count as zero. The
matrix unit takes 16 pairs at a time: panels and strips are filled up to whole ones, and strips are
``row x pitch`` however the factor lies.

Non-goals: factors of which neither axis is contiguous, other element types (``gemm_blocking`` keeps
them away).
"""

from __future__ import annotations

from gradc.codegen.llvm import static
from gradc.codegen.llvm.gemm.pack import lane_mask, offset, packing, transpose
from gradc.codegen.llvm.static import i64
from gradc.codegen.llvm.text import Function, Module, Value, vector

LANES = 16
_PAIR = "i32"
_HALF = "i16"


def _load(f: Function, pointer: Value, mask: Value, lanes: int) -> Value:
    """Masked halves."""
    type_ = vector(_HALF, lanes)
    name = f"llvm.masked.load.v{lanes}i16.p0"
    f.module.declare(name, type_, ("ptr", "i32", mask.type, type_))
    return f.effect(
        f"call {type_} @{name}({pointer}, i32 2, {mask}, {type_} zeroinitializer)", type_
    )


def _interleaved(
    f: Function, line: Value, step: Value, mask: Value, k: Value, depth: Value
) -> Value:
    """Pairs of the halves of steps ``k``, at ``line``, and ``k + 1``, ``step`` elements further on;
    zero from ``depth`` on.
    """
    first = f.compare("icmp slt", k, depth)
    second = f.compare("icmp slt", f.binary("add", k, i64(1)), depth)
    low = _load(f, line, f.binary("and", mask, f.splat(first, LANES)), LANES)
    both = f.binary("and", mask, f.splat(second, LANES))
    high = _load(f, f.address(line, _HALF, step), both, LANES)
    order = [x for n in range(LANES) for x in (n, n + LANES)]
    return f.convert("bitcast", f.shuffle(low, high, order), vector(_PAIR, LANES))


def _pairs(f: Function, depth: Value, is_whole: bool = False) -> Value:
    """Pairs of ``depth`` steps of k; whole vectors of them if ``is_whole``."""
    if is_whole:
        up = f.binary("add", depth, i64(2 * LANES - 1))
        return f.binary("mul", f.binary("lshr", up, i64(5)), i64(LANES))
    return f.binary("lshr", f.binary("add", depth, i64(1)), i64(1))


def pack_right_pairs(
    module: Module, strides: tuple[int, int], vectors: int, is_whole: bool = False
) -> str:
    """Defines, once per module, the packing of a column block; returns its name.

    ``void (ptr source, i64 row, i64 column, ptr target, i64 columns, i64 depth)``; ``depth`` counts
    single steps of k. Panels have whole vectors of pairs if ``is_whole``.
    """
    way = "rows" if strides[1] == 1 else "columns"
    name = f"gradc.pack_right.pairs.{way}.{vectors}{'.whole' if is_whole else ''}"
    if name in module.functions:
        return name
    f = packing(module, name)
    width = LANES * vectors
    source, row, column, target, columns, depth = f.parameters
    pairs = _pairs(f, depth, is_whole)
    panel_size = f.binary("mul", pairs, i64(width))
    if way == "columns":
        _transposed(f, (source, column, target), (columns, depth, pairs), vectors)
        f.ret()
        return name
    panels = f.binary("udiv", f.binary("add", columns, i64(width - 1)), i64(width))
    with f.loop(i64(0), panels, 1) as panel:
        base = f.address(target, _PAIR, f.binary("mul", panel.index, panel_size))
        first = f.binary("mul", panel.index, i64(width))
        left = f.binary("sub", columns, first)
        start = f.address(source, _HALF, first)
        masks = [lane_mask(f, f.binary("sub", left, i64(v * LANES)), LANES) for v in range(vectors)]
        with f.loop(i64(0), pairs, 1) as pair:
            k = f.binary("shl", pair.index, i64(1))
            line = f.address(start, _HALF, f.binary("mul", k, row))
            out = offset(f, base, _PAIR, (pair.index, width))
            for v, mask in enumerate(masks):
                at = f.address(line, _HALF, i64(v * LANES))
                value = _interleaved(f, at, row, mask, k, depth)
                f.store(value, f.address(out, _PAIR, i64(v * LANES)), 4)
    f.ret()
    return name


def _transposed(
    f: Function,
    places: tuple[Value, Value, Value],
    counts: tuple[Value, Value, Value],
    vectors: int,
) -> None:
    """Contiguous k: pairs lie in memory as they are wanted; blocks of 16 columns are transposed in
    registers.
    """
    source, column, target = places
    columns, depth, pairs = counts
    width = LANES * vectors
    last = f.binary("sub", columns, i64(1))
    panels = f.binary("udiv", f.binary("add", columns, i64(width - 1)), i64(width))
    with f.loop(i64(0), f.binary("mul", panels, i64(vectors)), 1) as group:
        panel = static.div(f, group.index, vectors)
        size = f.binary("mul", pairs, i64(width))
        base = f.address(target, _PAIR, f.binary("mul", panel, size))
        base = offset(f, base, _PAIR, (static.rem(f, group.index, vectors), LANES))
        first = f.binary("mul", group.index, i64(LANES))
        starts = []
        for n in range(LANES):
            inside = static.minimum(f, f.binary("add", first, i64(n)), last)
            starts.append(f.address(source, _HALF, f.binary("mul", inside, column)))
        with f.loop(i64(0), pairs, LANES) as pair:
            k = f.binary("shl", pair.index, i64(1))
            mask = lane_mask(f, f.binary("sub", depth, k), 2 * LANES)
            lines = []
            for start in starts:
                halves = _load(f, f.address(start, _HALF, k), mask, 2 * LANES)
                lines.append(f.convert("bitcast", halves, vector(_PAIR, LANES)))
            out = offset(f, base, _PAIR, (pair.index, width))
            # Rows past the end fall into the next panel, packed later, or into the room after the
            # last.
            for n, value in enumerate(transpose(f, lines)):
                f.store(value, f.address(out, _PAIR, i64(n * width)), 4)


def pack_left_pairs(
    module: Module, strides: tuple[int, int], rows: int, pitch: int, size: int
) -> str:
    """Defines, once per module, the packing of strips; returns its name.

    ``void (ptr source, i64 row, i64 column, ptr target, i64 height, i64 depth)``; ``depth`` counts
    single steps of k. Contiguous columns give one strip, contiguous rows as many of ``rows`` rows
    as ``height`` holds, ``size`` apart.
    """
    by_rows = strides[1] == 1
    way = "rows" if by_rows else f"columns.{rows}.{size}"
    name = f"gradc.pack_left.pairs.{way}.{pitch}"
    if name in module.functions:
        return name
    f = packing(module, name)
    source, row, column, target, height, depth = f.parameters
    if by_rows:
        with f.loop(i64(0), height, 1) as r:
            line = f.address(source, _HALF, f.binary("mul", r.index, row))
            out = offset(f, target, _PAIR, (r.index, pitch))
            with f.loop(i64(0), depth, 2 * LANES) as k:
                mask = lane_mask(f, f.binary("sub", depth, k.index), 2 * LANES)
                value = _load(f, f.address(line, _HALF, k.index), mask, 2 * LANES)
                f.store(value, f.address(out, _HALF, k.index), 4)
        f.ret()
        return name
    with f.loop(i64(0), _pairs(f, depth), 1) as pair:
        step = f.binary("shl", pair.index, i64(1))
        line = f.address(source, _HALF, f.binary("mul", step, column))
        out = offset(f, target, _PAIR, (pair.index, pitch))
        with f.loop(i64(0), height, rows) as first:
            start = f.address(line, _HALF, first.index)
            place = offset(f, out, _PAIR, (static.div(f, first.index, rows), size))
            left = f.binary("sub", height, first.index)
            for n in range(0, rows, LANES):
                mask = lane_mask(f, f.binary("sub", left, i64(n)), LANES)
                at = f.address(start, _HALF, i64(n))
                f.store(
                    _interleaved(f, at, column, mask, step, depth),
                    f.address(place, _PAIR, i64(n)),
                    4,
                )
    f.ret()
    return name


def pack_left_matrix(
    module: Module, strides: tuple[int, int], rows: int, pitch: int, size: int
) -> str:
    """``pack_left_pairs`` for the matrix unit: one strip of rows, of whole vectors of pairs."""
    if strides[1] == 1:
        return pack_left_pairs(module, strides, rows, pitch, size)
    name = f"gradc.pack_left.matrix.{pitch}"
    if name in module.functions:
        return name
    f = packing(module, name)
    source, _, column, target, height, depth = f.parameters
    with (
        f.loop(i64(0), height, LANES) as first,
        f.loop(i64(0), _pairs(f, depth), LANES) as pair,
    ):
        mask = lane_mask(f, f.binary("sub", height, first.index), LANES)
        lines = []
        for n in range(LANES):
            k = f.binary("shl", f.binary("add", pair.index, i64(n)), i64(1))
            line = f.address(source, _HALF, f.binary("mul", k, column))
            at = f.address(line, _HALF, first.index)
            lines.append(_interleaved(f, at, column, mask, k, depth))
        out = offset(f, target, _PAIR, (first.index, pitch), (pair.index, 1))
        for n, value in enumerate(transpose(f, lines)):
            f.store(value, f.address(out, _PAIR, i64(n * pitch)), 4)
    f.ret()
    return name
