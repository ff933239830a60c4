"""What ranks exchange is on its way while they compute, and nobody touches it meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

import gradc
from gradc.ir.loop.kernel import Exchange
from gradc.ir.plan.plan import Plan, Step
from gradc.ir.plan.verify import PlanError
from gradc.passes.inspect.check import check_plan

TEXT = """
dim B, D = 24, H = 200
model m(x: float[B, D], y: int[B]) -> float {
    use one = dense(D, H)
    use two = dense(H, H)
    use three = dense(H, 3)
    return mean(cross_entropy(three(tanh(two(tanh(one(x))))), y))
}
"""


@cache
def planned(budget: int | None = None) -> Plan:
    net = gradc.loads(TEXT)
    step = net.train_step("sgd(lr=0.1)", ranks=2, accumulate=2, budget=budget, threads=1)
    return step.plan({"B": 16}).plan


def exchange_of(plan: Plan, step: Step) -> Exchange | None:
    body = () if step.launch is None else plan.kernels[step.launch.kernel].body
    return next((s for s in body if isinstance(s, Exchange)), None)


def flights(plan: Plan) -> list[tuple[tuple[Step, ...], int, int]]:
    """Every list of steps in which an exchange begins, and where it begins and ends there."""
    lists = [plan.steps, *(r.body for step in plan.steps for r, _ in step.repeats())]
    found = []
    for steps in lists:
        for first, step in enumerate(steps):
            begun = exchange_of(plan, step)
            if begun is None or begun.ends or step.launch is None:
                continue
            at = step.launch.arguments[-1]
            last = next(
                n
                for n, other in enumerate(steps[first + 1 :], first + 1)
                if other.launch is not None and at in other.launch.arguments
            )
            assert (ended := exchange_of(plan, steps[last])) is not None and ended.ends
            found.append((steps, first, last))
    return found


def products_during(plan: Plan) -> int:
    """Large products that run while something is on its way."""
    large = {n for n, k in enumerate(plan.kernels) if k.flops > 100_000}
    return sum(
        step.launch is not None and step.launch.kernel in large
        for steps, first, last in flights(plan)
        for step in steps[first:last]
    )


def test_exchanges_are_on_their_way_while_the_reverse_sweep_runs() -> None:
    plan = planned()
    assert check_plan(plan) == ()
    assert len(flights(plan)) == len(list(plan.exchanges())) >= 5
    assert products_during(plan) >= 2


def test_a_budget_without_room_for_what_is_on_its_way_is_kept() -> None:
    """The peak of exchanges that are waited for where they begin, and no byte less."""
    free = planned()
    with pytest.raises(gradc.DiagnosticError, match="smallest peak found") as refused:
        planned(1000)
    (told,) = refused.value.diagnostics
    least = int((told.help or "").split()[1])
    plan = planned(least)
    assert plan.peak_bytes == least < free.peak_bytes
    assert products_during(plan) < products_during(free)
    assert check_plan(plan) == ()
    assert planned(free.peak_bytes).steps == free.steps


def _body(plan: Plan, change: Callable[[list[Step]], None]) -> Plan:
    """``plan`` with its steps, or those of the loop in which ranks exchange, changed."""
    steps = flights(plan)[0][0]
    changed = list(steps)
    change(changed)
    if steps is plan.steps:
        return replace(plan, steps=tuple(changed))
    outer = [s.with_body(lambda _: tuple(changed)) if s.body is steps else s for s in plan.steps]
    return replace(plan, steps=tuple(outer))


def _broken(fault: str) -> Plan:
    plan = planned()
    steps, first, last = next(f for f in flights(plan) if f[2] - f[1] > 2)
    begin, during = steps[first].launch, steps[first + 1].launch
    assert begin is not None and during is not None
    number = begin.arguments[-1].tensor

    def change(found: list[Step]) -> None:
        if fault == "is not awaited":
            del found[last:]
        elif fault == "is awaited twice":
            found.insert(last, found[last])
        elif fault == "is awaited first":
            found.insert(first, found.pop(last))
        elif fault == "is begun twice":
            found.insert(first, found[first])
        elif fault == "is read too early":
            reader = next(
                s
                for s in found[last + 1 :]
                if s.launch is not None and number in [a.tensor for a in s.launch.arguments]
            )
            found.insert(last, reader)
        elif fault == "is scratch":
            found[first + 1] = replace(during, scratch=number)

    if fault == "has another's place":
        other = next(a.tensor for a in during.arguments if plan.tensors[a.tensor].space == "arena")
        moved = replace(plan.tensors[other], offset=plan.tensors[plan.root(number)].offset)
        tensors = (*plan.tensors[:other], moved, *plan.tensors[other + 1 :])
        return replace(plan, tensors=tensors)
    return _body(plan, change)


@pytest.mark.parametrize(
    "fault, told",
    [
        ("is not awaited", "does not end"),
        ("is awaited twice", "has not begun"),
        ("is awaited first", "has not begun"),
        ("is begun twice", "on its way"),
        ("is read too early", "on its way"),
        ("is scratch", "on its way"),
        ("has another's place", "on its way"),
    ],
)
def test_what_is_on_its_way_is_nobodys(fault: str, told: str) -> None:
    plan = _broken(fault)
    with pytest.raises(PlanError, match=told):
        plan.verify()
    assert check_plan(plan)
