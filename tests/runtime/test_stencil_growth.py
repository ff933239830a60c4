"""Chains of stencils: every step reads the one before it at several indices, and nothing may be
computed again so often that the work grows faster than the program. Calls and statements are
counted, not seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest

import gradc
import gradc.runtime.tracing.tables
from gradc.ir.loop.kernel import For, Gemm, Kernel, Stmt
from gradc.ir.plan.plan import Launch, Plan
from gradc.ir.tensor.core import Function
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.pipeline import Options, run_pipeline
from gradc.runtime.native.compile import compile_options, pipeline_options
from gradc.runtime.tracing.record import RESULT, record_arrays
from tests.passes.test_pipeline_growth import MOST, calls

SIZE = 24
Step = Callable[[Any], Any]


def rolled(u: Any) -> Any:
    return u + 0.1 * (np.roll(u, 1) - 2 * u + np.roll(u, -1))


def sliced(u: Any) -> Any:
    inner = u[1:-1] + 0.1 * (u[2:] - 2 * u[1:-1] + u[:-2])
    return np.concatenate([u[:1], inner, u[-1:]])


def on_a_plane(u: Any) -> Any:
    u = u.reshape(4, 6)
    sides = np.roll(u, 1, 0) + np.roll(u, -1, 0) + np.roll(u, 1, 1) + np.roll(u, -1, 1)
    return (u + 0.1 * (sides - 4 * u)).reshape(SIZE)


def bent(u: Any) -> Any:
    return np.tanh(u + 0.1 * (np.roll(u, 1) - np.roll(u, -1)))


def only_moved(u: Any) -> Any:
    return np.roll(u, 5)


def turned(u: Any) -> Any:
    return 0.5 * u[::-1] + 0.1 * u * u


STEPS = (rolled, sliced, on_a_plane, bent, only_moved, turned)


def chain(step: Step, count: int) -> Step:
    def function(u: Any) -> Any:
        for _ in range(count):
            u = step(u)
        return np.sum(u**2)

    return function


def of_rows(step: Step, count: int) -> Step:
    """The same on what a reduction has made, so that the steps follow it in its kernel."""

    def function(u: Any) -> Any:
        v = np.sum(np.reshape(u, (SIZE, 1)) * np.linspace(0.5, 1.5, 20), axis=1)
        return chain(step, count)(v)

    return function


def traced(function: Step) -> tuple[Function, Options]:
    """The program of a NumPy function, and how its gradient is compiled."""
    x = np.random.default_rng(0).normal(size=SIZE)
    made = record_arrays(function, {"u": x}, is_loss=True).function
    derive = partial(value_and_grad, wrt=["u"])
    assert made.results[0].name == RESULT
    return made, pipeline_options(derive, compile_options())


def planned(function: Step) -> Plan:
    return run_pipeline(*traced(function)).plan


def statements(body: Iterable[Stmt]) -> int:
    total = 0
    for statement in body:
        total += 1
        if isinstance(statement, For):
            total += statements(statement.body)
        elif isinstance(statement, Gemm):
            total += statements(statement.epilogue)
    return total


def written(plan: Plan) -> int:
    """Statements of the kernels of all launches together: a kernel counts as often as it is
    launched.
    """

    def of(kernel: Kernel) -> int:
        return statements(kernel.body)

    return sum(of(plan.kernels[s.kernel]) for s in plan.steps if isinstance(s, Launch))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step.__name__))
def test_chained_stencils_are_planned_in_linear_time(step: Step) -> None:
    run_pipeline(*traced(chain(step, 3)))
    counts, sizes = [], []
    # A chain of nothing but moves becomes one view as long as it is short.
    few, many = (72, 144) if step is only_moved else (12, 36)
    for count in (few, many):
        function, options = traced(chain(step, count))
        sizes.append(len(function.block.body))
        counts.append(calls(partial(run_pipeline, function, options)))
    assert math.log(counts[1] / counts[0]) / math.log(sizes[1] / sizes[0]) < MOST


@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step.__name__))
@pytest.mark.parametrize("context", (chain, of_rows), ids=("alone", "of rows"))
def test_a_step_is_computed_a_bounded_number_of_times(
    step: Step, context: Callable[[Step, int], Step]
) -> None:
    """So many statements, per op of the traced program, are carried out for one element, however
    long the chain.
    """
    for count in (4, 24):
        function, _ = traced(context(step, count))
        assert written(planned(context(step, count))) < 40 * len(function.block.body) + 200


@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step.__name__))
@pytest.mark.parametrize("context", (chain, of_rows), ids=("alone", "of rows"))
def test_gradients_of_chained_stencils(step: Step, context: Callable[[Step, int], Step]) -> None:
    """Value against NumPy, gradient against a central difference along a random direction."""
    random = np.random.default_rng(7)
    u, direction = random.normal(size=(2, SIZE)) * 0.3
    for count in (2, 7):
        function = context(step, count)
        value, gradient = gradc.value_and_grad(function)(u)
        np.testing.assert_allclose(value, function(u), rtol=1e-12)
        h = 1e-5
        slope = (function(u + h * direction) - function(u - h * direction)) / (2 * h)
        np.testing.assert_allclose(gradient @ direction, slope, rtol=1e-6, atol=1e-9)


MODEL = """
dim N = 24, L = 3
layer heat(N) {
    apply(u: float[N]) -> float[N] {
        left = concat([u[1:], u[:1]], axis = 0)
        right = concat([u[-1:], u[:-1]], axis = 0)
        return u + 0.1 * (left - 2 * u + right)
    }
}
model rod(u: float[N]) -> float {
    use steps = heat(N) * L
    h = u
    for s in steps { h = s(h) }
    return sum(h^2)
}
"""


def test_stencils_in_the_language_are_planned_in_linear_time() -> None:
    counts = []
    for layers in (2, 10, 30):
        net = gradc.loads(MODEL, dims={"L": layers})
        function = net.lower().function
        options = pipeline_options(net.gradient_of("inputs"), compile_options())
        counts.append(calls(partial(run_pipeline, function, options)))
    assert math.log(counts[2] / counts[1]) / math.log(3) < MOST
