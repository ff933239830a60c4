"""Loops of products whose right factor is windows and whose vectors run across the rows of the
result: channels (``walk.across_of``). Where places jump, or fill vectors badly, channels may not.

Outer to inner: group of places, panel of channels, block of neighbouring places, leaf of the sum,
tile. What a block has summed is turned round before its epilogue, whose vectors are places as ever.
The sums over k are those of any product, so are the bits.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import ClassVar

from gradc.codegen.llvm import static
from gradc.codegen.llvm.gemm import pack
from gradc.codegen.llvm.gemm.emitter import Emitter, Pair, Scratch, cases
from gradc.codegen.llvm.gemm.pack import memory_type, offset, transpose
from gradc.codegen.llvm.gemm.walk import Walk, emit_group, emit_packing, emit_tables
from gradc.codegen.llvm.static import i64
from gradc.codegen.llvm.text import Function, Module, Value, vector
from gradc.ir.loop.order import K_LEAF
from gradc.ir.tensor.core import DType


class CrossEmitter(Emitter):
    """Emits a product whose blocking says ``across``."""

    walks: ClassVar[bool] = True

    @property
    def _walk(self) -> Walk:
        walk = self.cut.across
        assert walk is not None, "other products have loops of their own"
        return walk

    @property
    def _line(self) -> tuple[int, int, int]:
        block = self.cut.block
        return self.cut.block_pitch, block, block

    def _column_block(
        self,
        f: Function,
        scratch: Scratch,
        batch: list[Value],
        factors: Pair,
        block: Value,
        strips: Pair,
    ) -> None:
        cut, walk = self.cut, self._walk
        left, right = factors
        with static.when(f, static.less(f, *strips)):
            origin = self._origin(f, scratch, right, block)
            self._weights(f, left, scratch.right)
            start = static.mul(f, block, i64(walk.group))
            end = static.minimum(f, static.add(f, start, i64(walk.group)), i64(cut.n))
            with (
                static.counted(f, i64(0), i64(cut.m), cut.width, nonempty=True) as panel,
                static.counted(f, start, end, cut.block, nonempty=True) as places,
            ):
                near = static.sub(f, places.index, start)
                found = self._sums(f, scratch, origin, (panel.index, near))
                self._end(f, scratch, batch, found, (panel.index, places.index))

    def _origin(self, f: Function, scratch: Scratch, right: Value, group: Value) -> Value:
        """Where the first window of a group begins; packs its images, if that is needed."""
        walk, factor = self._walk, self.gemm.right
        patch = walk.patch
        image, start = place = emit_group(f, walk, group)
        if walk.packed is None:
            element, line = memory_type(factor.buffer.dtype), prod(patch.size[1:])
            return offset(f, right, element, (image, patch.image_stride), (start, line))
        channels = right, i64(patch.channels)
        dtype = factor.buffer.dtype
        emit_packing(f, self.module, self.isa, walk, dtype, channels, place, scratch.left)
        return scratch.left

    def _weights(self, f: Function, left: Value, target: Value) -> None:
        """Packs the left factor as panels of its rows, all of k."""
        cut, factor = self.cut, self.gemm.left
        rows, steps = (i64(0), i64(cut.m)), (i64(0), i64(cut.k))
        if factor.patch is not None:
            turned = replace(factor, patch=replace(factor.patch, is_turned=True))
            self._pack_patch(f, turned, left, steps, rows, 0, target)
            return
        strides = factor.column, factor.row
        shape = cut.lanes, cut.vectors
        name = pack.pack_right(self.module, strides, *shape, factor.buffer.dtype, self.isa)
        given = f"{left}, i64 {factor.column}, i64 {factor.row}, {target}"
        f.line(f"call void @{name}({given}, {rows[1]}, {steps[1]})")

    def _sums(self, f: Function, scratch: Scratch, origin: Value, at: tuple[Value, Value]) -> Value:
        """All of k for a panel of channels and a block of places; where the sums are parked."""
        cut, (channel, place) = self.cut, at
        distances, places = emit_tables(self.module, self._walk, cut.dtype)
        places = offset(f, places, "i32", (place, 1))
        panel = offset(f, scratch.right, self.element, (channel, cut.k))
        whole = static.less(f, static.add(f, channel, i64(cut.width - 1)), i64(cut.m))
        full, over = divmod(cut.m, cut.width)
        for columns, here in cases(f, whole, full, cut.width, over):
            with (
                static.when(f, here),
                static.counted(f, i64(0), i64(cut.k), K_LEAF, nonempty=True) as leaf,
            ):
                k = leaf.index
                end = static.minimum(f, static.add(f, k, i64(K_LEAF)), i64(cut.k))
                steps = offset(f, distances, "i32", (k, 1))
                right = offset(f, panel, self.element, (k, cut.width))
                depth = static.sub(f, end, k)
                self._tiles(f, (origin, places, steps, right), scratch.parked, depth, columns)
                more = static.less(f, end, i64(cut.k))
                self._close_nodes(f, scratch.parked, (k, end), more)
        return offset(f, scratch.parked, self.element, (i64(len(cut.node_spans)), cut.parked_size))

    def _tiles(
        self,
        f: Function,
        given: tuple[Value, Value, Value, Value],
        parked: Value,
        depth: Value,
        columns: int,
    ) -> None:
        """The tiles of a block for a leaf of the sum."""
        cut = self.cut
        origin, places, steps, right = given
        whole, rest = divmod(cut.block, cut.rows)

        def tile(number: Value, rows: int) -> None:
            first = offset(f, places, "i32", (number, cut.rows))
            at = offset(f, parked, self.element, (number, cut.rows * cut.width))
            arguments = f"{origin}, {first}, {steps}, {right}, {at}, {depth}, i1 true"
            f.line(f"call void @{self._tile(rows, columns)}({arguments})")

        if whole:
            with static.counted(f, i64(0), i64(whole), 1, nonempty=True) as number:
                tile(number.index, cut.rows)
        if rest:
            tile(i64(whole), rest)

    def _end(
        self,
        f: Function,
        scratch: Scratch,
        batch: list[Value],
        found: Value,
        at: tuple[Value, Value],
    ) -> None:
        """Turns a finished block round and calls its epilogue."""
        cut, (channel, place) = self.cut, at
        levels = 1 + len(cut.node_spans)
        turned = offset(f, scratch.parked, self.element, (i64(levels), cut.parked_size))
        name = emit_turn(self.module, cut.dtype, cut.lanes, (cut.block_pitch, cut.width))
        f.line(f"call void @{name}({found}, {turned})")
        height = static.minimum(f, static.sub(f, i64(cut.m), channel), i64(cut.width))
        given = (turned, height, channel, place, *batch, *self.places.values())
        name = f"{self.name}.epilogue{cut.block}"
        if name not in self.module.functions:
            self._emit_epilogue(cut.block)
        f.line(f"call void @{name}({', '.join(map(str, given))})")


def emit_turn(module: Module, dtype: DType, lanes: int, shape: tuple[int, int]) -> str:
    """Defines the function that transposes ``shape`` elements, whole vectors both ways; returns its
    name: ``void @turn(ptr from, ptr to)``.
    """
    rows, columns = shape
    name = f"gradc.turn.{dtype}.{lanes}.{rows}x{columns}"
    if name in module.functions:
        return name
    parameters = (("ptr noalias readonly", "from"), ("ptr noalias", "to"))
    f = module.function(name, "void", parameters, attributes="noinline")
    source, target = f.parameters
    element, type_ = memory_type(dtype), vector(memory_type(dtype), lanes)
    with (
        f.loop(i64(0), i64(rows), lanes, nonempty=True) as row,
        f.loop(i64(0), i64(columns), lanes, nonempty=True) as column,
    ):
        start = offset(f, source, element, (row.index, columns), (column.index, 1))
        end = offset(f, target, element, (column.index, rows), (row.index, 1))
        lines = [
            f.load(f.address(start, element, i64(n * columns)), type_, dtype.itemsize)
            for n in range(lanes)
        ]
        for n, line in enumerate(transpose(f, lines)):
            f.store(line, f.address(end, element, i64(n * rows)), dtype.itemsize)
    f.ret()
    return name
