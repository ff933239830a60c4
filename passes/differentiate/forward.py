"""The forward sweep of one block: tangents are computed next to the values they belong to.

From-stage and to-stage: tensor. The primal ops are kept as they are; after each come the ops of its
tangent, with its span, scope and replica number. A missing tangent is a symbolic zero.

A ``custom`` op states only its pullback, a linear map of the cotangent; its tangent is the
transpose of that map, found by reversing the pullback (``jvp = transpose of vjp``). A pullback that
is not linear in its cotangent (one that clips it, say) has no tangent, and asking for one is
refused with ``NotLinear``.

Non-goals: which functions are differentiated by what (``differentiate``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import has_pullback, is_loop, is_transparent, lookup
from gradc.ir.tensor.core import Block, Op, Value
from gradc.passes.differentiate.activity import varied
from gradc.passes.differentiate.linear import NotLinear, nonlinear_op
from gradc.passes.differentiate.reverse import reverse_ops
from gradc.passes.differentiate.scan_forward import forward_scan
from gradc.passes.differentiate.values import Cotangents, Numbers, Tangents, companion, zeros
from gradc.passes.rewrite import copy_ops


def forward_ops(b: Builder, ops: Iterable[Op], tangents: Tangents, numbers: Numbers) -> None:
    """Emits ``ops`` and their tangents into ``b``; ``tangents`` gains the tangents of all
    results.
    """
    for op in ops:
        operand_dots = tangents.take(op.operands)
        if all(t is None for t in operand_dots):
            b.ops.append(op)
            continue
        with b.at(op.span, op.scope, op.replica):
            found = _forward_op(b, op, operand_dots, numbers)
        for value, tangent in zip(op.results, found, strict=True):
            tangents.put(value, tangent)


def _forward_op(
    b: Builder, op: Op, operand_dots: Sequence[Value | None], numbers: Numbers
) -> Sequence[Value | None]:
    """Emits one op and its tangents; returns the tangents of its results."""
    if is_loop(op):
        return forward_scan(b, op, operand_dots, numbers, forward_ops)
    if is_transparent(op):
        return _forward_region(b, op, operand_dots, numbers)
    b.ops.append(op)
    if has_pullback(op):
        return _push_forward(b, op, operand_dots, numbers)
    return lookup(op.name).jvp(b, op, operand_dots)


def _forward_region(
    b: Builder, op: Op, operand_dots: Sequence[Value | None], numbers: Numbers
) -> list[Value | None]:
    """A ``checkpoint`` whose region computes values and tangents; so becomes what a kernel
    computed."""
    region = op.regions[0]
    inner, own = Builder(), Tangents()
    inner.span, inner.scope, inner.replica = b.span, b.scope, b.replica
    extra = [t for t in operand_dots if t is not None]
    for parameter, tangent in zip(region.parameters, operand_dots, strict=True):
        if tangent is not None:
            own.of[parameter] = companion(parameter, "dot")
    forward_ops(inner, region.body, own, numbers)
    dots = {i: own.of[v] for i, v in enumerate(region.outputs) if v in own.of}
    parameters = (*region.parameters, *(own.of[p] for p in region.parameters if p in own.of))
    block = Block(parameters, inner.block([*region.outputs, *dots.values()]).ops)
    results = {i: companion(op.results[i], "dot") for i in dots}
    b.append(
        "checkpoint",
        (*op.operands, *extra),
        (*op.results, *results.values()),
        {},
        (block,),
    )
    return [results.get(i) for i in range(len(op.results))]


def _push_forward(
    b: Builder, op: Op, operand_dots: Sequence[Value | None], numbers: Numbers
) -> list[Value | None]:
    """A ``custom`` op: the transpose of its pullback at the operands' tangents."""
    region = op.regions[1]
    fixed = len(op.operands) + len(op.results)
    ct_parameters = region.parameters[fixed:]
    offender = nonlinear_op(region, ct_parameters)
    if offender is not None:
        raise NotLinear(op, offender)
    points = [zeros(b, v) for v in op.results]
    arguments = (*op.operands, *op.results, *points)
    mapping = dict(zip(region.parameters, arguments, strict=True))
    copies = copy_ops(region.body, mapping, op.replica)
    cts, sweep = Cotangents(), Builder()
    with sweep.at(op.span, op.scope, op.replica):
        for output, tangent in zip(region.outputs, operand_dots, strict=True):
            if tangent is not None and output.type == tangent.type:
                cts.add(sweep, mapping.get(output, output), tangent, False)
        primal = reverse_ops(sweep, copies, cts, varied(copies, points), numbers)
        found = cts.take(sweep, points)
    b.ops += [*primal, *sweep.ops]
    return found
