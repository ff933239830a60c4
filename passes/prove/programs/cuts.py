"""Loops with ``truncate`` as loops without: the cuts written where they are, so that ordinary
derivatives see them.

A loop that cuts its derivative every ``k`` trips, counted from its end, is a chain of loops of
``k`` trips with ``stop_gradient`` on the carries between them. The chain computes the same values,
and its derivative, by dual numbers or by anybody else's rules, is what the cut loop promises.

Non-goals: speed; the chain repeats the loop's region (as the same blocks, which is good for
interpreting only).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import is_loop
from gradc.ir.tensor.core import Block, Function, Op, Value, walk


def has_window(function: Function) -> bool:
    """Whether a loop of ``function`` cuts its derivative."""
    return any(is_loop(op) and op.attributes["truncate"] for op in walk(function.block))


def with_cuts(function: Function) -> Function:
    """``function`` with every cut written as ``stop_gradient``; itself if there are none."""
    return replace(function, block=_block(function.block)) if has_window(function) else function


def _block(block: Block) -> Block:
    renamed: dict[Value, Value] = {}
    ops: list[Op] = []
    for op in block.ops:
        operands = tuple(renamed.get(v, v) for v in op.operands)
        changed = replace(op, operands=operands, regions=tuple(_block(r) for r in op.regions))
        if is_loop(op) and op.attributes["truncate"]:
            made, results = _chain(changed)
            ops += made
            renamed.update(zip(op.results, results, strict=True))
        else:
            ops.append(changed)
    return Block(block.parameters, tuple(ops))


def _number(op: Op, name: str) -> int:
    value = op.attributes[name]
    assert isinstance(value, int)
    return value


def _chain(op: Op) -> tuple[Sequence[Op], Sequence[Value]]:
    """The loops that a cut loop is, and the values that stand for its results."""
    trips, window = _number(op, "trips"), _number(op, "truncate")
    carried, stacked = _number(op, "carried"), _number(op, "stacked")
    b, is_reverse = Builder(), bool(op.attributes["reverse"])
    carries = list(op.operands[:carried])
    sequences, constants = op.operands[carried:][:stacked], op.operands[carried + stacked :]
    pieces: list[list[Value]] = [[] for _ in op.results[carried:]]
    first = trips % window or min(window, trips)
    ends = list(range(first, trips + 1, window)) if trips else [0]
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        if start:
            carries = [b.one("stop_gradient", v) if v.type.dtype.is_float else v for v in carries]
        low, high = (trips - end, trips - start) if is_reverse else (start, end)
        slices = [_rows(b, x, low, high) for x in sequences]
        attributes = {**op.attributes, "trips": high - low, "truncate": 0}
        results = [Value(v.type) for v in op.results[:carried]]
        results += [
            Value(v.type.with_shape((high - low, *v.type.shape[1:]))) for v in op.results[carried:]
        ]
        operands = (*carries, *slices, *constants)
        b.ops.append(replace(op, operands=operands, results=tuple(results), attributes=attributes))
        carries = results[:carried]
        for piece, value in zip(pieces, results[carried:], strict=True):
            piece.insert(0, value) if is_reverse else piece.append(value)
    joined = [p[0] if len(p) == 1 else b.one("concat", *p, axis=0) for p in pieces]
    return b.ops, [*carries, *joined]


def _rows(b: Builder, x: Value, low: int, high: int) -> Value:
    """Rows ``low`` to ``high`` of ``x``."""
    shape = x.type.static_shape
    rest = len(shape) - 1
    start, limit = (low, *(0,) * rest), (high, *shape[1:])
    return b.one("slice", x, start=start, limit=limit, stride=(1,) * len(shape))
