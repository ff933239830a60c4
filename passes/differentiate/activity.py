"""Activity: which values depend on what is differentiated by, and which reach what is
differentiated.

``varied`` follows dependence forward from a set of values, ``useful`` backward. Both go through
regions: a ``scan`` is solved by a fixed point over its carries, which needs at most one round per
carry. Ops that are declared locally constant (``zero_vjp``), integers and booleans stop both.

Non-goals: values. An op whose derivative happens to be zero at some point is active.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from gradc.ir.ops.registry import is_loop, is_transparent, lookup, zero_jvp, zero_vjp
from gradc.ir.tensor.core import Op, Value
from gradc.passes.rewrite import Scan


def is_locally_constant(op: Op) -> bool:
    """Whether ``op`` declares that it has no derivative at all."""
    definition = lookup(op.name)
    return definition.vjp is zero_vjp and definition.jvp is zero_jvp


def varied(ops: Iterable[Op], sources: Iterable[Value]) -> set[Value]:
    """The values that ``ops`` compute differentiably from ``sources``, the sources included."""
    found = {v for v in sources if v.type.dtype.is_float}
    for op in ops:
        flags = varied_results(op, [v in found for v in op.operands])
        found.update(v for v, flag in zip(op.results, flags, strict=True) if flag)
    return found


def varied_results(op: Op, operands: Sequence[bool]) -> list[bool]:
    """Which results of ``op`` depend differentiably on the flagged operands."""
    if not any(operands):
        return [False] * len(op.results)
    if is_loop(op):
        carries, body = varied_scan(Scan.of(op), operands)
        carried = len(carries)
        outputs = op.regions[0].outputs
        # Without trips the carries pass through unchanged, so the initial flags count as well.
        return [v in body or (i < carried and operands[i]) for i, v in enumerate(outputs)]
    if is_transparent(op):
        region = op.regions[0]
        body = varied(region.body, _chosen(region.parameters, operands))
        return [v in body for v in region.outputs]
    if is_locally_constant(op):
        return [False] * len(op.results)
    return [v.type.dtype.is_float for v in op.results]


def varied_scan(scan: Scan, operands: Sequence[bool]) -> tuple[list[bool], set[Value]]:
    """The fixed point: which carries vary, and which values of the body."""
    body = scan.body
    return _settled(
        lambda flags: varied(body.body, _chosen(body.parameters, flags)),
        operands,
        body.outputs[: scan.carried],
    )


def _settled(
    reached: Callable[[Sequence[bool]], set[Value]], start: Sequence[bool], carries: Sequence[Value]
) -> tuple[list[bool], set[Value]]:
    """The fixed point of ``reached`` from flags of which the first belong to the carries: a carry
    that one trip flags is flagged for the next.
    """
    flags = list(start)
    while True:
        found = reached(flags)
        following = [f or v in found for f, v in zip(flags, carries, strict=False)]
        if following == flags[: len(carries)]:
            return following, found
        flags[: len(carries)] = following


def useful(ops: Sequence[Op], targets: Iterable[Value]) -> set[Value]:
    """The values from which ``ops`` compute ``targets`` differentiably, the targets included."""
    found = {v for v in targets if v.type.dtype.is_float}
    for op in reversed(ops):
        flags = [v in found for v in op.results]
        if any(flags):
            needed = useful_operands(op, flags)
            found.update(v for v, flag in zip(op.operands, needed, strict=True) if flag)
    return found


def useful_operands(op: Op, results: Sequence[bool]) -> list[bool]:
    """Which operands of ``op`` the flagged results depend on differentiably."""
    if is_loop(op):
        carries, body = useful_scan(Scan.of(op), results)
        parameters = op.regions[0].parameters
        return [v in body or (i < len(carries) and carries[i]) for i, v in enumerate(parameters)]
    if is_transparent(op):
        region = op.regions[0]
        body = useful(region.body, _chosen(region.outputs, results))
        return [v in body for v in region.parameters]
    if is_locally_constant(op):
        return [False] * len(op.operands)
    return [v.type.dtype.is_float for v in op.operands]


def useful_scan(scan: Scan, results: Sequence[bool]) -> tuple[list[bool], set[Value]]:
    """The fixed point: which carries have an influence, and which values of the body."""
    body = scan.body
    return _settled(
        lambda flags: useful(body.body, _chosen(body.outputs, flags)),
        results,
        body.parameters[: scan.carried],
    )


def _chosen(values: Sequence[Value], flags: Collection[bool]) -> list[Value]:
    return [v for v, flag in zip(values, flags, strict=True) if flag]
