"""Where a function has no derivative that says anything: its result comes of a step (``round``,
``floor``, ``sign``), or is chosen by comparisons alone (a spike, a place of a maximum).

Almost everywhere such a function is constant, so what its user wants instead of a derivative is
their word. A comparison that chooses between numbers that do vary (``where(x > 0, x, 0)``, a mask
times what it masks) is none of this: there is a derivative off kinks. Neither is ``stop_gradient``,
which is a choice of what to differentiate.

What an op is stands at its definition (``OpDef.is_step``). Non-goals: whether a pullback is right
(``prove_pullback``).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from gradc.ir.ops.registry import Contraction, is_loop, lookup
from gradc.ir.tensor.core import Block, DType, Op, Value


class Way(IntEnum):
    """How a value depends on the floating operands: not at all, smoothly, as a choice by
    comparisons, by a step.
    """

    NONE = 0
    SMOOTH = 1
    CHOICE = 2
    STEP = 3


def ends_in_step(block: Block) -> bool:
    """Whether a floating result of ``block`` comes of a step or a bare choice."""
    ways = _outputs(block, [_given(v) for v in block.parameters])
    rows = zip(block.outputs, ways, strict=True)
    return any(way > Way.SMOOTH for value, way in rows if value.type.dtype.is_float)


def _given(value: Value) -> Way:
    return Way.SMOOTH if value.type.dtype.is_float else Way.NONE


def _outputs(block: Block, given: Sequence[Way]) -> list[Way]:
    known = dict(zip(block.parameters, given, strict=True))
    for op in block.body:
        known.update(zip(op.results, _ways(op, [known[v] for v in op.operands]), strict=True))
    return [known[v] for v in block.outputs]


def _ways(op: Op, operands: Sequence[Way]) -> list[Way]:
    if is_loop(op):
        return _loop(op, operands)
    if op.regions:
        return _outputs(op.regions[0], operands)
    return [_way(op, operands, result) for result in op.results]


def _loop(op: Op, operands: Sequence[Way]) -> list[Way]:
    """Until no carry depends on more than before; each can change three times."""
    carried = int(str(op.attributes["carried"]))
    now = list(operands)
    while True:
        found = _outputs(op.regions[0], now)
        carries = [max(a, b) for a, b in zip(now[:carried], found[:carried], strict=True)]
        if carries == now[:carried]:
            return [*carries, *found[carried:]]
        now[:carried] = carries


def _way(op: Op, operands: Sequence[Way], result: Value) -> Way:
    definition = lookup(op.name)
    top = max(operands, default=Way.NONE)
    if top is Way.NONE or definition.is_barrier:
        return Way.NONE
    dtype = result.type.dtype
    if not dtype.is_float:
        return Way.CHOICE
    if definition.is_step:
        return Way.STEP
    if not any(v.type.dtype.is_float or v.type.dtype is DType.BOOL for v in op.operands):
        return Way.STEP  # a number made of places or counts
    if top is Way.CHOICE and Way.SMOOTH in operands:
        return Way.SMOOTH if _is_guarded(op, operands) else Way.STEP
    return top


def _is_guarded(op: Op, operands: Sequence[Way]) -> bool:
    """Whether a choice only says which of the smooth operands count, by selecting or by a
    factor.
    """
    definition = lookup(op.name)
    choices = [v for v, way in zip(op.operands, operands, strict=True) if way is Way.CHOICE]
    if all(not v.type.dtype.is_float for v in choices) or isinstance(definition.loop, Contraction):
        return True
    rows = zip(definition.partials or (), operands, strict=True) if definition.partials else ()
    kinds = [p.kind for p, way in rows if way is Way.SMOOTH and p is not None]
    return bool(kinds) and all(kind not in ("one", "minus_one") for kind in kinds)
