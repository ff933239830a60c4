"""The tangent of ``scan``: one scan that carries tangents next to the values they belong to.

``truncate`` cuts the tangents at the same borders as the reverse sweep
(``differentiate_truncate``).

Non-goals: pruning tangents that nothing reads (``dce``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import Block, Op, Value
from gradc.passes.differentiate.activity import varied_scan
from gradc.passes.differentiate.truncate import borders, cut
from gradc.passes.differentiate.values import Numbers, Tangents, companion, zeros
from gradc.passes.rewrite import Scan, stacked_value

Forward: TypeAlias = Callable[[Builder, Iterable[Op], Tangents, Numbers], None]
# New body parameters and the operands that feed them.
Group: TypeAlias = list[tuple[Value, Value]]


def forward_scan(
    b: Builder,
    op: Op,
    tangents: Sequence[Value | None],
    numbers: Numbers,
    forward: Forward,
) -> list[Value | None]:
    """Emits a scan that computes the results of ``op`` and their tangents; returns the tangents.

    ``forward`` sweeps the body (``differentiate_forward.forward_ops``).
    """
    scan = Scan.of(op)
    carries_vary, _ = varied_scan(scan, [t is not None for t in tangents])
    inner = Builder()
    inner.span, inner.scope, inner.replica = b.span, b.scope, b.replica
    own = Tangents()
    entering = [
        zeros(b, op.operands[i]) if tangent is None and i < scan.carried and carries_vary[i]
        else tangent
        for i, tangent in enumerate(tangents)
    ]  # fmt: skip
    groups: list[Group] = []
    for parameters, sources in zip(
        scan.split(scan.body.parameters), scan.split(entering), strict=True
    ):
        group: Group = []
        for parameter, source in zip(parameters, sources, strict=True):
            if source is not None:
                own.of[parameter] = companion(parameter, "dot")
                group.append((own.of[parameter], source))
        groups.append(group)
    if scan.is_truncated and groups[0]:
        groups[1].append(_cut_tangents(b, scan, inner, own))
    forward(inner, scan.body.body, own, numbers)
    return _emit(b, scan, inner, own, groups, carries_vary)


def _cut_tangents(b: Builder, scan: Scan, inner: Builder, own: Tangents) -> tuple[Value, Value]:
    """Cuts the tangents of the carries where they come in; returns the slice that says where."""
    border = borders(b, scan)
    keep = Value(border.type.with_shape(()), "keep")
    for parameter in scan.body.parameters[: scan.carried]:
        if parameter in own.of:
            own.of[parameter] = cut(inner, own.of[parameter], keep)
    return keep, border


def _emit(
    b: Builder,
    scan: Scan,
    inner: Builder,
    own: Tangents,
    groups: Sequence[Group],
    carries_vary: Sequence[bool],
) -> list[Value | None]:
    op, body, carried = scan.op, scan.body, scan.carried
    varying = [i for i, varies in enumerate(carries_vary) if varies]
    carry_dots = [own.of.get(body.outputs[i]) or zeros(inner, body.outputs[i]) for i in varying]
    step_dots = {i: own.of[v] for i, v in enumerate(scan.step_outputs) if v in own.of}
    carries_out = [*body.outputs[:carried], *carry_dots]
    outputs = [*carries_out, *scan.step_outputs, *step_dots.values()]
    parameters: list[Value] = []
    operands: list[Value] = []
    for own_parameters, own_operands, group in zip(
        scan.split(body.parameters), scan.split(op.operands), groups, strict=True
    ):
        parameters += [*own_parameters, *(p for p, _ in group)]
        operands += [*own_operands, *(source for _, source in group)]
    attributes = scan.attributes(
        carried=carried + len(groups[0]), stacked=scan.stacked + len(groups[1])
    )
    region = Block(tuple(parameters), inner.block(outputs).ops)
    carry_results = [companion(op.results[i], "dot") for i in varying]
    step_results = {i: stacked_value(v, scan.trips) for i, v in step_dots.items()}
    carries, steps = op.results[:carried], op.results[carried:]
    results = (*carries, *carry_results, *steps, *step_results.values())
    b.append("scan", operands, results, attributes, (region,))
    found: list[Value | None] = [None] * len(op.results)
    for number, value in zip(varying, carry_results, strict=True):
        found[number] = value
    for number, value in step_results.items():
        found[carried + number] = value
    return found
