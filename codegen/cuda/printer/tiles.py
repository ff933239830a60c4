"""Matrix products in f32 by tiles: a block computes a square of the result, a thread 8 x 8 (4 x 4)
elements of it in registers, from slices of both factors in shared memory.

Every element is one chain of fused multiply-adds in k's order, leaves of ``K_LEAF`` steps added in
theirs, so tiles of any size give the bits of any other schedule. A slice has ``DEPTH`` steps of k;
both factors lie in it with k as the slow axis, wherever they are contiguous in memory. A thread's
rows are two runs of four, half a tile apart, and so are its columns: then the 16-byte reads of a
warp meet no bank twice.

The results go through shared memory, some rows of each thread at a time, so that epilogues run over
neighbouring columns. Windows of images come by ``windows``. Non-goals: other types (``products``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from gradc.codegen.cuda.printer.nest import Nest
from gradc.codegen.cuda.printer.products import unflatten
from gradc.codegen.cuda.printer.windows import Windows
from gradc.ir.loop.kernel import Buffer, Factor, Gemm
from gradc.ir.loop.order import K_LEAF, K_NODE
from gradc.ir.tensor.core import DType

DEPTH = 8  # steps of k in a slice
_PROCESSORS = 132
_LEAST = 16  # rows and columns under which a tile is mostly empty
_LEAST_OF_WINDOWS = 4
_PASS_ROWS = 2  # rows of a thread whose results are in shared memory together


@dataclass(frozen=True, slots=True)
class Tile:
    """``size`` x ``size`` results by a block, ``own`` x ``own`` by a thread."""

    size: int
    own: int

    @property
    def across(self) -> int:
        """Threads along each axis."""
        return self.size // self.own

    @property
    def threads(self) -> int:
        return self.across**2

    @property
    def slice_size(self) -> int:
        """Elements of one factor in a slice."""
        return DEPTH * self.size

    @property
    def room(self) -> int:
        """Elements of the results that are in shared memory together."""
        return min(self.own, _PASS_ROWS) * self.across * self.size


TILES = (Tile(128, 8), Tile(64, 8), Tile(32, 4))


def blocks(gemm: Gemm, tile: Tile) -> int:
    """How many blocks compute ``gemm`` in such tiles."""
    return prod(gemm.batch) * -(-gemm.m // tile.size) * -(-gemm.n // tile.size)


def tile_of(gemm: Gemm) -> Tile | None:
    """The largest tiles of which there are enough for all processors and that the shorter side half
    fills, else the smallest; None where a thread per element is better, or tiles do not do.
    """
    types = {factor.buffer.dtype for factor in (gemm.left, gemm.right)}
    if types != {DType.F32} or gemm.k > K_LEAF * K_NODE or gemm.k < DEPTH:
        return None
    # An element of a window costs more than a tile that is mostly empty.
    plain = all(factor.patch is None for factor in (gemm.left, gemm.right))
    if min(gemm.m, gemm.n) < (_LEAST if plain else _LEAST_OF_WINDOWS):
        return None
    shorter = min(gemm.m, gemm.n)
    for tile in TILES:
        if blocks(gemm, tile) >= _PROCESSORS and tile.size <= 2 * shorter:
            return tile
    return TILES[-1]


def write_tiles(nest: Nest, gemm: Gemm, tile: Tile, aligned: frozenset[Buffer]) -> None:
    """Writes what a block does."""
    _Writer(nest, gemm, tile, aligned).write()


class _Writer:
    """Writes one product. ``left``, ``right`` and ``results`` are names of shared memory."""

    def __init__(self, nest: Nest, gemm: Gemm, tile: Tile, aligned: frozenset[Buffer]) -> None:
        self.nest = nest
        self.gemm = gemm
        self.tile = tile
        self.aligned = aligned
        self.lines = nest.lines

    def write(self) -> None:
        gemm, tile, add = self.gemm, self.tile, self.lines.add
        for name in ("left", "right"):
            add(f"{name} = shared(f32, {tile.slice_size})")
        add(f"results = shared(f32, {tile.room})")
        across = -(-gemm.n // tile.size)
        down = -(-gemm.m // tile.size)
        batch = [self.nest.words.define(var) for var in gemm.batch_index]
        unflatten(self.nest, "b", (*gemm.batch, down, across), [*batch, "down", "across"])
        add(f"row = {tile.size} * down")
        add(f"column = {tile.size} * across")
        add(f"y = floordiv(t, {tile.across})")
        add(f"x = mod(t, {tile.across})")
        first = self._slice(gemm.left, (gemm.left.row, gemm.left.column), gemm.m, "left", "row")
        strides = gemm.right.column, gemm.right.row
        other = self._slice(gemm.right, strides, gemm.n, "right", "column")
        for one in (first, other):
            one.base(batch)
        self._sum(first, other)
        self._results()

    def _slice(
        self, factor: Factor, strides: tuple[int, int], extent: int, name: str, first: str
    ) -> _Slice | _WindowSlice:
        if factor.patch is None:
            return _Slice(self, factor, *strides, extent, name, first)
        limits = (
            extent if extent % self.tile.size else None,
            self.gemm.k if self.gemm.k % DEPTH else None,
        )
        windows = Windows(self.nest, factor, factor.patch, name, first, limits)
        return _WindowSlice(windows, self.tile)

    # ---- the sum

    def _sum(self, first: _Slice | _WindowSlice, other: _Slice | _WindowSlice) -> None:
        gemm, tile, lines = self.gemm, self.tile, self.lines
        count = tile.own**2
        if gemm.k <= K_LEAF:
            lines.add(f"acc = zeros(f32, {count})")
            self._leaf(first, other, "0", gemm.k)
            return
        lines.add(f"total = zeros(f32, {count})")
        with lines.block(f"for leaf in range(0, {gemm.k}, {K_LEAF})"):
            lines.add(f"acc = zeros(f32, {count})")
            self._leaf(first, other, "leaf", K_LEAF)
            with lines.block("if leaf == 0"):
                lines.add("total = acc")
            with lines.block("if leaf != 0"):
                lines.add("total = each_sum(total, acc)")
        lines.add("acc = total")

    def _leaf(
        self, first: _Slice | _WindowSlice, other: _Slice | _WindowSlice, start: str, length: int
    ) -> None:
        """The slices of a leaf; the last slice of all may be shorter."""
        gemm, lines = self.gemm, self.lines
        whole = gemm.k % DEPTH == 0
        end = str(length) if start == "0" else f"{start} + {length}"
        if start != "0" and gemm.k % K_LEAF:
            end = f"min({end}, {gemm.k})"
        with lines.block(f"for k in range({start}, {end}, {DEPTH})"):
            lines.add("barrier()")
            lines.add("# a slice of each factor, k slowest")
            first.load()
            other.load()
            lines.add("barrier()")
            depth = str(DEPTH) if whole else f"min({DEPTH}, {gemm.k} - k)"
            with lines.block(f"for n in range({depth})"):
                self._step()

    def _step(self) -> None:
        """One step of k: rows times columns of this thread."""
        tile = self.tile
        for side, place, name in (("left", "y", "rows"), ("right", "x", "columns")):
            parts = []
            for half in range(tile.own // 4):
                at = f"{tile.size} * n + 4 * {place}"
                at += f" + {half * tile.size // 2}" if half else ""
                parts.append(f"load4({side}, {at})")
            self.lines.add(f"{name} = {' + '.join(parts)}")
        self.lines.add("acc = outer(acc, rows, columns)")

    # ---- results

    def _results(self) -> None:
        """Rows of every thread in turn: to shared memory, then each element's epilogue."""
        tile, lines = self.tile, self.lines
        rows = min(tile.own, _PASS_ROWS)
        for first in range(0, tile.own, rows):
            if first:
                lines.add("barrier()")
            lines.add(
                f"# rows {first} to {first + rows - 1} of every thread, then each element of them"
            )
            for row in range(first, first + rows):
                for half in range(tile.own // 4):
                    n = row * tile.own + 4 * half
                    at = f"{tile.size} * y + 4 * x"
                    shift = (row - first) * tile.across * tile.size + half * tile.size // 2
                    at += f" + {shift}" if shift else ""
                    values = ", ".join(f"acc[{n + lane}]" for lane in range(4))
                    lines.add(f"store4(results, {at}, {values})")
            lines.add("barrier()")
            with lines.block(f"for element in range(t, {tile.room}, {tile.threads})"):
                self._element(first)

    def _element(self, first: int) -> None:
        """The epilogue of one element of those in shared memory."""
        tile, gemm, words, lines = self.tile, self.gemm, self.nest.words, self.lines
        state = words.state()
        i, j = words.define(gemm.i), words.define(gemm.j)
        lines.add(f"line = floordiv(element, {tile.size})")
        # Line l is row ``first + l / across`` of the threads whose y is ``l % across``.
        lines.add(f"place = mod(line, {tile.across})")
        own = f"floordiv(line, {tile.across})"
        half = (first // 4) * tile.size // 2
        shift = first % 4 + half
        lines.add(f"{i} = row + 4 * place + {own}" + (f" + {shift}" if shift else ""))
        lines.add(f"{j} = column + mod(element, {tile.size})")
        inside = []
        if gemm.m % tile.size:
            inside.append(f"({i} < {gemm.m})")
        if gemm.n % tile.size:
            inside.append(f"({j} < {gemm.n})")

        def body() -> None:
            lines.add(f"{words.define(gemm.acc)} = load(results, element)")
            self.nest.body(gemm.epilogue)

        if inside:
            with lines.block(f"if {' & '.join(inside)}"):
                body()
        else:
            body()
        words.reset(state)


@dataclass(frozen=True, slots=True)
class _WindowSlice:
    """A part of windows of images."""

    windows: Windows
    tile: Tile

    def base(self, batch: Sequence[str]) -> None:
        self.windows.base(batch, self.tile.size)

    def load(self) -> None:
        self.windows.load(self.tile.size, self.tile.threads, DEPTH)


class _Slice:
    """How a factor's part of a slice gets to shared memory: element (place, k) of it lies at
    ``DEPTH``-major ``size * k + place``.
    """

    def __init__(
        self,
        writer: _Writer,
        factor: Factor,
        stride: int,
        k_stride: int,
        extent: int,
        name: str,
        first: str,
    ) -> None:
        self.writer = writer
        self.factor = factor
        self.stride, self.k_stride = stride, k_stride
        self.extent = extent
        self.name = name
        self.first = first
        gemm = writer.gemm
        others = [*factor.batch_strides, factor.offset]
        fits = factor.buffer in writer.aligned and not any(n % 4 for n in others)
        self.along_k = k_stride == 1
        other = stride if self.along_k else k_stride
        runs = gemm.k if self.along_k else extent
        contiguous = k_stride == 1 or stride == 1
        self.by_four = fits and contiguous and other % 4 == 0 and runs % 4 == 0

    def base(self, batch: Sequence[str]) -> None:
        """Names the place of the first row or column of the tile."""
        terms = [
            f"{stride} * {name}"
            for name, stride in zip(batch, self.factor.batch_strides, strict=True)
            if stride
        ]
        terms += [str(self.factor.offset)] if self.factor.offset else []
        self.start = ""
        if terms:
            self.start = f"{self.name}_start"
            self.writer.lines.add(f"{self.start} = {' + '.join(terms)}")

    def load(self) -> None:
        """A slice from memory; what lies outside of the factor is not read, nor used."""
        tile = self.writer.tile
        width = 4 if self.by_four else 1
        count = tile.slice_size // width
        if count == tile.threads:
            self._one("t", width)
            return
        with self.writer.lines.block(f"for piece in range(t, {count}, {tile.threads})"):
            self._one("piece", width)

    def _one(self, piece: str, width: int) -> None:
        tile, add, gemm = self.writer.tile, self.writer.lines.add, self.writer.gemm
        per_k = DEPTH // width
        if self.along_k:
            add(f"place = floordiv({piece}, {per_k})")
            add(f"step = {f'{width} * ' if width > 1 else ''}mod({piece}, {per_k})")
        else:
            per_place = tile.size // width
            add(f"step = floordiv({piece}, {per_place})")
            add(f"place = {f'{width} * ' if width > 1 else ''}mod({piece}, {per_place})")
        terms = [self.start] if self.start else []
        terms += [
            f"{stride} * {index}" if stride != 1 else index
            for stride, index in (
                (self.stride, f"({self.first} + place)"),
                (self.k_stride, "(k + step)"),
            )
            if stride
        ]
        at = " + ".join(terms) if terms else "0"
        inside = []
        if self.extent % tile.size:
            inside.append(f"({self.first} + place < {self.extent})")
        if gemm.k % DEPTH:
            inside.append(f"(k + step < {gemm.k})")
        self._move(at, width, " & ".join(inside))

    def _move(self, at: str, width: int, condition: str) -> None:
        """An access of memory, then of shared memory; zeros where the condition does not hold."""
        tile, lines = self.writer.tile, self.writer.lines
        pointer = self.writer.nest.buffers[self.factor.buffer]
        values = [f"{self.name}{n}" for n in range(width)]
        load = "load4" if width > 1 else "load"
        read = f"{', '.join(values)} = {load}({pointer}, {at})"
        if condition:
            for value in values:
                lines.add(f"{value} = f32(0.0)")
            with lines.block(f"if {condition}"):
                lines.add(read)
        else:
            lines.add(read)
        if width > 1 and not self.along_k:
            at = f"{tile.size} * step + place"
            lines.add(f"store4({self.name}, {at}, {', '.join(values)})")
            return
        for n, value in enumerate(values):
            step = f"(step + {n})" if n else "step"
            lines.add(f"store({self.name}, {tile.size} * {step} + place, {value})")
