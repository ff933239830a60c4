"""Recomputation over time meets its theory: binomial, counted on Plans that are run. The square
root along chains is measured in tests/passes/test_rematerialise.py.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from gradc.ir.loop.text import print_kernel
from gradc.ir.plan.execute import execute_plan
from gradc.ir.plan.plan import Launch, Plan, Step
from gradc.passes.inspect.check import check_plan
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.recompute.binomial import forward_steps
from gradc.passes.recompute.rematerialise import Policy
from tests.passes.test_rematerialise import gradient
from tests.passes.test_rematerialise_levels import chain
from tests.support.ad_programs import draw


@cache
def fewest(steps: int, slots: int) -> int:
    """The least number of forward steps that reverses ``steps``, by trying every place for the next
    state.
    """
    if steps <= 1:
        return 0
    if slots == 1:
        return steps * (steps - 1) // 2
    return min(m + fewest(m, slots) + fewest(steps - m, slots - 1) for m in range(1, steps))


@pytest.mark.parametrize("slots", range(1, 11))
def test_every_small_case_is_the_optimum(slots: int) -> None:
    assert [forward_steps(n, slots) for n in range(61)] == [fewest(n, slots) for n in range(61)]


def runs(plan: Plan, mark: str) -> int:
    """How often the Plan launches a kernel that computes ``mark``; loops count once per trip."""
    marked = [mark in print_kernel(kernel) for kernel in plan.kernels]

    def count(steps: tuple[Step, ...]) -> int:
        total = 0
        for step in steps:
            if isinstance(step, Launch):
                total += marked[step.kernel]
            else:
                total += step.trips * count(step.body)
        return total

    return count(plan.steps)


@pytest.mark.parametrize(("steps", "slots"), [(12, 1), (21, 2), (30, 5), (36, 10)])
def test_plans_launch_as_many_steps_as_the_optimum(steps: int, slots: int) -> None:
    """Every forward step is a launch: those run again, and each once more where it is reversed. And
    the gradient is right.
    """
    f = chain(steps)
    options = Options(derivative=gradient(("h", "w")), verify=0)
    plain = run_pipeline(f, options).plan
    limited = Options(derivative=gradient(("h", "w")), verify=0, policy=Policy(1, slots=slots))
    plan = run_pipeline(f, limited).plan
    assert check_plan(plan) == ()
    assert runs(plan, "tanh") == forward_steps(steps, slots) + steps
    assert forward_steps(steps, slots) == fewest(steps, slots)
    arguments = [a.astype(np.float32) for a in draw(f, steps)]
    for a, c in zip(execute_plan(plain, arguments), execute_plan(plan, arguments), strict=True):
        np.testing.assert_array_equal(a, c)
