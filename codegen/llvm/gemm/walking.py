"""Loops of products whose left factor is windows summed over their places (``walk``).

Outer to inner: column block, chunk of strips, group of places, leaf of the sum or what lies of it
in the group, panel, strip. So a packed group serves all strips of a chunk, and a packed panel stays
near while strips pass it. Sums are parked within a leaf too: a group may end anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from gradc.codegen.llvm import static
from gradc.codegen.llvm.gemm.emitter import Emitter, Pair, Scratch, cases
from gradc.codegen.llvm.gemm.pack import memory_type, offset
from gradc.codegen.llvm.gemm.walk import Walk, emit_group, emit_packing, emit_tables
from gradc.codegen.llvm.static import i64
from gradc.codegen.llvm.text import Function, Value
from gradc.ir.loop.order import K_LEAF


@dataclass
class _Group:
    """Where the loops stand: a column block (``bounds``, in panels), a chunk of strips, a group of
    places from ``start`` on, which lie at ``origin``.
    """

    batch: list[Value]
    bounds: Pair
    strips: Pair
    start: Value
    origin: Value


class WalkEmitter(Emitter):
    """Emits a product with a ``walk``."""

    walks: ClassVar[bool] = True

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
        (left, right), bounds = factors, self._panel_bounds(f, block)
        low, high = strips
        with static.counted(f, low, high, cut.parked_strips, nonempty=False) as chunk:
            stop = static.minimum(f, static.add(f, chunk.index, i64(cut.parked_strips)), high)
            some = (chunk.index, stop)
            with static.counted(f, i64(0), i64(walk.groups), 1, nonempty=True) as number:
                origin = self._origin(f, scratch, left, some, number.index)
                start = static.mul(f, number.index, i64(walk.group))
                here = _Group(batch, bounds, some, start, origin)
                self._group(f, scratch, here, right)

    @property
    def _walk(self) -> Walk:
        walk = self.cut.walk
        assert walk is not None, "other products have loops of their own"
        return walk

    def _origin(
        self, f: Function, scratch: Scratch, left: Value, strips: Pair, group: Value
    ) -> Value:
        """Where the first window of a group begins in the first channel; packs the channels of the
        chunk, if that is needed.
        """
        cut, walk, factor = self.cut, self._walk, self.gemm.left
        patch, element = walk.patch, memory_type(factor.buffer.dtype)
        image, start = place = emit_group(f, walk, group)
        if walk.packed is None:
            line = prod(patch.size[1:])
            return offset(f, left, element, (image, patch.image_stride), (start, line))
        taps = prod(patch.taps)
        first = static.div(f, static.mul(f, strips[0], i64(cut.rows)), taps)
        rows = static.minimum(f, static.mul(f, strips[1], i64(cut.rows)), i64(cut.m))
        beyond = static.div(f, static.add(f, rows, i64(taps - 1)), taps)
        count = static.sub(f, beyond, first)
        channels = offset(f, left, element, (first, patch.channel_stride)), count
        dtype = factor.buffer.dtype
        emit_packing(f, self.module, self.isa, walk, dtype, channels, place, scratch.left)
        return offset(f, scratch.left, self.element, (static.sub(f, i64(0), first), walk.plane))

    def _group(self, f: Function, scratch: Scratch, here: _Group, right: Value) -> None:
        """The leaves of a group, or their parts that lie in it."""
        cut, walk = self.cut, self._walk
        end = static.add(f, here.start, i64(walk.group))
        end = static.minimum(f, end, i64(cut.k))
        if not walk.is_cut:
            with static.counted(f, here.start, end, K_LEAF, nonempty=True) as leaf:
                stop = static.minimum(f, static.add(f, leaf.index, i64(K_LEAF)), end)
                self._leaf(f, scratch, here, right, (leaf.index, stop))
            return
        first = static.div(f, here.start, K_LEAF)
        beyond = static.div(f, static.add(f, end, i64(K_LEAF - 1)), K_LEAF)
        with f.loop(first, beyond, 1, nonempty=True) as leaf:
            begin = static.mul(f, leaf.index, i64(K_LEAF))
            stop = static.minimum(f, static.add(f, begin, i64(K_LEAF)), end)
            some = (static.maximum(f, begin, here.start), stop)
            self._leaf(f, scratch, here, right, some)

    def _leaf(self, f: Function, scratch: Scratch, here: _Group, right: Value, some: Pair) -> None:
        """All tiles of a chunk for some steps of k."""
        cut = self.cut
        k, end = some
        depth = static.sub(f, end, k)
        columns = self._pack_right(f, scratch, right, here.bounds, k, depth)
        rows, steps = emit_tables(self.module, self._walk, cut.dtype)
        steps = offset(f, steps, "i32", (static.sub(f, k, here.start), 1))
        more = static.less(f, end, i64(cut.k))
        spans = cut.node_spans
        fresh = static.less(f, static.rem(f, k, spans[0]) if spans else k, i64(1))
        tall, wide = cut.m // cut.rows, cut.n // cut.width
        counts = (wide, cut.n % cut.width)
        with (
            static.counted(f, *here.bounds, 1, nonempty=True) as panel,
            static.counted(f, *here.strips, 1, nonempty=True) as strip,
        ):
            near = static.sub(f, panel.index, here.bounds[0])
            place = static.sub(f, strip.index, here.strips[0])
            number = static.add(f, static.mul(f, place, i64(cut.panels)), near)
            parked = offset(f, scratch.parked, self.element, (number, cut.tile_size))
            size = static.mul(f, depth, i64(cut.width))
            source = offset(f, columns, self.element, (static.mul(f, near, size), 1))
            at = offset(f, rows, "i32", (strip.index, cut.rows))
            given = f"{here.origin}, {at}, {steps}, {source}, {parked}, {depth}, {fresh}"
            whole_strip = static.less(f, strip.index, i64(tall))
            whole_panel = static.less(f, panel.index, i64(wide))
            for height, in_row in cases(f, whole_strip, tall, cut.rows, cut.m % cut.rows):
                for width, in_column in cases(f, whole_panel, wide, cut.width, counts[1]):
                    with static.when(f, static.both(f, in_row, in_column)):
                        f.line(f"call void @{self._tile(height, width)}({given})")
            parked = self._close_nodes(f, parked, some, more)
            with static.when(f, static.negation(f, more)):
                places = (strip.index, panel.index)
                self._finish(f, parked, here.batch, *places, whole_panel, counts)
