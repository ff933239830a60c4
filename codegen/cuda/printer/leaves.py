"""Products of few tiles and many steps of k: blocks take leaves (nodes) of k besides, and write
their sums to scratch; a second launch adds them in their order and runs the epilogue.

Leaves and nodes of k are sums of their own in the order of a product (``ir.loop.order``), so who
computes them makes no difference to bits. The first launch is the product with the leaf as one more
batch axis, the last a loop over elements; where there are leaves of several nodes, a loop over the
elements of all nodes adds each one's leaves before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from gradc.codegen.cuda.printer import tensor
from gradc.codegen.cuda.printer.tiles import Tile, blocks, choice_of, fitting, largest, tile_of
from gradc.codegen.cuda.verbs import WARP
from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    Const,
    For,
    Gemm,
    Index,
    Let,
    Load,
    Stmt,
    Store,
    Var,
)
from gradc.ir.loop.order import K_LEAF, K_NODE, node_spans
from gradc.ir.loop.registers import accesses
from gradc.ir.tensor.core import DType

_MOST_BYTES = 16 << 20  # of scratch


@dataclass(frozen=True, slots=True)
class Split:
    """``count`` parts of ``span`` steps of k, by tiles, or on tensor cores where there is none."""

    tile: Tile | None
    span: int
    count: int


def split_of(gemm: Gemm, processors: int) -> Split | None:
    """How to split a product of which fewer tiles are than ``processors``; None where it is not."""
    if tensor.fits(gemm):
        count = -(-gemm.k // K_LEAF)
        may = count <= K_NODE**2 and _bytes(gemm, count) <= _limit(gemm) and not _is_private(gemm)
        return Split(None, K_LEAF, count) if may and tensor.is_split(gemm) else None
    whole = tile_of(gemm, processors)
    if whole is None or _is_private(gemm):
        return None
    if blocks(gemm, whole) >= processors and whole.threads > WARP:
        return None
    found = None
    for span in (K_LEAF * K_NODE, K_LEAF):
        count = -(-gemm.k // span)
        if not 1 < count <= K_NODE**2 or _bytes(gemm, count) > _limit(gemm):
            continue
        levels = len(node_spans(span, K_LEAF, K_NODE))
        tiles = [fitted for tile in choice_of(gemm) if (fitted := fitting(tile, levels))]
        tile = largest(gemm, tiles, processors, count)
        found = Split(tile, span, count)
        if count * blocks(gemm, tile) >= processors:
            break  # nodes are enough
    return found


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


def sums_of(gemm: Gemm, split: Split) -> tuple[Gemm, tuple[For, ...]]:
    """The product that writes sums over parts of k, the loops that add them."""
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
    before: tuple[For, ...] = ()
    count = split.count
    if count > K_NODE:
        nodes = Buffer("nodes", dtype, -(-count // K_NODE) * size, "update", "block")
        before, sums, count = (_nodes(sums, nodes, count, size),), nodes, -(-count // K_NODE)
    body: list[Stmt] = []
    total = gemm.acc
    for number in range(count):
        is_last = number == count - 1
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
    return leaves, (*before, loop)


def _nodes(leaves: Buffer, nodes: Buffer, count: int, size: int) -> For:
    """The loop that adds the ``count`` leaves of every node from the left; the last node may have
    fewer. Leaves and nodes have ``size`` elements each.
    """
    node, element = Var("node", DType.I64), Var("element", DType.I64)
    at = Affine.of(node) * (K_NODE * size) + Affine.of(element)
    total = Var("part", leaves.dtype)
    body: list[Stmt] = [Load(total, leaves, at)]
    whole = (count - 1) % K_NODE + 1  # leaves that every node has
    for number in range(1, K_NODE):
        part, more = Var("part", leaves.dtype), Var("total", leaves.dtype)
        inside = None
        if number >= whole:
            own, inside = Var("leaf", DType.I64), Var("inside", DType.BOOL)
            body.append(Index(own, Affine.of(node) * K_NODE + number))
            body.append(Let(inside, "lt", (own, Const(count, DType.I64))))
        body.append(Load(part, leaves, at + number * size, inside))
        body.append(Let(more, "add", (total, part)))
        if inside is not None:
            sums, more = more, Var("total", leaves.dtype)
            body.append(Let(more, "select", (inside, sums, total)))
        total = more
    body.append(Store(nodes, Affine.of(node) * size + Affine.of(element), total))
    loop = For(element, size, "vector", tuple(body))
    return For(node, -(-count // K_NODE), "grid", (loop,))
