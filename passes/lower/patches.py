"""Sums of products that are matrix products over windows of images. From ``ir.ops.products`` to
loop IR.

The summed axes are steps of k: where taps are summed, images are the right factor and the other
operand the left one; where taps are the result's, images are the left factor and the other operand
the right one. A division of positions (a convolution's transpose with strides) splits the result
into phases, one product for each: the places that have the same remainder meet the same taps.

What follows such a sum, element by element, is its epilogue.

Non-goals: which sums are computed so (their order says so); packing (``codegen.llvm.gemm.patch``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd, prod

from gradc.ir.loop.builder import IndexAlgebra, LoopBuilder
from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    Factor,
    Gemm,
    Patch,
    Var,
)
from gradc.ir.ops.products import Position, Products
from gradc.ir.tensor.core import Block, DType, Op
from gradc.passes.lower.cost import flops
from gradc.passes.lower.element import LoweringError
from gradc.passes.lower.gemm import store_results
from gradc.passes.lower.piece import Draft, Lowered, Piece, block_spans
from gradc.passes.lower.products import affine


@dataclass(frozen=True, slots=True)
class _Along:
    """One spatial axis of one phase: places ``first + every * n``, of which there are ``places``,
    and taps ``tap + gap * n``, of which there are ``taps``; they meet as in ``Patch``.
    """

    first: int
    every: int
    places: int
    tap: int
    gap: int
    taps: int
    stride: int
    step: int
    before: int
    size: int


_Phase = tuple[_Along, ...]


def lower_patches(block: Block, op: Op, name: str, spec: Products) -> Lowered:
    """Lowers a group around ``op``: what follows it is its epilogue. Raises LoweringError if it
    does not read parameters.
    """
    if any(x not in block.parameters for x in op.operands):
        raise LoweringError("a product over windows reads its operands from memory")
    draft = Draft(block)
    buffers = [draft.operands[block.parameters.index(x)] for x in op.operands]
    # Whether the taps are summed over.
    summed = any(axis >= len(spec.outer) for axis, _ in spec.left[-1].terms[1:])
    phases = _phases(spec)
    if not summed:
        draft.builder.gemm(_over_places(draft, op, spec, buffers, phases[0]))
        return Lowered((_finish(draft, block, name),))
    used = 0
    for phase in phases:
        if prod(along.places for along in phase):
            statement, used = _over_taps(draft, op, spec, buffers, phase, used)
            draft.builder.gemm(statement)
    return Lowered((_finish(draft, block, name),))


def _finish(draft: Draft, block: Block, name: str) -> Piece:
    return draft.finish(name, flops(block), block_spans(block))


# --- phases ---------------------------------------------------------------------------------------


def _phases(spec: Products) -> list[_Phase]:
    """Every combination of remainders along the spatial axes, the last fastest."""
    windows = spec.left[2:]
    return list(product(*(_along(spec, position) for position in windows)))


def _along(spec: Products, position: Position) -> list[_Along]:
    """The phases along one axis: one for each remainder of a place by the divisor."""
    extents = (*spec.outer, *spec.inner)
    (place, stride), (tap, step) = position.terms
    divisor, size = position.divisor, position.extent or 0
    gap = divisor // gcd(divisor, step)
    found = []
    for first in range(divisor):
        starts = position.constant + first * stride
        meet = [n for n in range(extents[tap]) if (starts + n * step) % divisor == 0]
        where = meet[0] if meet else 0
        found.append(
            _Along(
                first,
                divisor,
                len(range(first, extents[place], divisor)),
                where,
                gap,
                len(meet),
                stride,
                gap * step // divisor,
                -((starts + where * step) // divisor),
                size,
            )
        )
    return found


def _patch(spec: Products, phase: _Phase, images: int, channels: int) -> Patch:
    area = prod(along.size for along in phase)
    groups = spec.outer[spec.shared - 1]
    return Patch(
        images,
        groups * channels * area,
        channels,
        area,
        size=tuple(along.size for along in phase),
        taps=tuple(along.taps for along in phase),
        places=tuple(along.places for along in phase),
        stride=tuple(along.stride for along in phase),
        step=tuple(along.step for along in phase),
        before=tuple(along.before for along in phase),
    )


# --- products -------------------------------------------------------------------------------------


def _over_taps(
    draft: Draft,
    op: Op,
    spec: Products,
    buffers: Sequence[Buffer],
    phase: _Phase,
    used: int,
) -> tuple[Gemm, int]:
    """The product of one phase: channels of the result by places of all images."""
    images, groups, m = spec.outer[:3]
    channels = spec.inner[0]
    image, weights = buffers
    patch = _patch(spec, phase, images, channels)
    k = patch.shape[0]
    right = Factor(image, (channels * patch.channel_stride,), 0, 0, 0, patch)
    left = _weights(op, spec, weights, phase, k)
    if k == 0:  # nothing meets these places
        left, right = Factor(weights, (0,), 0, 1), Factor(image, (0,), 0, 1)
    places = [along.places for along in phase]

    def outer(group: Affine, i: Affine, j: Sequence[Affine]) -> list[Affine]:
        at = [x * along.every + along.first for x, along in zip(j[1:], phase, strict=True)]
        return [j[0], group, i, *at]

    sizes = (groups, m, images * prod(places), k)
    ways = ([m], [images, *places])
    return _gemm(draft, op, spec, sizes, (left, right), ways, outer, used)


def _weights(op: Op, spec: Products, weights: Buffer, phase: _Phase, k: int) -> Factor:
    """The other operand as rows of the result's channels: as it lies, or, where these are not its
    rows, as windows of one element over its taps, an image for each of its rows.
    """
    size = op.operands[1].type.static_shape[2:]
    m, depth = spec.outer[2], spec.inner[0]
    batch = (m * depth * prod(size),)
    if spec.right[0].terms[-1][0] == spec.shared:
        return Factor(weights, batch, k, 1)
    ones = (1,) * len(size)
    patch = Patch(
        depth,
        m * prod(size),
        m,
        prod(size),
        size,
        taps=ones,
        places=tuple(along.taps for along in phase),
        stride=tuple(along.gap for along in phase),
        step=ones,
        before=tuple(-along.tap for along in phase),
    )
    return Factor(weights, batch, 0, 0, 0, patch)


def _over_places(
    draft: Draft, op: Op, spec: Products, buffers: Sequence[Buffer], phase: _Phase
) -> Gemm:
    """Channels and taps of a filter by channels of the output, summed over the places of all
    images.
    """
    groups, n, channels = spec.outer[:3]
    images, places = spec.inner[0], spec.inner[1:]
    patch = _patch(spec, phase, images, channels)
    area, ones, zeros = prod(places), (1,) * len(places), (0,) * len(places)
    axes = (places, ones, places, ones, ones, zeros)
    other = Patch(images, groups * n * area, n, area, *axes, is_turned=True)
    left = Factor(buffers[0], (channels * patch.channel_stride,), 0, 0, 0, patch)
    right = Factor(buffers[1], (n * area,), 0, 0, 0, other)

    def outer(group: Affine, i: Sequence[Affine], j: Affine) -> list[Affine]:
        return [group, j, *i]

    sizes = (groups, patch.shape[0], n, patch.shape[1])
    ways = ([channels, *patch.taps], [n])
    return _gemm(draft, op, spec, sizes, (left, right), ways, outer, 0)[0]


def _parts(builder: LoopBuilder, number: Var, way: Sequence[int]) -> list[Affine]:
    """The position of ``number`` along axes of these extents. The first is divided off first: where
    the others lie together in memory, what is left of the number is an address again.
    """
    first, *others = way
    head, rest = builder.unflatten(Affine.of(number), [first, prod(others)])
    return [head, *builder.unflatten(rest, others)]


def _gemm(
    draft: Draft,
    op: Op,
    spec: Products,
    sizes: tuple[int, int, int, int],
    factors: tuple[Factor, Factor],
    ways: tuple[list[int], list[int]],
    outer: Callable[..., list[Affine]],
    used: int,
) -> tuple[Gemm, int]:
    """A product whose elements are those of ``op`` where ``outer`` says, and what is made of them;
    ``used`` names are taken.
    """
    groups, m, n, k = sizes
    tail = draft.aside(used)
    builder = tail.builder
    batch = (groups,) if groups > 1 else ()
    batch_index = tuple(builder.var(DType.I64, extent) for extent in batch)
    i, j = builder.var(DType.I64, m), builder.var(DType.I64, n)
    dtype = op.result.type.dtype
    acc = builder.var(dtype.accumulator)
    parts = [_parts(builder, v, way) for v, way in zip((i, j), ways, strict=True)]
    alone = [part[0] if len(way) == 1 else part for part, way in zip(parts, ways, strict=True)]
    group = Affine.of(batch_index[0]) if batch else Affine()
    index = outer(group, *alone)
    at = [affine(position, index) for position in spec.result]
    tail.bind_scalar(op.result, at, IndexAlgebra(builder, dtype).cast(acc, dtype))
    store_results(draft, draft.block, tail, at)
    if not batch:
        left, right = (replace(x, batch_strides=()) for x in factors)
        factors = left, right
    body = builder.body()
    return Gemm(batch, batch_index, m, n, k, *factors, i, j, acc, body), builder.names
