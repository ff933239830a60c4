"""Packing of strips of the left factor.

A strip becomes either ``row x pitch`` (its columns contiguous in memory) or ``k x row`` (its rows
contiguous): then several strips, whose rows are neighbours in memory, are packed together.

Non-goals: deciding when to pack (``blocking``).
"""

from __future__ import annotations

from dataclasses import dataclass

from gradc.codegen.llvm.gemm.pack import (
    COMPUTE,
    LINE,
    gather,
    lane_mask,
    load_lanes,
    memory_type,
    offset,
    packing,
    prefetch,
)
from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.static import i64
from gradc.codegen.llvm.text import Function, Module, Value
from gradc.ir.tensor.core import DType

AHEAD = 4  # steps of k by which lines are asked for before they are read


def pack_left(
    module: Module,
    strides: tuple[int, int],
    shape: tuple[int, int, int, int, int],
    dtype: DType,
    isa: Isa,
) -> str:
    """Defines, once per module, the packing of strips; returns its name.

    ``void (ptr source, i64 row, i64 column, ptr target, i64 height, i64 depth)``. ``shape`` is
    (lanes, rows of a strip, pitch, elements from strip to strip, strips that are mostly packed
    together). Contiguous columns give one strip, ``target[row * pitch + k]``; anything else as many
    strips as ``height`` holds, each ``target[k * pitch + row]``.
    """
    lanes, rows, pitch, size, group = shape
    by_rows = strides[1] == 1
    way = "rows" if by_rows else "columns" if strides[0] == 1 else "scattered"
    own = "" if by_rows else f".{rows}.{size}.{group}"
    name = f"gradc.pack_left.{dtype}.{way}.{lanes}.{pitch}{own}"
    if name in module.functions:
        return name
    f = packing(module, name)
    source, row, column, target, height, depth = f.parameters
    strip = _Strip(f, dtype, isa, lanes, rows, row)
    if by_rows:
        with f.loop(i64(0), height, 1) as r:
            line = f.address(source, strip.element, f.binary("mul", r.index, row))
            strip.copy_row(line, offset(f, target, strip.compute, (r.index, pitch)), depth)
        f.ret()
        return name
    begin = i64(0)
    if way == "columns":
        is_group = f.compare("icmp eq", height, i64(group * rows))
        begin = f.select(is_group, depth, i64(0))
        with f.loop(i64(0), begin, 1) as k:
            line = f.address(source, strip.element, f.binary("mul", k.index, column))
            strip.ask(f.address(line, strip.element, f.binary("mul", column, i64(AHEAD))), group)
            out = offset(f, target, strip.compute, (k.index, pitch))
            strip.copy_group(line, out, group, size)
    with f.loop(begin, depth, 1) as k:
        line = f.address(source, strip.element, f.binary("mul", k.index, column))
        out = offset(f, target, strip.compute, (k.index, pitch))
        with f.loop(i64(0), height, rows) as first:
            number = f.binary("udiv", first.index, i64(rows))
            place = f.address(line, strip.element, f.binary("mul", first.index, row))
            rest = f.binary("sub", height, first.index)
            into = offset(f, out, strip.compute, (number, size))
            strip.copy_some(place, into, rest, is_run=way == "columns")
    f.ret()
    return name


@dataclass
class _Strip:
    """What is copied into a strip."""

    f: Function
    dtype: DType
    isa: Isa
    lanes: int
    rows: int
    stride: Value  # from row to row

    @property
    def element(self) -> str:
        return memory_type(self.dtype)

    @property
    def compute(self) -> str:
        return COMPUTE[self.dtype]

    def _copy(self, at: Value, into: Value, lanes: int, mask: Value | None = None) -> None:
        value = load_lanes(self.f, at, self.dtype, lanes, mask, self.isa)
        self._store(value, into)

    def _store(self, value: Value, into: Value) -> None:
        self.f.store(value, into, 8 if self.compute == "double" else 4)

    def ask(self, at: Value, strips: int) -> None:
        """Asks for the lines of one step of k, which need not be there."""
        f, count = self.f, strips * self.rows
        for n in (*range(0, count, LINE // self.dtype.itemsize), count - 1):
            prefetch(f, f.address(at, self.element, i64(n)), 1)

    def copy_row(self, line: Value, out: Value, count: Value) -> None:
        """Copies ``count`` elements in whole vectors, zeros after the last."""
        f, begin = self.f, i64(0)
        for step in (4 * self.lanes, self.lanes):
            end = f.binary("and", count, i64(-step))
            with f.loop(begin, end, step) as n:
                at = f.address(line, self.element, n.index)
                into = f.address(out, self.compute, n.index)
                for part in range(0, step, self.lanes):
                    near = f.address(at, self.element, i64(part))
                    self._copy(near, f.address(into, self.compute, i64(part)), self.lanes)
            begin = end
        with f.branch(f.compare("icmp slt", begin, count)):
            mask = lane_mask(f, f.binary("sub", count, begin), self.lanes)
            at = f.address(line, self.element, begin)
            self._copy(at, f.address(out, self.compute, begin), self.lanes, mask)

    def copy_group(self, line: Value, out: Value, strips: int, size: int) -> None:
        """Copies the rows of so many strips at one step of k: whole vectors, except at the end of
        the last.
        """
        f, count = self.f, strips * self.rows
        for strip in range(strips):
            first = 0
            while first < self.rows:
                left = min(count - strip * self.rows - first, self.lanes)
                lanes = 1 << (left.bit_length() - 1)
                at = f.address(line, self.element, i64(strip * self.rows + first))
                self._copy(at, f.address(out, self.compute, i64(strip * size + first)), lanes)
                first += lanes

    def copy_some(self, at: Value, into: Value, count: Value, is_run: bool) -> None:
        """Copies the rows of a strip, of which there may be fewer, at one step of k."""
        f = self.f
        for first in range(0, self.rows, self.lanes):
            rest = f.binary("sub", count, i64(first))
            place = f.address(into, self.compute, i64(first))
            if is_run:
                self._copy_lanes(f.address(at, self.element, i64(first)), place, rest)
                continue
            start = f.address(at, self.element, f.binary("mul", self.stride, i64(first)))
            mask = lane_mask(f, rest, self.lanes)
            self._store(gather(f, start, self.dtype, self.stride, mask, self.isa), place)

    def _copy_lanes(self, at: Value, into: Value, count: Value) -> None:
        """Stores a vector of which ``count`` elements are read, others 0; a mask takes longer than
        what it is for.
        """
        f = self.f
        is_whole = f.compare("icmp sge", count, i64(self.lanes))
        with f.branch(is_whole):
            self._copy(at, into, self.lanes)
        with f.branch(f.op(f"xor {is_whole}, true", "i1")):
            self._copy(at, into, self.lanes, lane_mask(f, count, self.lanes))
