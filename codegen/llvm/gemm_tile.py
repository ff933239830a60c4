"""The register tile: a strip of rows times a panel of columns, accumulated over one block of k.

``void @tile(ptr left, ptr right, ptr parked, i64 depth, i1 fresh)``: accumulators start at zero or at what is
parked, take ``depth`` steps of k in order, and are parked again (rows of ``width`` elements). Every row reads its
own broadcast, every vector of the panel one load; nothing else happens in the loop.

Non-goals: what becomes of the sums (the epilogue, ``gemm``).
"""

from __future__ import annotations

from dataclasses import dataclass

from gradc.codegen.llvm.gemm_pack import i64, load_lanes, memory_type
from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.text import Function, Module, Value, constant, vector
from gradc.ir.core import DType

UNROLL = 4


@dataclass(frozen=True, slots=True)
class Tile:
    """One instance: its size and how its operands lie in memory (strides in elements)."""

    dtype: DType
    lanes: int
    rows: int
    vectors: int
    tail: int  # columns of the last vector; ``lanes`` if it is whole
    masked: bool  # whether the right factor must not be read past ``tail``
    left_row: int
    left_column: int
    right_row: int
    parked_row: int

    @property
    def name(self) -> str:
        return f"tile{self.rows}x{self.vectors}" + (f"_{self.tail}" if self.masked else "")


def tail_mask(lanes: int, count: int) -> Value:
    """A constant mask of the first ``count`` lanes."""
    bits = ", ".join(f"i1 {'true' if n < count else 'false'}" for n in range(lanes))
    return Value(vector("i1", lanes), f"<{bits}>")


def emit_tile(module: Module, name: str, tile: Tile, isa: Isa) -> None:
    """Defines ``@name`` for ``tile``."""
    f = module.function(
        name,
        "void",
        (
            ("ptr noalias readonly", "left"),
            ("ptr noalias readonly", "right"),
            ("ptr noalias", "parked"),
            ("i64", "depth"),
            ("i1", "fresh"),
        ),
        attributes="noinline",
    )
    left, right, parked, depth, _ = f.parameters
    type_ = vector(memory_type(tile.dtype), tile.lanes)
    zeros = [constant(type_, 0.0)] * (tile.rows * tile.vectors)
    with f.branch(f.op("xor i1 %fresh, true", "i1"), zeros) as resumed:
        resumed.next = [
            f.load(pointer, type_, tile.dtype.itemsize) for pointer in _cells(f, parked, tile)
        ]
    sums = [left, right, *resumed.results]
    unrolled = f.binary("and", depth, i64(-UNROLL))
    with f.loop(i64(0), unrolled, UNROLL, sums) as loop:
        loop.next = _steps(f, tile, isa, loop.carried, UNROLL)
    with f.loop(unrolled, depth, 1, loop.results) as rest:
        rest.next = _steps(f, tile, isa, rest.carried, 1)
    for pointer, value in zip(_cells(f, parked, tile), rest.results[2:], strict=True):
        f.store(value, pointer, tile.dtype.itemsize)
    f.ret()


def _cells(f: Function, parked: Value, tile: Tile) -> list[Value]:
    """Where the accumulators are parked."""
    element = memory_type(tile.dtype)
    return [
        f.address(parked, element, i64(r * tile.parked_row + v * tile.lanes))
        for r in range(tile.rows)
        for v in range(tile.vectors)
    ]


def _steps(f: Function, tile: Tile, isa: Isa, carried: list[Value], count: int) -> list[Value]:
    """``count`` steps of k from the carried pointers and sums."""
    left, right, *sums = carried
    element = memory_type(tile.dtype)
    size = tile.dtype.itemsize
    multiply_add = "llvm.fma" if isa.fma else "llvm.fmuladd"
    for step in range(count):
        columns = []
        for v in range(tile.vectors):
            at = f.address(right, element, i64(step * tile.right_row + v * tile.lanes))
            edge = tile.masked and v == tile.vectors - 1 and tile.tail < tile.lanes
            mask = tail_mask(tile.lanes, tile.tail) if edge else None
            columns.append(load_lanes(f, at, tile.dtype, tile.lanes, mask, isa))
        for r in range(tile.rows):
            at = f.address(left, element, i64(r * tile.left_row + step * tile.left_column))
            scalar = f.splat(f.load(at, element, size), tile.lanes)
            for v, column in enumerate(columns):
                n = r * tile.vectors + v
                sums[n] = f.intrinsic(multiply_add, scalar, column, sums[n])
    return [
        f.address(left, element, i64(count * tile.left_column)),
        f.address(right, element, i64(count * tile.right_row)),
        *sums,
    ]
