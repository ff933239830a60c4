"""Recomputation over time: a ``scan`` in chunks, of which only the carries at the borders are kept.

    scan of T trips  ->  scan of T/k trips over checkpoint { scan of k trips }

From-stage and to-stage: tensor, before ``differentiate``, which then does the rest: the outer
reverse loop recomputes one chunk at a time. Memory falls from T to T/k + k trips' worth, least at k
= sqrt(T), for one extra forward sweep. The last k or fewer trips stand apart and are not
recomputed: the reverse sweep begins with them. Chunks may be cut into chunks again, the last trips
too: T/k + k/l + l trips' worth for two extra sweeps.

``truncate`` is kept exact: chunks are chosen so that every border of the truncated derivative is a
border that the inner loop, or the outer one, cuts as well; where no such chunk exists the loop
stays as it is.

Invariants: values do not change, not even in the last bit; the same trips run in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import is_loop
from gradc.ir.tensor.core import Attr, Block, Function, Value
from gradc.passes.rewrite import Scan, copy_block, emit_scan, renamed, rows, with_ops

Sizes: TypeAlias = tuple[int, ...]


def chunk_scans(function: Function, size: int, inner: Sequence[int] = ()) -> Function:
    """``function`` with its outermost scans in chunks of ``size`` trips; the same object if none is
    longer.

    ``inner`` are the sizes of chunks in these chunks, largest first.
    """
    b = Builder()
    mapping: dict[Value, Value] = {}
    is_changed = False
    for op in function.block.body:
        operands = renamed(op.operands, mapping)
        if operands != op.operands:
            op = replace(op, operands=operands)
        found = None
        if is_loop(op):
            with b.at(op.span, op.scope, op.replica):
                found = _chunked(b, Scan.of(op), (size, *inner))
        if found is None:
            b.ops.append(op)
        else:
            mapping.update(zip(op.results, found, strict=True))
            is_changed = True
    if not is_changed:
        return function
    return with_ops(function, b.ops, renamed(function.block.outputs, mapping))


def longest_scan(function: Function) -> int:
    """Trips of the longest outermost scan; 0 without one."""
    scans = (Scan.of(op).trips for op in function.block.body if is_loop(op))
    return max((trips for trips in scans if isinstance(trips, int)), default=0)


def _loop(
    b: Builder, operands: Sequence[Value], body: Block, attributes: dict[str, Attr], sizes: Sizes
) -> Sequence[Value]:
    """Emits a scan, in chunks of ``sizes`` if there are any."""
    alone = Builder()
    with alone.at(b.span, b.scope, b.replica):
        results = emit_scan(alone, operands, body, attributes)
    found = _chunked(b, Scan.of(alone.ops[0]), sizes)
    if found is None:
        b.ops += alone.ops
    return results if found is None else found


def _chunked(b: Builder, scan: Scan, sizes: Sizes) -> list[Value] | None:
    """Emits ``scan`` in chunks; returns its results, or None if it cannot or need not be cut up."""
    trips, operands = scan.trips, scan.op.operands
    while sizes and isinstance(trips, int) and trips <= sizes[0]:
        sizes = sizes[1:]
    if not isinstance(trips, int) or not sizes:
        return None
    size, inner = sizes[0], sizes[1:]
    inner_cut, outer_cut = 0, 0
    chunks, rest = (trips - 1) // size, trips - (trips - 1) // size * size
    if scan.is_truncated:
        if trips % size or (size % scan.truncate and scan.truncate % size):
            return None
        chunks, rest = trips // size, 0
        is_finer = size % scan.truncate == 0
        inner_cut, outer_cut = (scan.truncate, 1) if is_finer else (0, scan.truncate // size)
    # In order of execution: whole chunks, then the rest, which lies at the start if time runs
    # backward.
    first = rest if scan.is_reverse else 0
    carries, stacked, constants = scan.split(operands)
    parts = [rows(b, x, first, chunks * size) for x in stacked]
    grouped = [b.one("reshape", x, shape=(chunks, size, *x.type.shape[1:])) for x in parts]
    body = _chunk_body(b, scan, sizes, inner_cut)
    attributes = {**scan.op.attributes, "trips": chunks, "truncate": outer_cut}
    results = emit_scan(b, [*carries, *grouped, *constants], body, attributes)
    last = list(results[: scan.carried])
    steps = [
        b.one("reshape", x, shape=(chunks * size, *x.type.shape[2:]))
        for x in results[scan.carried :]
    ]
    if not rest:
        return [*last, *steps]
    tails = [rows(b, x, 0 if scan.is_reverse else chunks * size, rest) for x in stacked]
    attributes = {**scan.op.attributes, "trips": rest}
    region = copy_block(scan.body)
    ended = _loop(b, [*last, *tails, *constants], region, attributes, inner)
    joined = [
        b.one("concat", *((tail, main) if scan.is_reverse else (main, tail)), axis=0)
        for main, tail in zip(steps, ended[scan.carried :], strict=True)
    ]
    return [*ended[: scan.carried], *joined]


def _chunk_body(b: Builder, scan: Scan, sizes: Sizes, truncate: int) -> Block:
    """One trip of the outer loop: a checkpoint around a loop of as many trips as the first of
    ``sizes``.
    """
    size = sizes[0]
    attributes: dict[str, Attr] = {**scan.op.attributes, "trips": size, "truncate": truncate}
    inside = _nested(b, scan, size)
    loop = copy_block(scan.body)
    with inside.at(b.span, b.scope, b.replica):
        region = inside.block(_loop(inside, inside.parameters, loop, attributes, sizes[1:]))
    outside = _nested(b, scan, size)
    with outside.at(b.span, b.scope, b.replica):
        results = outside.apply("checkpoint", outside.parameters, {}, (region,))
        return outside.block(results)


def _nested(b: Builder, scan: Scan, size: int) -> Builder:
    """A builder whose parameters are those of one trip of the outer loop."""
    builder = Builder()
    groups: Sequence[Sequence[Value]] = scan.split(scan.body.parameters)
    for number, group in enumerate(groups):
        for parameter in group:
            type_ = parameter.type
            if number == 1:
                type_ = type_.with_shape((size, *type_.shape))
            builder.parameter(type_, parameter.hint)
    return builder
