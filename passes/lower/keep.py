"""What a row kernel keeps between its stages: values that later stages take and that cost more to
compute again than to read. Everything else is recomputed from what the kernel reads anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gradc.ir.ops.registry import lookup
from gradc.ir.ops.traits import Moves
from gradc.ir.target.costs import Costs
from gradc.ir.tensor.core import Block, Op, Value
from gradc.passes.lower.cost import verbs
from gradc.passes.lower.space import Layout, cone


def kept_values(
    block: Block,
    place: Layout,
    stage: int,
    roots: Sequence[Value],
    outputs: Sequence[Value],
    known: Mapping[Value, object],
    costs: Costs,
) -> list[Value]:
    """The full values of level ``stage``, needed for ``roots``, that a later stage takes.

    ``outputs`` are the results of the main loops; ``known`` what is kept already.
    """
    levels, shape = place.levels, place.space.shape
    bound = dict.fromkeys((*place.kinds, *known))
    makers = {v: op for op in block.body for v in op.results}
    inputs = [makers[v].operands[0] for v in place.kinds]
    later = [v for v in (*inputs, *outputs) if levels[v] > stage]
    here = {op.results[0]: op for op in cone(block, roots, bound)}
    taken = {
        x: None
        for op in cone(block, later, bound)
        if op.results[0] not in here
        for x in op.operands
    }
    return [
        value
        for value in here
        if value in taken
        and value.type.static_shape == shape
        and levels[value] == stage
        and _again(block, value, shape, bound, costs) >= costs.keep
    ]


def _again(
    block: Block,
    value: Value,
    shape: tuple[int, ...],
    bound: Mapping[Value, object],
    costs: Costs,
) -> float:
    """Cycles of computing a vector of ``value`` again; what there is once per row is free."""
    again = [o for o in cone(block, [value], bound) if o.results[0].type.static_shape == shape]
    return sum(verbs(op, costs).cycles + _is_apart(op) * costs.apart for op in again)


def _is_apart(op: Op) -> bool:
    """Whether neighbours along the last axis are none in the operand, which is only moved."""
    rule = lookup(op.name).axes
    if lookup(op.name).traits.moves is not Moves.PERMUTES or rule is None:
        return False
    sides = (op.operands[0].type.static_shape, op.results[0].type.static_shape)
    last, end = (max((n for n, size in enumerate(s) if size > 1), default=-1) for s in sides)
    pairs = [(link.operands[0], link.result) for link in rule.links(op)]
    return not any(a and b and (a.axis, b.axis) == (last, end) for a, b in pairs)
