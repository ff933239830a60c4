"""Products of few tiles and many steps of k: blocks take leaves (nodes) of k besides, and write
their sums to scratch; a second launch adds them in their order and runs the epilogue.

Leaves and nodes of k are sums of their own in the order of a product (``ir.loop.order``), so who
computes them makes no difference to bits. The first launch is the product with the leaf as one more
batch axis, the second a loop over elements.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from gradc.codegen.cuda.printer.tiles import Tile, blocks, choice_of, fitting, largest, tile_of
from gradc.ir.loop.kernel import Affine, Buffer, For, Gemm, Let, Load, Stmt, Store, Var
from gradc.ir.loop.order import K_LEAF, K_NODE, node_spans
from gradc.ir.loop.registers import accesses
from gradc.ir.tensor.core import DType

_MOST_PARTS = 64  # children of one node: the second launch adds them from the left
_MOST_BYTES = 16 << 20  # of scratch


@dataclass(frozen=True, slots=True)
class Split:
    """``count`` parts of ``span`` steps of k, by tiles."""

    tile: Tile
    span: int
    count: int


def split_of(gemm: Gemm, processors: int) -> Split | None:
    """How to split a product of which fewer tiles are than ``processors``; None where it is not."""
    whole = tile_of(gemm, processors)
    if whole is None or blocks(gemm, whole) >= processors or _is_private(gemm):
        return None
    for span in (K_LEAF, K_LEAF * K_NODE):
        count = -(-gemm.k // span)
        if not 1 < count <= _MOST_PARTS or _bytes(gemm, count) > _limit(gemm):
            continue
        levels = len(node_spans(span, K_LEAF, K_NODE))
        tiles = [fitted for tile in choice_of(gemm) if (fitted := fitting(tile, levels))]
        return Split(largest(gemm, tiles, processors, count), span, count)
    return None


def _is_private(gemm: Gemm) -> bool:
    used = [gemm.left.buffer, gemm.right.buffer]
    used += [touched.statement.buffer for touched in accesses(gemm.epilogue)]
    return any(buffer.is_private for buffer in used)


def _bytes(gemm: Gemm, count: int) -> int:
    return count * prod(gemm.batch) * gemm.m * gemm.n * gemm.acc.dtype.itemsize


def _limit(gemm: Gemm) -> int:
    """Sums that are written and read again cost time and room: no more than the factors have."""
    factors = prod(gemm.batch) * gemm.k * (gemm.m + gemm.n)
    return min(_MOST_BYTES, factors * gemm.acc.dtype.itemsize)


def sums_of(gemm: Gemm, split: Split) -> tuple[Gemm, For]:
    """The product that writes sums over parts of k, the loop that adds them."""
    size = prod(gemm.batch) * gemm.m * gemm.n
    dtype = gemm.acc.dtype
    sums = Buffer("sums", dtype, split.count * size, "update", "block")
    place, step = Affine.of(gemm.j), gemm.n
    batch = zip(reversed(gemm.batch_index), reversed(gemm.batch), strict=True)
    rows = [(gemm.i, gemm.m), *batch]
    for var, extent in rows:
        place += Affine.of(var) * step
        step *= extent
    leaf = Var("leaf", DType.I64)
    leaves = replace(
        gemm,
        batch=(split.count, *gemm.batch),
        batch_index=(leaf, *gemm.batch_index),
        left=replace(gemm.left, batch_strides=(0, *gemm.left.batch_strides)),
        right=replace(gemm.right, batch_strides=(0, *gemm.right.batch_strides)),
        epilogue=(Store(sums, Affine.of(leaf) * size + place, gemm.acc),),
    )
    body: list[Stmt] = []
    total = gemm.acc
    for number in range(split.count):
        is_last = number == split.count - 1
        part = Var("part", dtype)
        body.append(Load(part, sums, place + number * size))
        if number:
            result = gemm.acc if is_last else Var("total", dtype)
            body.append(Let(result, "add", (total, part)))
            total = result
        else:
            total = part
    loop = For(gemm.j, gemm.n, "vector", (*body, *gemm.epilogue))
    for var, extent in rows:
        loop = For(var, extent, "grid", (loop,))
    return leaves, loop
