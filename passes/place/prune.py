"""Dropping the tensors and kernels of a Plan that nothing uses any more: copies and stores that
sharing made needless.

Invariants: steps and ports mean the same; roots of tensors that stay, stay. Non-goals: anything
that moves bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from gradc.ir.plan.plan import Launch, Plan, Step, Tensor


def prune(plan: Plan) -> Plan:
    """``plan`` without untouched tensors and kernels, the others renumbered in order."""
    plan = _prune_kernels(plan)
    kept = set(_touched(plan.steps)) | {port.tensor for port in plan.ports}
    for number in sorted(kept):
        root = plan.tensors[number].root
        while root is not None:
            kept.add(root)
            root = plan.tensors[root].root
    if len(kept) == len(plan.tensors):
        return plan
    order = sorted(kept)
    renumbered = {old: new for new, old in enumerate(order)}
    return replace(
        plan,
        tensors=tuple(_renamed(plan.tensors[old], renumbered) for old in order),
        ports=tuple(replace(p, tensor=renumbered[p.tensor]) for p in plan.ports),
        steps=tuple(_renumbered(step, renumbered) for step in plan.steps),
    )


def _prune_kernels(plan: Plan) -> Plan:
    order = sorted(set(_launched(plan.steps)))
    if len(order) == len(plan.kernels):
        return plan
    renumbered = {old: new for new, old in enumerate(order)}
    return replace(
        plan,
        kernels=tuple(plan.kernels[old] for old in order),
        steps=tuple(_with_kernels(step, renumbered) for step in plan.steps),
    )


def _launched(steps: Sequence[Step]) -> Iterator[int]:
    for step in steps:
        if isinstance(step, Launch):
            yield step.kernel
        else:
            yield from _launched(step.body)


def _with_kernels(step: Step, numbers: Mapping[int, int]) -> Step:
    if isinstance(step, Launch):
        return replace(step, kernel=numbers[step.kernel])
    return replace(step, body=tuple(_with_kernels(s, numbers) for s in step.body))


def _touched(steps: Sequence[Step]) -> Iterator[int]:
    for step in steps:
        if isinstance(step, Launch):
            yield from (argument.tensor for argument in step.arguments)
        else:
            if step.counter_cell is not None:
                yield step.counter_cell
            yield from _touched(step.body)


def _renamed(tensor: Tensor, numbers: Mapping[int, int]) -> Tensor:
    return tensor if tensor.root is None else replace(tensor, root=numbers[tensor.root])


def _renumbered(step: Step, numbers: Mapping[int, int]) -> Step:
    if isinstance(step, Launch):
        arguments = tuple(replace(a, tensor=numbers[a.tensor]) for a in step.arguments)
        return replace(step, arguments=arguments)
    cell = None if step.counter_cell is None else numbers[step.counter_cell]
    return replace(step, body=tuple(_renumbered(s, numbers) for s in step.body), counter_cell=cell)
