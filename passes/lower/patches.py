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
from functools import partial
from itertools import product
from math import gcd, prod

from gradc.ir.loop.builder import IndexAlgebra, LoopBuilder
from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    Factor,
    Gemm,
    Patch,
    Scalar,
    Var,
    row_major_offset,
)
from gradc.ir.ops.products import Position, Products
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import Block, DType, Op
from gradc.passes.lower.cost import flops
from gradc.passes.lower.element import Elements, LoweringError
from gradc.passes.lower.gemm import store_results
from gradc.passes.lower.piece import Draft, Lowered, Piece, Temp, block_spans
from gradc.passes.lower.products import affine

_SIDE_BY_SIDE = 4  # phases whose results are stored together


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
_At = Sequence[Affine]  # an index of a sum along the outer axes, or of its place in its phase
_StoreSum = Callable[[Elements, _At, Scalar], None]


def lower_patches(block: Block, op: Op, name: str, spec: Products, target: Target) -> Lowered:
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
    rows = _rows_of_phases(spec, phases, target)
    if rows is not None:
        return _interleaved(block, op, name, spec, rows)
    used = 0
    for phase in phases:
        if prod(along.places for along in phase):
            store = partial(_store_phase, draft, op, spec, phase)
            statement, used = _over_taps(op, spec, buffers, phase, draft.aside(used), store)
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
    op: Op,
    spec: Products,
    buffers: Sequence[Buffer],
    phase: _Phase,
    tail: Elements,
    store: _StoreSum,
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
    sizes = (groups, m, images * prod(places), k)
    ways = ([m], [images, *places])
    return _gemm(op, sizes, (left, right), ways, tail, store)


def _store_phase(
    draft: Draft, op: Op, spec: Products, phase: _Phase, tail: Elements, at: _At, total: Scalar
) -> None:
    """Stores what is made of an element of a phase."""
    image, group, i, *places = at
    spread = [x * along.every + along.first for x, along in zip(places, phase, strict=True)]
    _store_element(draft, op, spec, tail, [image, group, i, *spread], total)


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

    sizes = (groups, patch.shape[0], n, patch.shape[1])
    ways = ([channels, *patch.taps], [n])
    store = partial(_store_element, draft, op, spec)
    return _gemm(op, sizes, (left, right), ways, draft.aside(), store)[0]


def _parts(builder: LoopBuilder, number: Var, way: Sequence[int]) -> list[Affine]:
    """The position of ``number`` along axes of these extents. The first is divided off first: where
    the others lie together in memory, what is left of the number is an address again.
    """
    first, *others = way
    head, rest = builder.unflatten(Affine.of(number), [first, prod(others)])
    return [head, *builder.unflatten(rest, others)]


def _gemm(
    op: Op,
    sizes: tuple[int, int, int, int],
    factors: tuple[Factor, Factor],
    ways: tuple[list[int], list[int]],
    tail: Elements,
    store: _StoreSum,
) -> tuple[Gemm, int]:
    """A product over ``sizes`` (groups, rows, columns, steps); ``store`` is given the position of
    each sum: of windows (``ways``) the first axis, group, row, the others, and of taps group,
    column, row. Returns how many names are taken as well.
    """
    groups, m, n, k = sizes
    builder = tail.builder
    batch = (groups,) if groups > 1 else ()
    batch_index = tuple(builder.var(DType.I64, extent) for extent in batch)
    i, j = builder.var(DType.I64, m), builder.var(DType.I64, n)
    acc = builder.var(op.result.type.dtype.accumulator)
    rows, columns = (_parts(builder, v, way) for v, way in zip((i, j), ways, strict=True))
    group = Affine.of(batch_index[0]) if batch else Affine()
    # What is summed over taps has a row for each channel, what is summed over places many.
    is_image = len(ways[0]) == 1
    at = [columns[0], group, *rows, *columns[1:]] if is_image else [group, *columns, *rows]
    store(tail, at, acc)
    if not batch:
        left, right = (replace(x, batch_strides=()) for x in factors)
        factors = left, right
    body = builder.body()
    return Gemm(batch, batch_index, m, n, k, *factors, i, j, acc, body), builder.names


def _store_element(
    draft: Draft, op: Op, spec: Products, tail: Elements, outer: _At, total: Scalar
) -> None:
    """Stores what is made of the sum at an index of ``spec``."""
    at = [affine(position, outer) for position in spec.result]
    element = IndexAlgebra(tail.builder, op.result.type.dtype).cast(total, op.result.type.dtype)
    tail.bind_scalar(op.result, at, element)
    store_results(draft, draft.block, tail, at)


