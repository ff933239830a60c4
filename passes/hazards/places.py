"""Which axes of two values run with the same index, so that what is known of one element is not
taken for another's: `x[:, None] > 0` says nothing of `x[None, :]`.

``At`` is a map from the axes of one value to those of another, None where an axis has no partner:
there any index may stand beside any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from gradc.ir.ops.registry import lookup
from gradc.ir.ops.traits import Moves
from gradc.ir.tensor.core import Op, Value

At: TypeAlias = tuple[int | None, ...]


def keeps_order(op: Op) -> bool:
    """Whether ``op`` leaves its operand's numbers in their order, repeated or regrouped at most."""
    definition = lookup(op.name)
    is_repeated = definition.traits.moves is Moves.REPEATS
    return is_repeated or definition.is_barrier or op.name == "reshape"


def itself(value: Value) -> At:
    """Every axis with itself."""
    return tuple(range(value.type.rank))


def through(op: Op, number: int) -> At:
    """From the axes of operand ``number`` to those of the result, as the op links them whole."""
    operand = op.operands[number].type
    found: list[int | None] = [None] * operand.rank
    rule = lookup(op.name).axes
    if rule is None or len(op.results) != 1:
        return tuple(found)
    shape, after = operand.static_shape, op.result.type.static_shape
    for link in rule.links(op):
        place, result = link.operands[number], link.result
        if place is None or result is None:
            continue
        if link.size == shape[place.axis] == after[result.axis]:
            found[place.axis] = result.axis
    return tuple(found)


def after(inner: At, outer: At) -> At:
    """The map ``inner`` and then ``outer``."""
    return tuple(None if axis is None else outer[axis] for axis in inner)


def backwards(at: At, rank: int) -> At:
    """The same partners, from the other side, which has ``rank`` axes."""
    found: list[int | None] = [None] * rank
    for axis, partner in enumerate(at):
        if partner is not None:
            found[partner] = axis
    return tuple(found)


def root_of(value: Value, makers: Mapping[Value, Op]) -> tuple[Value, At]:
    """The value that ``value`` repeats or regroups, and the way from its axes to those of
    ``value``.
    """
    at = itself(value)
    op = makers.get(value)
    while op is not None and keeps_order(op):
        at = after(through(op, 0), at)
        value = op.operands[0]
        op = makers.get(value)
    return value, at


def meet(root: Value, left: At, right: At, between: At) -> bool:
    """Whether two values that repeat ``root`` (``left``, ``right``: from its axes to theirs) have
    one element of it, where ``between`` leads from the axes of the first to those of the second.
    """
    return all(
        size == 1 or (i is not None and j is not None and between[i] == j)
        for size, i, j in zip(root.type.static_shape, left, right, strict=True)
    )
