"""Dead code elimination: removes ops that no result needs, and what regions compute for nobody.

From-stage and to-stage: tensor. Slots stay: parameters are never removed, results neither. Inside
regions it goes further: results of a ``scan`` or ``checkpoint`` that nobody reads go, with the
operands only they needed; the carries of a scan are a fixed point. ``custom`` keeps its signature,
which its pullback shares.

All ops are pure, so an op without readers is dead. Non-goals: merging equal ops (``cse``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TypeAlias

from gradc.ir.ops.registry import Control, is_loop, lookup
from gradc.ir.tensor.core import Block, Function, Op, Value
from gradc.passes.rewrite import Scan, with_ops, with_regions

# Regions that were looked through, with the outputs that are wanted and the parameters that are
# held, and what is left of them: the parameters that stay, and the block. Blocks and values compare
# by identity, and many ops may share a region.
Cleaned: TypeAlias = dict[
    tuple[Block, tuple[Value, ...], tuple[Value, ...]], tuple[list[int], Block]
]


def dce(function: Function) -> Function:
    """``function`` without dead ops; the same object if there are none."""
    ops = live_ops(function.block.body, function.block.outputs)
    if ops is None:
        return function
    return with_ops(function, ops, function.block.outputs)


def live_ops(
    ops: Sequence[Op], outputs: Sequence[Value], cleaned: Cleaned | None = None
) -> list[Op] | None:
    """The ops that ``outputs`` need, regions pruned; None if that is all of them."""
    live = set(outputs)
    kept: list[Op] = []
    is_changed = False
    cleaned = {} if cleaned is None else cleaned
    for op in reversed(ops):
        if not any(v in live for v in op.results):
            is_changed = True
            continue
        pruned = _pruned(op, live, cleaned)
        is_changed = is_changed or pruned is not op
        live.update(pruned.operands)
        kept.append(pruned)
    kept.reverse()
    return kept if is_changed else None


def _pruned(op: Op, live: Collection[Value], cleaned: Cleaned) -> Op:
    """``op`` with its regions pruned, and its results and operands where it allows that."""
    if is_loop(op):
        return _pruned_scan(op, live, cleaned)
    form = lookup(op.name).loop
    if isinstance(form, Control) and not form.keeps_signature:
        return _pruned_region(op, live, cleaned)
    return with_regions(op, lambda region: _clean(region, cleaned))


def _clean(block: Block, cleaned: Cleaned) -> Block:
    """``block`` without dead ops; its parameters stay."""
    _, left = _left(block, block.outputs, block.parameters, cleaned)
    return left


def _left(
    block: Block, outputs: Sequence[Value], held: Collection[Value], cleaned: Cleaned
) -> tuple[list[int], Block]:
    """What ``outputs`` of ``block`` need: which of its parameters, ``held`` ones among them, and
    the block of these; the block itself if that is all of it.
    """
    key = (block, tuple(outputs), tuple(held))
    found = cleaned.get(key)
    if found is None:
        found = cleaned[key] = _cut(block, outputs, held, cleaned)
    return found


def _cut(
    block: Block, outputs: Sequence[Value], held: Collection[Value], cleaned: Cleaned
) -> tuple[list[int], Block]:
    ops = live_ops(block.body, outputs, cleaned)
    body = block.body if ops is None else tuple(ops)
    live = {*outputs, *held, *(v for inner in body for v in inner.operands)}
    kept = [i for i, p in enumerate(block.parameters) if p in live]
    is_same = len(kept) == len(block.parameters) and tuple(outputs) == block.outputs
    if ops is None and is_same:
        return kept, block
    end = replace(block.terminator, operands=tuple(outputs))
    return kept, Block(tuple(block.parameters[i] for i in kept), (*body, end))


def _pruned_region(op: Op, live: Collection[Value], cleaned: Cleaned) -> Op:
    region = op.regions[0]
    kept = [i for i, v in enumerate(op.results) if v in live]
    outputs = [region.outputs[i] for i in kept]
    return _rebuilt(op, outputs, [op.results[i] for i in kept], (), cleaned)


def _pruned_scan(op: Op, live: Collection[Value], cleaned: Cleaned) -> Op:
    scan = Scan.of(op)
    body = scan.body
    carries = [v in live for v in op.results[: scan.carried]]
    steps = [i for i in range(scan.carried, len(op.results)) if op.results[i] in live]
    while True:
        kept = [*(i for i, flag in enumerate(carries) if flag), *steps]
        outputs = [body.outputs[i] for i in kept]
        needed = _needed(body, outputs)
        following = [flag or p in needed for flag, p in zip(carries, body.parameters, strict=False)]
        if following == carries:
            break
        carries = following
    results = [op.results[i] for i in kept]
    # A carry is kept with its parameter even where only its last value is read.
    held = [body.parameters[i] for i, flag in enumerate(carries) if flag]
    return _rebuilt(op, outputs, results, held, cleaned)


def _needed(block: Block, outputs: Sequence[Value]) -> set[Value]:
    live = set(outputs)
    for op in reversed(block.body):
        if any(v in live for v in op.results):
            live.update(op.operands)
    return live


def _rebuilt(
    op: Op,
    outputs: Sequence[Value],
    results: Sequence[Value],
    held: Sequence[Value],
    cleaned: Cleaned,
) -> Op:
    """``op`` with fewer results, and the parameters and operands that those still need."""
    region = op.regions[0]
    kept, block = _left(region, outputs, held, cleaned)
    if block is region and len(results) == len(op.results) and len(kept) == len(op.operands):
        return op
    attributes = op.attributes
    if is_loop(op):
        scan = Scan.of(op)
        carried = sum(i < scan.carried for i in kept)
        stacked = sum(scan.carried <= i < scan.carried + scan.stacked for i in kept)
        attributes = scan.attributes(carried=carried, stacked=stacked)
    return replace(
        op,
        operands=tuple(op.operands[i] for i in kept),
        results=tuple(results),
        attributes=attributes,
        regions=(block, *op.regions[1:]),
    )
