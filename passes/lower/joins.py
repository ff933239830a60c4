"""Results of a group that join some of its values: the values have the group's shape, and lie
beside each other in one array. Each element is stored where it lies there, when it is computed.

Non-goals: parts of different shapes, and parts so narrow that their elements are no neighbours in
the array; these are read from memory by an op of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import Block, Op, Value
from gradc.passes.lower.cost import size_of

# Neighbours in the array that one part has at least.
_SHORT_RUN = 8


def part_shape(op: Op) -> tuple[int, ...] | None:
    """The shape of all parts that the result of ``op`` joins, if it does and they have one."""
    starts = lookup(op.name).traits.starts
    if starts is None:
        return None
    shape = op.operands[0].type.static_shape
    if any(x.type.static_shape != shape for x in op.operands):
        return None
    whole = op.result.type.static_shape
    joined = [axis for axis, extent in enumerate(whole) if extent != shape[axis]]
    run = size_of(shape[joined[0] :]) if joined else 0
    return shape if run >= _SHORT_RUN else None


def part_starts(op: Op) -> list[tuple[Value, tuple[int, ...]]]:
    """The parts that the result of ``op`` joins, and where in it each begins."""
    starts = lookup(op.name).traits.starts
    assert starts is not None, "asked of an op that joins"
    return list(zip(op.operands, starts(op), strict=True))


def joined_results(block: Block, shape: tuple[int, ...]) -> Mapping[Value, Op]:
    """The results of ``block`` that are stored part by part by loops over ``shape``, and the ops
    that join them.
    """
    return {v: op for v, op in _unread_joins(block).items() if part_shape(op) == shape}


def walked_shape(block: Block) -> tuple[int, ...]:
    """The shape of what a group without reductions walks over: of its results, or of their parts
    if it has no others and all parts are alike.
    """
    joins = _unread_joins(block)
    others = [v for v in block.outputs if v not in joins]
    if others:
        return others[0].type.static_shape
    shapes = {part_shape(op) for op in joins.values()}
    shape = shapes.pop()
    return block.outputs[0].type.static_shape if shape is None or shapes else shape


def _unread_joins(block: Block) -> dict[Value, Op]:
    """Results that join values and that nothing in ``block`` reads."""
    read = {x for op in block.body for x in op.operands}
    ends = {op.results[0]: op for op in block.body if op.results[0] not in read}
    return {v: ends[v] for v in block.outputs if v in ends and part_shape(ends[v]) is not None}
