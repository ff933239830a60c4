"""Loops around the register tile, with the packing before it and the epilogue after it.

Outer to inner: column block, chunk of strips, block of k, strip, panel (``gemm``). Windows that are
summed over their places have loops of their own (``walking``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import ClassVar

from gradc.codegen.llvm import static
from gradc.codegen.llvm.bodies import is_long
from gradc.codegen.llvm.gemm import pack, pairs, patch, slide, strips, within
from gradc.codegen.llvm.gemm.ahead import ask_left, ask_right, ask_touched, is_far, is_worth_asking
from gradc.codegen.llvm.gemm.blocking import Blocking, blocking
from gradc.codegen.llvm.gemm.matrix import configure, emit_matrix_tile, release
from gradc.codegen.llvm.gemm.pack import memory_type, offset
from gradc.codegen.llvm.gemm.slide import Slide
from gradc.codegen.llvm.gemm.tile import Tile, emit_park, emit_tile, tail_mask
from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.static import i64
from gradc.codegen.llvm.text import Function, Module, Value, vector
from gradc.ir.loop.kernel import Buffer, Factor, Gemm, Kernel
from gradc.ir.loop.order import K_LEAF

Pair = tuple[Value, Value]
Sizes = Sequence[tuple[int, int, Value]]  # of a tile, each with the condition under which it is
# emit(function, gemm, pointers, batch indices, i, first j, acc, mask, step, fence): the epilogue of
# ``acc``'s lanes; ``step`` divides the first j, and no multiple of ``fence`` is among the others.
Epilogue = Callable[
    [
        Function,
        Gemm,
        dict[Buffer, Value],
        Sequence[Value],
        Value,
        Value,
        Value,
        Value | None,
        int,
        int,
    ],
    None,
]


def scratch_lines(cut: Blocking) -> list[int]:
    """Bytes of the packed strip, the packed column block and the parked accumulators, in whole
    cache lines.
    """
    return [-(-size * cut.dtype.itemsize // 64) * 64 for size in cut.scratch_sizes]


@dataclass
class Scratch:
    """Addresses of the packed strip, the packed column block, and the parked accumulators."""

    left: Value
    right: Value
    parked: Value


@dataclass
class Here:
    """Where the loops stand: a column block (``bounds``, in panels), a block of k, a chunk of
    strips.
    """

    batch: list[Value]
    bounds: tuple[Value, Value]
    k: Value
    depth: Value
    columns: Value  # where the panels start
    chunk: Value  # its first strip
    factors: Pair  # where both begin
    group: Value  # the first of the strips that are packed together


class Emitter:
    """Emits one Gemm kernel: the tiles it needs, its epilogues, and the loops around them."""

    walks: ClassVar[bool] = False  # whether windows that are summed over are read in place

    def __init__(
        self,
        module: Module,
        kernel: Kernel,
        gemm: Gemm,
        name: str,
        isa: Isa,
        epilogue: Epilogue,
        cut: Blocking | None = None,
    ) -> None:
        self.module = module
        self.buffers = kernel.bound
        self.gemm = gemm
        self.name = name
        self.isa = isa
        self.epilogue = epilogue
        cut = self.cut = cut or blocking(gemm, isa)
        self.element, size = memory_type(cut.dtype), cut.dtype.itemsize
        # A packed strip keeps the direction in which the left factor is contiguous.
        left_row = cut.left_pitch if cut.pack_left else gemm.left.row
        left_column = cut.left_pitch if cut.pack_left else gemm.left.column
        self.left_row = left_row if cut.left_by_rows and not self.walks else None
        self.left_step = i64(0 if cut.left_by_rows else left_column * size)
        self.right_step = i64((cut.width if cut.pack_right else gemm.right.row) * size)

    # ---- instances --------------------------------------------------------------------------

    def _tile(self, rows: int, columns: int) -> str:
        """The name of the tile for so many rows and columns."""
        cut = self.cut
        vectors = -(-columns // cut.lanes)
        # A packed edge is padded with zeros; an unpacked one must not be read past.
        tail = cut.lanes if cut.pack_right else columns - (vectors - 1) * cut.lanes
        if cut.matrix:
            return emit_matrix_tile(self.module, rows, vectors, cut.left_pitch, cut.width)
        apart = None if cut.slide is None else cut.slide.apart or cut.lanes
        size = (cut.dtype, cut.lanes, rows, vectors, cut.width, tail)
        tile = Tile(*size, cut.paired, self.left_row, apart, self.walks)
        return emit_tile(self.module, tile, self.isa)

    @property
    def _line(self) -> tuple[int, int, int]:
        """Of a finished tile: elements from row to row, a divisor of its first column, and a number
        of which no vector has a multiple inside (or 0).
        """
        width, here = self.cut.width, self.cut.slide
        if here is None:
            return width, width, 0
        return width, gcd(width, self.cut.columns), here.patch.places[-1]

    def _emit_epilogue(self, columns: int) -> str:
        """``void @epilogue(parked, rows, i, j, batch..., buffers...)`` for panels of ``columns``
        columns.
        """
        cut, gemm = self.cut, self.gemm
        pitch, span, fence = self._line
        name = f"{self.name}.epilogue{columns}"
        names = [("i64", f"b{n}") for n in range(len(gemm.batch))]
        pointers = [("ptr", f"p{n}") for n in range(len(self.buffers))]
        f = self.module.function(
            name,
            "void",
            (("ptr", "parked"), ("i64", "rows"), ("i64", "i"), ("i64", "j"), *names, *pointers),
            attributes="noinline",
        )
        parked, rows, i, j, *others = f.parameters
        batch = others[: len(gemm.batch)]
        places = dict(zip(self.buffers, others[len(gemm.batch) :], strict=True))
        is_paired = self.isa.masks or is_long(gemm.epilogue, self.isa)
        with f.loop(i64(0), rows, 1, nonempty=True) as row:
            line = offset(f, parked, self.element, (row.index, pitch))
            index = f.binary("add", i, row.index)
            first = 0
            while first < columns:
                left = columns - first
                # Two vectors at once where registers allow: a long epilogue would wait for itself.
                lanes = 2 * cut.lanes if left >= 2 * cut.lanes and is_paired else cut.lanes
                if left < lanes and not self.isa.masks:
                    # Masked stores are slow where they are an afterthought.
                    lanes = 1 << (left.bit_length() - 1)
                mask = tail_mask(lanes, left) if left < lanes else None
                type_ = vector(self.element, lanes)
                acc = f.load(f.address(line, self.element, i64(first)), type_, 4)
                column = f.binary("add", j, i64(first))
                here = places, batch, index, column, acc, mask
                self.epilogue(f, gemm, *here, gcd(span, first), fence)
                first += lanes
        f.ret()
        return name

    # ---- the kernel -------------------------------------------------------------------------

    def emit(self) -> None:
        cut = self.cut
        pointers = [("ptr", f"p{n}") for n in range(len(self.buffers))]
        f = self.module.function(
            self.name,
            "void",
            (*pointers, ("ptr noalias", "scratch"), ("i64", "begin"), ("i64", "end")),
            attributes="noinline",
        )
        *given, room, begin, end = f.parameters
        self.places = dict(zip(self.buffers, given, strict=True))
        self.origin = within.origin_of(f, self.gemm, self.places)
        if 0 in (self.gemm.m, self.gemm.n, *self.gemm.batch):
            f.ret()
            return
        starts = itertools.accumulate(scratch_lines(cut)[:2], initial=0)
        scratch = Scratch(*(offset(f, room, "i8", (i64(n), 1)) for n in starts))
        if cut.matrix:
            configure(f)
        self._column_blocks(f, scratch, begin, end)
        if cut.matrix:
            release(f)
        f.ret()

    def _column_blocks(self, f: Function, scratch: Scratch, begin: Value, end: Value) -> None:
        """Units ``begin`` to ``end``, those of a column block together."""
        cut = self.cut
        if cut.batch * cut.blocks == 1:
            batch = self._batch(f, i64(0))
            self._column_block(f, scratch, batch, self._bases(f, batch), i64(0), (begin, end))
            return
        per_block = i64(cut.strips)
        first = static.div(f, begin, cut.strips)
        last = static.div(f, static.add(f, end, i64(cut.strips - 1)), cut.strips)
        with f.loop(first, last, 1) as loop:
            start = static.mul(f, loop.index, per_block)
            low = static.maximum(f, static.sub(f, begin, start), i64(0))
            high = static.minimum(f, static.sub(f, end, start), per_block)
            block = static.rem(f, loop.index, cut.blocks)
            linear = static.div(f, loop.index, cut.blocks)
            batch = self._batch(f, linear)
            self._column_block(f, scratch, batch, self._bases(f, batch), block, (low, high))

    def _batch(self, f: Function, linear: Value) -> list[Value]:
        """The batch indices of a linear batch number."""
        indices: list[Value] = []
        for size in reversed(self.gemm.batch):
            indices.append(static.rem(f, linear, size))
            linear = static.div(f, linear, size)
        return indices[::-1]

    def _base(self, f: Function, factor: Factor, batch: Sequence[Value]) -> Value:
        element = memory_type(factor.buffer.dtype)
        start = f.address(self.places[factor.buffer], element, i64(factor.offset))
        return offset(f, start, element, *zip(batch, factor.batch_strides, strict=True))

    def _bases(self, f: Function, batch: Sequence[Value]) -> Pair:
        """Where both factors begin in a batch element."""
        return self._base(f, self.gemm.left, batch), self._base(f, self.gemm.right, batch)

    def _panel_bounds(self, f: Function, block: Value) -> Pair:
        """The panels of a column block, the last one not included."""
        first = static.mul(f, block, i64(self.cut.panels))
        beyond = static.add(f, first, i64(self.cut.panels))
        return first, static.minimum(f, beyond, i64(self.cut.panels_total))

    def _column_block(
        self,
        f: Function,
        scratch: Scratch,
        batch: list[Value],
        factors: Pair,
        block: Value,
        strips: Pair,
    ) -> None:
        """The given strips of a column block, the last one not included."""
        cut, bounds = self.cut, self._panel_bounds(f, block)
        low, high = strips
        if cut.k_blocks == 1:
            self._chunk(f, scratch, batch, factors, bounds, strips)
            return
        # The accumulators of a chunk are parked between the blocks of k.
        with f.loop(low, high, cut.parked_strips) as chunk:
            stop = static.minimum(f, static.add(f, chunk.index, i64(cut.parked_strips)), high)
            self._chunk(f, scratch, batch, factors, bounds, (chunk.index, stop))

    def _chunk(
        self,
        f: Function,
        scratch: Scratch,
        batch: list[Value],
        factors: Pair,
        bounds: Pair,
        strips: Pair,
    ) -> None:
        """Some strips of one column block, all of k."""
        cut = self.cut
        left, right = factors
        with static.counted(f, i64(0), i64(max(cut.k, 1)), cut.k_block, nonempty=True) as k:
            depth = static.minimum(f, static.sub(f, i64(cut.k), k.index), i64(cut.k_block))
            columns = self._pack_right(f, scratch, right, bounds, k.index, depth)
            here = Here(batch, bounds, k.index, depth, columns, strips[0], factors, strips[0])
            if not cut.pack_left:
                self._strips(f, scratch, here, left, strips)
            else:
                with static.counted(f, *strips, cut.left_group, nonempty=False) as group:
                    end = static.add(f, group.index, i64(cut.left_group))
                    some = (group.index, static.minimum(f, end, strips[1]))
                    self._pack_left(f, scratch, here, left, some)
                    self._strips(f, scratch, replace(here, group=some[0]), left, some)

    def _pack_right(
        self,
        f: Function,
        scratch: Scratch,
        right: Value,
        bounds: tuple[Value, Value],
        k: Value,
        depth: Value,
    ) -> Value:
        """Where the panels of this block start: packed scratch, or the factor itself."""
        cut, factor = self.cut, self.gemm.right
        dtype = factor.buffer.dtype
        if cut.slide is not None:
            self._pack_slide(f, cut.slide, right, bounds, scratch.right)
            return scratch.right
        if factor.patch is not None:
            first = static.mul(f, bounds[0], i64(cut.width))
            beyond = static.minimum(f, static.mul(f, bounds[1], i64(cut.width)), i64(cut.n))
            some, steps = (first, beyond), (k, static.add(f, k, depth))
            if factor.patch.is_turned:
                some, steps = steps, some
            self._pack_patch(f, factor, right, some, steps, 0, scratch.right)
            return scratch.right
        j = static.mul(f, bounds[0], i64(cut.width))
        terms = (self._single(f, k), factor.row), (j, factor.column)
        source = offset(f, right, memory_type(dtype), *terms)
        if not cut.pack_right:
            return source
        edge = static.minimum(f, static.mul(f, bounds[1], i64(cut.width)), i64(cut.n))
        columns = static.sub(f, edge, j)
        strides = factor.row, factor.column
        if cut.paired:
            name = pairs.pack_right_pairs(self.module, strides, cut.vectors, cut.matrix)
        else:
            shape = cut.lanes, cut.vectors
            name = pack.pack_right(self.module, strides, *shape, dtype, self.isa)
        given = f"{source}, i64 {factor.row}, i64 {factor.column}, {scratch.right}"
        f.line(f"call void @{name}({given}, {columns}, {self._terms(f, k, depth)})")
        return scratch.right

    def _pack_left(
        self, f: Function, scratch: Scratch, here: Here, left: Value, some: tuple[Value, Value]
    ) -> None:
        """Packs some strips."""
        cut, factor = self.cut, self.gemm.left
        dtype = factor.buffer.dtype
        if factor.patch is not None:
            first = static.mul(f, some[0], i64(cut.rows))
            beyond = static.minimum(f, static.mul(f, some[1], i64(cut.rows)), i64(cut.m))
            steps = here.k, static.add(f, here.k, here.depth)
            pitch = cut.left_pitch
            self._pack_patch(f, factor, left, steps, (first, beyond), pitch, scratch.left)
            return
        i = static.mul(f, some[0], i64(cut.rows))
        source = self._left_at(f, left, i, here.k)
        end = static.minimum(f, static.mul(f, some[1], i64(cut.rows)), i64(cut.m))
        height = static.sub(f, end, i)
        shape = (cut.lanes, cut.rows, cut.left_pitch, cut.left_size, cut.left_group)
        strides = factor.row, factor.column
        if cut.paired:
            shaped = pairs.pack_left_matrix if cut.matrix else pairs.pack_left_pairs
            name = shaped(self.module, strides, *shape[1:4])
        else:
            name = strips.pack_left(self.module, strides, shape, dtype, self.isa)
        given = f"{source}, i64 {factor.row}, i64 {factor.column}, {scratch.left}"
        f.line(f"call void @{name}({given}, {height}, {self._terms(f, here.k, here.depth)})")

    def _pack_patch(
        self,
        f: Function,
        factor: Factor,
        source: Value,
        places: tuple[Value, Value],
        rows: tuple[Value, Value],
        pitch: int,
        target: Value,
    ) -> None:
        """Packs a part of a patch."""
        cut, dtype = self.cut, factor.buffer.dtype
        assert factor.patch is not None, "a plain factor is packed otherwise"
        shape = (cut.lanes, cut.vectors)
        name = patch.pack_patch(self.module, factor.patch, dtype, shape, pitch, self.isa)
        count = static.sub(f, rows[1], rows[0])
        f.line(
            f"call void @{name}({source}, {places[0]}, {places[1]}, {rows[0]}, {count}, {target})"
        )

    def _pack_slide(
        self, f: Function, here: Slide, source: Value, bounds: tuple[Value, Value], target: Value
    ) -> None:
        """Packs the images, or the band of one, that a column block sees."""
        panels = -(-here.width // self.cut.width)
        group, end = (static.div(f, bound, panels) for bound in bounds)
        first = static.div(f, group, here.groups)
        beyond = static.div(f, static.add(f, end, i64(here.groups - 1)), here.groups)
        number = static.rem(f, group, here.groups)
        if here.is_line:
            start = static.mul(f, number, i64(here.band))
        else:
            row = static.mul(f, number, i64(here.group))
            start = static.div(f, row, prod(here.patch.places[1:-1]))
        name = slide.pack_slide(self.module, here, self.gemm.right.buffer.dtype, self.isa)
        count = static.sub(f, beyond, first)
        channels = i64(here.patch.channels)
        given = f"{source}, {channels}, {first}, {count}, {start}, {target}"
        f.line(f"call void @{name}({given})")

    def _single(self, f: Function, steps: Value) -> Value:
        """Steps of the loop as steps of k."""
        return static.mul(f, steps, i64(2)) if self.cut.paired else steps

    def _terms(self, f: Function, k: Value, depth: Value) -> Value:
        """How many steps of k a block of ``depth`` steps of the loop has."""
        rest = static.sub(f, i64(self.gemm.k), self._single(f, k))
        return static.minimum(f, self._single(f, depth), rest)

    def _left_at(self, f: Function, left: Value, i: Value, k: Value) -> Value:
        factor = self.gemm.left
        element = memory_type(factor.buffer.dtype)
        terms = (i, factor.row), (self._single(f, k), factor.column)
        return offset(f, left, element, *terms)

    def _strips(
        self, f: Function, scratch: Scratch, here: Here, left: Value, some: tuple[Value, Value]
    ) -> None:
        """Some strips for one block of k."""
        cut = self.cut
        with static.counted(f, *some, 1, nonempty=False) as strip:
            if cut.pack_left:
                near = static.sub(f, strip.index, some[0])
                rows = offset(f, scratch.left, self.element, (near, cut.left_size))
            else:
                rows = self._left_at(f, left, static.mul(f, strip.index, i64(cut.rows)), here.k)
            self._panels(f, scratch, here, rows, strip.index)

    def _panels(self, f: Function, scratch: Scratch, here: Here, rows: Value, strip: Value) -> None:
        """All panels of one strip for one block of k."""
        cut = self.cut
        tall, wide = cut.m // cut.rows, cut.columns // cut.width
        height, over = cut.m % cut.rows, cut.columns % cut.width
        across = -(-cut.columns // cut.width)
        bounds, columns, depth = here.bounds, here.columns, here.depth
        spans = cut.node_spans
        within = static.rem(f, here.k, spans[0]) if spans else here.k
        fresh = static.less(f, within, i64(1))
        more = static.less(f, static.add(f, here.k, i64(cut.k_block)), i64(cut.k))
        done = static.negation(f, more)
        with static.counted(f, *bounds, 1, nonempty=True) as panel:
            near = static.sub(f, panel.index, bounds[0])
            within_row = static.rem(f, panel.index, across) if cut.slide else panel.index
            if cut.slide is not None:
                x = static.mul(f, within_row, i64(cut.width))
                at = slide.start_of(f, cut.slide, static.div(f, near, across), x, cut.lanes)
                source = offset(f, columns, self.element, (at, 1))
            elif cut.pack_right:
                step = static.mul(f, depth, i64(cut.width))
                source = offset(f, columns, self.element, (static.mul(f, near, step), 1))
            else:
                source = offset(f, columns, self.element, (near, cut.width))
            parked = scratch.parked
            if cut.k_blocks > 1:
                place = static.sub(f, strip, here.chunk)
                number = static.add(f, static.mul(f, place, i64(cut.panels)), near)
                parked = offset(f, parked, self.element, (number, cut.tile_size))
            self._ask(f, here, strip, panel.index, done)
            whole_strip = static.less(f, strip, i64(tall))
            whole_panel = static.less(f, within_row, i64(wide))
            sizes = [
                (tile_rows, tile_columns, static.both(f, in_row, in_column))
                for tile_rows, in_row in cases(f, whole_strip, tall, cut.rows, height)
                for tile_columns, in_column in cases(f, whole_panel, wide, cut.width, over)
            ]
            if self.gemm.within is None or cut.paired:
                self._multiply(f, sizes, (rows, source), parked, depth, fresh)
            else:
                tile = (strip, panel.index)
                self._multiply_within(f, here, tile, sizes, (rows, source), parked, fresh)
            beyond = static.add(f, here.k, i64(cut.k_block))
            parked = self._close_nodes(f, parked, (here.k, beyond), more)
            with static.when(f, done):
                self._finish(f, parked, here.batch, strip, panel.index, whole_panel, (wide, over))

    def _ask(self, f: Function, here: Here, strip: Value, panel: Value, done: Value) -> None:
        """Asks for this tile's share of what is read next, and for what its epilogue touches."""
        cut, gemm = self.cut, self.gemm
        ask_touched(f, gemm, cut, self.places, here.batch, (strip, panel, done), self.isa)
        left, right = here.factors
        if cut.pack_right and is_far(gemm.right, cut, self.isa):
            ask_right(f, gemm.right, cut, right, here.k, panel, static.sub(f, strip, here.chunk))
        if is_worth_asking(gemm.left, cut, self.isa):
            near = static.sub(f, strip, here.group), static.sub(f, panel, here.bounds[0])
            ask_left(f, gemm.left, cut, self._next(f, here, left, strip), *near)

    def _next(self, f: Function, here: Here, left: Value, strip: Value) -> Value:
        """Where the strips begin that are packed after these, or the one that is read next: below,
        or those of the next block of k.
        """
        cut = self.cut
        first, count = (here.group, cut.left_group) if cut.pack_left else (strip, 1)
        below = static.mul(f, static.add(f, first, i64(count)), i64(cut.rows))
        here_still = self._left_at(f, left, below, here.k)
        if cut.k_blocks == 1:
            return here_still
        first = static.mul(f, here.chunk, i64(cut.rows))
        beyond = self._left_at(f, left, first, static.add(f, here.k, i64(cut.k_block)))
        return f.select(f.compare("icmp slt", below, i64(cut.m)), here_still, beyond)

    def _multiply(
        self, f: Function, sizes: Sizes, factors: Pair, parked: Value, depth: Value, fresh: Value
    ) -> None:
        """Calls the tile of the size whose condition holds."""
        (rows, source), cut, step = factors, self.cut, self.right_step
        if cut.slide is not None:
            step = slide.emit_distances(self.module, cut.slide, cut.dtype)
        given = f"{rows}, {self.left_step}, {source}, {step}, {parked}, {depth}, {fresh}"
        for rows_, columns, condition in sizes:
            with static.when(f, condition):
                f.line(f"call void @{self._tile(rows_, columns)}({given})")

    def _multiply_within(
        self,
        f: Function,
        here: Here,
        at: tuple[Value, Value],
        sizes: Sizes,
        factors: Pair,
        parked: Value,
        fresh: Value,
    ) -> None:
        """The same for what counts of this block of k; a tile of which nothing does is 0."""
        cut, (rows, source) = self.cut, factors
        row, column = (
            static.mul(f, n, i64(size)) for n, size in zip(at, (cut.rows, cut.width), strict=True)
        )
        box = (row, cut.rows), (column, cut.width)
        part = (here.k, here.depth), cut.k_block > K_LEAF
        first, count = within.steps_of(f, self.gemm, self.origin, here.batch, box, *part)
        step = i64(cut.dtype.itemsize) if cut.left_by_rows else self.left_step
        rows = f.address(rows, "i8", static.mul(f, first, step))
        source = f.address(source, "i8", static.mul(f, first, self.right_step))
        is_some = static.less(f, i64(0), count)
        if is_some != static.FALSE:
            with static.when(f, is_some):
                self._multiply(f, sizes, (rows, source), parked, count, fresh)
        is_none = static.both(f, fresh, static.negation(f, is_some))
        if is_none != static.FALSE:
            with static.when(f, is_none):
                within.clear(f, parked, vector(self.element, cut.lanes), cut.tile_size)

    def _close_nodes(
        self, f: Function, parked: Value, block: tuple[Value, Value], more: Value
    ) -> Value:
        """Adds what is parked to the next level where this block of k completes a node; returns the
        last level.
        """
        cut = self.cut
        k, end = block
        for level, span in enumerate(cut.node_spans):
            above = offset(f, parked, self.element, (i64(cut.parked_size), 1))
            is_inside = static.less(f, i64(0), static.rem(f, end, span))
            closes = static.negation(f, static.both(f, is_inside, more))
            first = k
            if level + 1 < len(cut.node_spans):
                first = static.rem(f, k, cut.node_spans[level + 1])
            fresh = static.less(f, first, i64(span))
            name = emit_park(self.module, cut.dtype, cut.lanes, cut.tile_size)
            with static.when(f, closes):
                f.line(f"call void @{name}({parked}, {above}, {fresh})")
            parked = above
        return parked

    def _finish(
        self,
        f: Function,
        parked: Value,
        batch: list[Value],
        strip: Value,
        panel: Value,
        whole_panel: Value,
        counts: tuple[int, int],
    ) -> None:
        """Calls the epilogue of one finished tile."""
        cut = self.cut
        i = static.mul(f, strip, i64(cut.rows))
        across = -(-cut.columns // cut.width)
        j = static.mul(f, panel, i64(cut.width))
        if cut.slide is not None:
            row, x = static.div(f, panel, across), static.rem(f, panel, across)
            j = static.mul(f, row, i64(cut.columns))
            j = static.add(f, j, static.mul(f, x, i64(cut.width)))
        height = static.minimum(f, static.sub(f, i64(cut.m), i), i64(cut.rows))
        given = ", ".join(map(str, (parked, height, i, j, *batch, *self.places.values())))
        wide, over = counts
        for columns, here in cases(f, whole_panel, wide, cut.width, over):
            name = f"{self.name}.epilogue{columns}"
            if name not in self.module.functions:
                self._emit_epilogue(columns)
            with static.when(f, here):
                f.line(f"call void @{name}({given})")


def cases(f: Function, whole: Value, count: int, size: int, rest: int) -> list[tuple[int, Value]]:
    """The sizes that occur along one axis, each with the condition under which it does."""
    if not rest:
        return [(size, static.TRUE)]
    if not count:
        return [(rest, static.TRUE)]
    cases = [(size, whole), (rest, static.negation(f, whole))]
    return [case for case in cases if case[1] != static.FALSE]