# --- phases side by side --------------------------------------------------------------------------


def _rows_of_phases(
    spec: Products, phases: Sequence[_Phase], target: Target
) -> list[tuple[_Phase, ...]] | None:
    """Phases that differ in the remainder along the last axis alone, together; None where what they
    give is stored apart: where one has more places than another, or on targets whose threads
    store element by element (they copy nothing either).
    """
    count = spec.left[-1].divisor
    if not 1 < count <= _SIDE_BY_SIDE or not target.copies:
        return None
    rows = [tuple(phases[n : n + count]) for n in range(0, len(phases), count)]
    same = all(len({phase[-1].places for phase in row}) == 1 for row in rows)
    return rows if same and phases[0][-1].places > 1 else None


def _interleaved(
    block: Block, op: Op, name: str, spec: Products, rows: Sequence[Sequence[_Phase]]
) -> Lowered:
    """Two kernels: sums of all phases of a row but its longest lie in a temporary, and the product
    of the longest stores what is made of them all, neighbours in memory.
    """
    early, late = Draft(block), Draft(block)
    kept: dict[_Phase, int] = {}
    size = 0
    for row in rows:
        for phase in row:
            if phase is not _longest(spec, row) and _steps(spec, phase) * _count(spec, phase):
                kept[phase] = size
                size += _count(spec, phase)
    temp = Temp(size, op.result.type.dtype.accumulator)
    write, read = early.temp(0, temp, "write"), late.temp(0, temp, "read")
    used = {early: 0, late: 0}

    def product(draft: Draft, phase: _Phase, store: _StoreSum) -> None:
        buffers = [draft.operands[block.parameters.index(x)] for x in op.operands]
        tail = draft.aside(used[draft])
        statement, used[draft] = _over_taps(op, spec, buffers, phase, tail, store)
        draft.builder.gemm(statement)

    for phase, start in kept.items():
        product(early, phase, partial(_keep, write, spec, phase, start))
    for row in rows:
        longest = _longest(spec, row)
        if _count(spec, longest):
            product(late, longest, partial(_store_row, late, op, spec, row, (kept, read)))
    if not kept:
        return Lowered((_finish(late, block, name),))
    spans, count = block_spans(block), flops(block)
    first = min(count, sum(2 * _steps(spec, phase) * _count(spec, phase) for phase in kept))
    pieces = (
        early.finish(f"{name}_phases", first, spans),
        late.finish(name, count - first, spans),
    )
    return Lowered(pieces, (temp,))


def _steps(spec: Products, phase: _Phase) -> int:
    """Steps of k of a phase."""
    return spec.inner[0] * prod(along.taps for along in phase)


def _longest(spec: Products, row: Sequence[_Phase]) -> _Phase:
    return max(row, key=partial(_steps, spec))


def _shape(spec: Products, phase: _Phase) -> tuple[int, ...]:
    """Of the sums of a phase."""
    return (*spec.outer[:3], *(along.places for along in phase))


def _count(spec: Products, phase: _Phase) -> int:
    """How many sums a phase has."""
    return prod(_shape(spec, phase))


def _place_kept(spec: Products, phase: _Phase, start: int, at: _At) -> Affine:
    """Where a sum of a phase lies."""
    return row_major_offset(at, _shape(spec, phase)) + start


def _keep(
    temp: Buffer, spec: Products, phase: _Phase, start: int, tail: Elements, at: _At, total: Scalar
) -> None:
    """Stores a sum as it is."""
    tail.builder.store(temp, _place_kept(spec, phase, start, at), total)


def _store_row(
    draft: Draft,
    op: Op,
    spec: Products,
    row: Sequence[_Phase],
    kept: tuple[dict[_Phase, int], Buffer],
    tail: Elements,
    at: _At,
    total: Scalar,
) -> None:
    """Stores what is made of the sums of a row of phases, where ``total`` is that of the longest:
    nothing meets the others that are not kept.
    """
    starts, temp = kept
    for phase in row:
        here = total
        if phase in starts:
            where = _place_kept(spec, phase, starts[phase], at)
            here = tail.builder.load(temp, where)
        elif phase is not _longest(spec, row):
            here = IndexAlgebra(tail.builder, temp.dtype).const(0.0, temp.dtype)
        _store_phase(draft, op, spec, phase, tail, at, here)
