"""The register tile: a strip of rows times a panel of columns, summed over one block of k.

``void @tile(ptr left, i64 left_step, ptr right, i64 right_step, ptr parked, i64 depth, i1 fresh)``:
takes ``depth`` steps of k in order. Every ``K_LEAF`` steps the accumulators, which started at zero,
are added to what is parked (rows of ``width`` elements); the first of a ``fresh`` tile are parked
as they are. Every row reads its own broadcast, every vector of the panel one load; nothing else
happens in the loop.

The left factor is contiguous along k, its rows ``left_row`` elements apart (a constant of the tile,
so that every broadcast is one addressing mode), or along the rows, ``left_step`` bytes from k to k.
``right_step`` is bytes from k to k; of windows that slide it is a table of their distances from
``right``, an i32 for each k. Products of a module share the tiles that fit them.

``void @tile(ptr origin, ptr rows, ptr steps, ptr right, ptr parked, i64 depth, i1 fresh)`` where a
row of the left factor begins ``rows[r]`` bytes from its origin and step k lies ``steps[k]`` further
on (``walk``); ``right`` is packed. ``depth`` is a leaf or a part of one, and what is parked is what
the sum goes on from.

Non-goals: what becomes of the sums (the epilogue, ``gemm``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradc.codegen.llvm.gemm.pack import load_lanes, memory_type
from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.static import i64
from gradc.codegen.llvm.text import Function, Module, Value, constant, vector
from gradc.ir.loop.order import K_LEAF
from gradc.ir.tensor.core import DType

SMALL = 12  # accumulators up to which a step of k is too short for a loop of its own


@dataclass(frozen=True, slots=True)
class Tile:
    """One instance: its size and how its operands lie in memory."""

    dtype: DType
    lanes: int
    rows: int
    vectors: int
    width: int  # of a parked row
    tail: int  # columns of the last vector that may be read; ``lanes`` if all
    pairs: bool  # whether elements are pairs of bf16
    left_row: int | None  # elements from row to row; None if the rows are the contiguous axis
    # Where a table says how far each step of k lies from the first: elements between vectors.
    apart: int | None = None
    walks: bool = False  # whether tables say where rows and steps of k of the left factor lie

    @property
    def slides(self) -> bool:
        """Whether a table says where each step of k lies."""
        return self.apart is not None

    @property
    def name(self) -> str:
        edge = f"_{self.tail}" if self.tail < self.lanes else ""
        way = "columns" if self.left_row is None else f"rows{self.left_row}"
        kind = "pairs" if self.pairs else self.dtype
        way = "walk" if self.walks else way
        way += f".slide{self.apart}" if self.slides else ""
        return f"gradc.tile.{kind}.{way}.{self.rows}x{self.vectors}of{self.width}{edge}"


def tail_mask(lanes: int, count: int) -> Value:
    """A constant mask of the first ``count`` lanes."""
    bits = ", ".join(f"i1 {'true' if n < count else 'false'}" for n in range(lanes))
    return Value(vector("i1", lanes), f"<{bits}>")


def emit_park(module: Module, dtype: DType, lanes: int, size: int) -> str:
    """Defines the function that adds a parked tile of ``size`` elements to another; returns its
    name.

    ``void @park(ptr from, ptr to, i1 fresh)``; where ``fresh`` holds there is nothing to add to.
    """
    name = f"gradc.park.{dtype}.{lanes}.{size}"
    if name in module.functions:
        return name
    parameters = (("ptr noalias readonly", "from"), ("ptr noalias", "to"), ("i1", "fresh"))
    f = module.function(name, "void", parameters, attributes="noinline")
    source, target, fresh = f.parameters
    element, type_ = memory_type(dtype), vector(memory_type(dtype), lanes)
    with f.loop(i64(0), i64(size), lanes, nonempty=True) as loop:
        value = f.load(f.address(source, element, loop.index), type_, dtype.itemsize)
        at = f.address(target, element, loop.index)
        with f.branch(f.op(f"xor {fresh}, true", "i1"), [value]) as more:
            more.next = [f.binary("fadd", f.load(at, type_, dtype.itemsize), value)]
        f.store(more.results[0], at, dtype.itemsize)
    f.ret()
    return name


def emit_tile(module: Module, tile: Tile, isa: Isa) -> str:
    """Defines the function of ``tile`` unless the module has it; returns its name."""
    if tile.name in module.functions:
        return tile.name
    f = module.function(tile.name, "void", _parameters(tile), attributes="noinline")
    if tile.walks:
        _walk(f, tile, isa)
        return tile.name
    left, left_step, right, step, parked, depth, fresh = f.parameters
    type_ = vector(memory_type(tile.dtype), tile.lanes)
    zeros = [constant(type_, 0.0)] * (tile.rows * tile.vectors)
    steps = _Steps(f, tile, isa, left_step, step, right)
    start = [left, step if tile.slides else right]
    with f.loop(i64(0), depth, K_LEAF, start, nonempty=True) as leaf:
        count = f.intrinsic("llvm.smin", f.binary("sub", depth, leaf.index), i64(K_LEAF))
        *leaf.next, sums = _leaf(f, steps, [*leaf.carried, *zeros], count)
        first = f.binary("and", fresh, f.compare("icmp eq", leaf.index, i64(0)))
        with f.branch(f.op(f"xor {first}, true", "i1"), sums) as more:
            have = [f.load(at, type_, tile.dtype.itemsize) for at in _cells(f, parked, tile)]
            more.next = [f.binary("fadd", a, b) for a, b in zip(have, sums, strict=True)]
        for pointer, value in zip(_cells(f, parked, tile), more.results, strict=True):
            f.store(value, pointer, tile.dtype.itemsize)
    f.ret()
    return tile.name


def _parameters(tile: Tile) -> list[tuple[str, str]]:
    """What a tile is given, as the head of this file says."""
    reads = [("ptr noalias readonly", "left")]
    if tile.walks:
        reads += [("ptr noalias readonly", name) for name in ("rows", "steps", "right")]
    else:
        reads += [("i64", "left_step"), ("ptr noalias readonly", "right")]
        reads.append(("ptr noalias readonly", "table") if tile.slides else ("i64", "right_step"))
    return [*reads, ("ptr noalias", "parked"), ("i64", "depth"), ("i1", "fresh")]


def _walk(f: Function, tile: Tile, isa: Isa) -> None:
    """The body of a tile whose left factor lies where tables say."""
    origin, rows, table, right, parked, depth, fresh = f.parameters
    type_ = vector(memory_type(tile.dtype), tile.lanes)
    starts = [_moved(f, origin, f.address(rows, "i32", i64(r))) for r in range(tile.rows)]
    zeros = [constant(type_, 0.0)] * (tile.rows * tile.vectors)
    with f.branch(f.op(f"xor {fresh}, true", "i1"), zeros) as more:
        more.next = [f.load(at, type_, tile.dtype.itemsize) for at in _cells(f, parked, tile)]
    step = i64(tile.width * tile.dtype.itemsize)
    steps = _Steps(f, tile, isa, i64(0), step, origin, starts)
    *_, sums = _leaf(f, steps, [table, right, *more.results], depth)
    for pointer, value in zip(_cells(f, parked, tile), sums, strict=True):
        f.store(value, pointer, tile.dtype.itemsize)
    f.ret()


def _moved(f: Function, base: Value, distance: Value) -> Value:
    """``base`` and as many bytes as the i32 at ``distance``."""
    return f.address(base, "i8", f.convert("sext", f.load(distance, "i32", 4), "i64"))


def _leaf(
    f: Function, steps: _Steps, start: list[Value], count: Value
) -> tuple[Value, Value, list[Value]]:
    """``count`` steps from both pointers and sums of zero; returns the pointers and the sums."""
    tile = steps.tile
    unroll = 4 if tile.rows * tile.vectors <= SMALL else 1
    unrolled = f.binary("and", count, i64(-unroll))
    if unroll > 1:
        with f.loop(i64(0), unrolled, unroll, start) as loop:
            loop.next = steps.emit(loop.carried, unroll)
        start = loop.results
    with f.loop(unrolled if unroll > 1 else i64(0), count, 1, start) as rest:
        rest.next = steps.emit(rest.carried, 1)
    left, right, *sums = rest.results
    return left, right, sums


def _cells(f: Function, parked: Value, tile: Tile) -> list[Value]:
    """Where the accumulators are parked."""
    element = memory_type(tile.dtype)
    return [
        f.address(parked, element, i64(r * tile.width + v * tile.lanes))
        for r in range(tile.rows)
        for v in range(tile.vectors)
    ]


@dataclass
class _Steps:
    """Emits steps of k."""

    f: Function
    tile: Tile
    isa: Isa
    left_step: Value
    right_step: Value
    origin: Value  # from where distances count
    starts: Sequence[Value] = ()  # of the rows, where tables say how far steps lie from them

    def emit(self, carried: list[Value], count: int) -> list[Value]:
        """``count`` steps of k from the carried pointers and sums."""
        f, tile = self.f, self.tile
        left, right, *sums = carried
        element = self._element
        for step in range(count):
            near = self._slid(right, step) if tile.slides else right
            columns = [self._column(near, v) for v in range(tile.vectors)]
            walked = self._walked(left, step) if tile.walks else None
            for r in range(tile.rows):
                if walked is not None:
                    at = f.address(self.starts[r], "i8", walked)
                else:
                    number = r if tile.left_row is None else r * tile.left_row + step
                    at = f.address(left, element, i64(number))
                scalar = f.splat(f.load(at, element, tile.dtype.itemsize), tile.lanes)
                for v, column in enumerate(columns):
                    n = r * tile.vectors + v
                    sums[n] = self._multiply_add(scalar, column, sums[n])
            if not tile.slides:
                right = f.address(right, "i8", self.right_step)
            if tile.left_row is None and not tile.walks:
                left = f.address(left, "i8", self.left_step)
        if tile.walks:
            left = f.address(left, "i32", i64(count))
        elif tile.left_row is not None:
            left = f.address(left, element, i64(count))
        if tile.slides:
            right = f.address(right, "i32", i64(count))
        return [left, right, *sums]

    def _slid(self, table: Value, step: int) -> Value:
        """Where the panel of a step of k lies."""
        return _moved(self.f, self.origin, self.f.address(table, "i32", i64(step)))

    def _walked(self, table: Value, step: int) -> Value:
        """How far the elements of a step of k lie from the starts of their rows."""
        f = self.f
        return f.convert("sext", f.load(f.address(table, "i32", i64(step)), "i32", 4), "i64")

    @property
    def _element(self) -> str:
        return "i32" if self.tile.pairs else memory_type(self.tile.dtype)

    def _multiply_add(self, a: Value, b: Value, c: Value) -> Value:
        f = self.f
        if not self.tile.pairs:
            return f.intrinsic("llvm.fma" if self.isa.fma else "llvm.fmuladd", a, b, c)
        name, halves = "llvm.x86.avx512bf16.dpbf16ps.512", "<32 x bfloat>"
        f.module.declare(name, c.type, (c.type, halves, halves))
        operands = (c, f.convert("bitcast", b, halves), f.convert("bitcast", a, halves))
        return f.call(name, c.type, *operands, pure=True)

    def _column(self, right: Value, v: int) -> Value:
        f, tile = self.f, self.tile
        at = f.address(right, self._element, i64(v * (tile.apart or tile.lanes)))
        if tile.pairs:
            return f.load(at, vector("i32", tile.lanes), 4)
        edge = v == tile.vectors - 1 and tile.tail < tile.lanes
        mask = tail_mask(tile.lanes, tile.tail) if edge else None
        return load_lanes(f, at, tile.dtype, tile.lanes, mask, self.isa)
