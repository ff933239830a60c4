"""Whether a region is linear in some of its parameters, decided op by op.

Sound but not complete: an op that only happens to be linear at its operands (``mul`` by itself plus
...) counts as not linear. Needed for the tangent of ``custom``, which is the transpose of its
pullback.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import Block, Op, Value

# Linear in all operands together.
_LINEAR = frozenset(
    [
        "neg",
        "add",
        "sub",
        "broadcast",
        "reshape",
        "transpose",
        "slice",
        "pad",
        "concat",
        "reverse",
        "sum",
        "cumsum",
        "fft",
        "avg_pool",
        "cast",
    ]
)
# Linear in the operands at these positions together, while the others do not depend.
_LINEAR_IN: dict[str, tuple[tuple[int, ...], ...]] = {
    "mul": ((0,), (1,)),
    "gate": ((0,), (1,)),
    "div": ((0,),),
    "fma": ((0, 2), (1, 2)),
    "select": ((1, 2),),
    "contract": ((0,), (1,)),
    **{name: ((0,), (1,)) for name in ("conv2d", "conv2d_input", "conv2d_filter")},
    "take": ((0,),),
    "scatter_add": ((1,),),
}


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
    if op.name == "stop_gradient":
        return False
    if op.regions:
        return op.name == "checkpoint" and _region_is_linear(op, flags)
    if op.name in _LINEAR or (lookup(op.name).is_view and len(op.operands) == 1):
        return True
    chosen = {i for i, flag in enumerate(flags) if flag}
    return any(chosen <= set(group) for group in _LINEAR_IN.get(op.name, ()))


def _region_is_linear(op: Op, flags: Sequence[bool]) -> bool:
    region = op.regions[0]
    chosen = [p for p, flag in zip(region.parameters, flags, strict=True) if flag]
    return nonlinear_op(region, chosen) is None
