"""Dropping the tensors and kernels of a Plan that nothing uses any more: copies and stores that
sharing made needless.

Invariants: steps and ports mean the same; roots of tensors that stay, stay. Non-goals: anything
that moves bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gradc.ir.plan.plan import Launch, Plan, Tensor


def prune(plan: Plan) -> Plan:
    """``plan`` without untouched tensors and kernels, the others renumbered in order."""
    plan = _prune_kernels(plan)
    kept = {above for number in plan.touched for above in plan.chain(number)}
    if len(kept) == len(plan.tensors):
        return plan
    order = sorted(kept)
    renumbered = {old: new for new, old in enumerate(order)}

    def changed(launch: Launch) -> Launch:
        arguments = tuple([a.renamed(renumbered) for a in launch.arguments])
        scratch = None if launch.scratch is None else renumbered[launch.scratch]
        return launch.on(arguments, scratch)

    return replace(
        plan.map(changed, renumbered.__getitem__),
        tensors=tuple(_renamed(plan.tensors[old], renumbered) for old in order),
        ports=tuple(replace(p, tensor=renumbered[p.tensor]) for p in plan.ports),
    )


def _prune_kernels(plan: Plan) -> Plan:
    order = sorted({launch.kernel for launch in plan.launches})
    if len(order) == len(plan.kernels):
        return plan
    renumbered = {old: new for new, old in enumerate(order)}
    kernels = tuple(plan.kernels[old] for old in order)
    changed = plan.map(lambda launch: replace(launch, kernel=renumbered[launch.kernel]))
    return replace(changed, kernels=kernels)


def _renamed(tensor: Tensor, numbers: Mapping[int, int]) -> Tensor:
    return tensor if tensor.root is None else replace(tensor, root=numbers[tensor.root])
