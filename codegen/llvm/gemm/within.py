"""Which part of a block of k a tile takes, where not all of a product counts (``Within``).

A tile stands for a box of rows and columns. Bounds are linear, so each is greatest in a corner of
the box; steps of k that no element of the box needs lie at its ends, so what is left is one run of
steps. Bounds of terms speak of ``ROWS_AT_ONCE`` by ``COLUMNS_AT_ONCE`` elements at once, which
tiles divide (``blocking``): so the terms of an element do not depend on the tile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gradc.codegen.llvm import static
from gradc.codegen.llvm.static import i64
from gradc.codegen.llvm.text import Function, Value, constant, element_of, lanes_of
from gradc.ir.loop.kernel import Bound, Buffer, Gemm, Var
from gradc.ir.loop.order import COLUMNS_AT_ONCE, K_LEAF, ROWS_AT_ONCE

Box = tuple[tuple[Value, int], tuple[Value, int]]  # first row and how many, columns as well


def tile_fits(gemm: Gemm, rows: int, width: int) -> bool:
    """Whether elements whose terms are left out together never lie in tiles apart from others."""
    if gemm.within is None or not gemm.within.terms:
        return True
    return ROWS_AT_ONCE % rows == 0 and COLUMNS_AT_ONCE % width == 0


def origin_of(f: Function, gemm: Gemm, places: Mapping[Buffer, Value]) -> Value:
    """The number from which positions count."""
    if gemm.within is None or gemm.within.origin is None:
        return i64(0)
    buffer, place = gemm.within.origin
    at = f.address(places[buffer], "i32", i64(place))
    return f.convert("sext", f.load(at, "i32", 4), "i64")


def steps_of(
    f: Function,
    gemm: Gemm,
    origin: Value,
    batch: Sequence[Value],
    box: Box,
    block: tuple[Value, Value],
    several: bool,
) -> tuple[Value, Value]:
    """The first step of a block of k, (where it starts, how long it is), that counts somewhere in
    ``box``, from its start, and how many do. Blocks of ``several`` leaves are taken from a leaf on.
    """
    within = gemm.within
    assert within is not None, "all of the product counts"
    start, depth = block
    low, high = i64(0), i64(gemm.k)
    for bound in within.terms:
        rest = _most(f, gemm, bound, origin, batch, _together(f, box))
        if bound.value.coefficient(within.step) > 0:
            low = static.maximum(f, low, static.sub(f, i64(0), rest))
        else:
            high = static.minimum(f, high, static.add(f, rest, i64(1)))
    for bound in within.results:
        most = _most(f, gemm, bound, origin, batch, box)
        high = _unless(f, static.less(f, most, i64(0)), high)
    first = static.minimum(f, static.maximum(f, static.sub(f, low, start), i64(0)), depth)
    if several:
        first = static.sub(f, first, static.rem(f, first, K_LEAF))
    last = static.maximum(f, static.minimum(f, static.sub(f, high, start), depth), first)
    return first, static.sub(f, last, first)


def clear(f: Function, tile: Value, type_: str, size: int) -> None:
    """Writes zeros over a parked tile of ``size`` elements, a vector at a time."""
    with f.loop(i64(0), i64(size), lanes_of(type_), nonempty=True) as loop:
        f.store(constant(type_, 0.0), f.address(tile, element_of(type_), loop.index), 4)


def _unless(f: Function, condition: Value, value: Value) -> Value:
    """0 where ``condition`` holds."""
    if condition == static.FALSE:
        return value
    return i64(0) if condition == static.TRUE else f.select(condition, i64(0), value)


def _together(f: Function, box: Box) -> Box:
    """The rows and columns whose terms are left out together with those of ``box``."""
    (row, _), (column, _) = box
    rows = static.sub(f, row, static.rem(f, row, ROWS_AT_ONCE)), ROWS_AT_ONCE
    columns = static.sub(f, column, static.rem(f, column, COLUMNS_AT_ONCE)), COLUMNS_AT_ONCE
    return rows, columns


def _most(
    f: Function, gemm: Gemm, bound: Bound, origin: Value, batch: Sequence[Value], box: Box
) -> Value:
    """The most that a bound comes to in ``box``, its step of k aside."""
    assert gemm.within is not None, "bounds belong to what counts"
    total = static.add(f, i64(bound.value.constant), static.mul(f, origin, i64(bound.data)))
    places: dict[Var, Value] = dict(zip(gemm.batch_index, batch, strict=True))
    sides = {gemm.i: box[0], gemm.j: box[1]}
    for var, factor in bound.value.terms:
        if var is gemm.within.step:
            continue
        if var in sides:
            at, count = sides[var]
            at = static.add(f, at, i64(count - 1 if factor > 0 else 0))
        else:
            at = places[var]
        total = static.add(f, total, static.mul(f, at, i64(factor)))
    return total
