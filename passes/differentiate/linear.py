"""Whether a region is linear in some of its parameters, decided op by op.

Sound but not complete: an op that only happens to be linear at its operands (``mul`` by itself plus
...) counts as not linear. Needed for the tangent of ``custom``, which is the transpose of its
pullback.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gradc.ir.ops.registry import is_transparent, lookup
from gradc.ir.ops.traits import ALL
from gradc.ir.tensor.core import Block, Op, Value


class NotLinear(Exception):
    """A ``custom`` op has no tangent: its pullback is not linear in the cotangent, because of
    ``offender``.
    """

    def __init__(self, op: Op, offender: Op) -> None:
        self.op = op
        self.offender = offender
        super().__init__(f"the pullback is not linear in its cotangent: {offender.name}")


def nonlinear_op(region: Block, parameters: Collection[Value]) -> Op | None:
    """The first op that makes ``region`` not linear in ``parameters``, or None if it is linear."""
    dependent = set(parameters)
    for op in region.body:
        flags = [v in dependent for v in op.operands]
        if not any(flags):
            continue
        if not _is_linear(op, flags):
            return op
        dependent.update(op.results)
    return None


def _is_linear(op: Op, flags: Sequence[bool]) -> bool:
    if op.regions:
        return is_transparent(op) and _region_is_linear(op, flags)
    groups = lookup(op.name).traits.linear
    chosen = {i for i, flag in enumerate(flags) if flag}
    return groups == ALL or any(chosen <= set(group) for group in groups)


def _region_is_linear(op: Op, flags: Sequence[bool]) -> bool:
    region = op.regions[0]
    chosen = [p for p, flag in zip(region.parameters, flags, strict=True) if flag]
    return nonlinear_op(region, chosen) is None
