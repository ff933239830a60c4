"""Machine code of fused plans: what the reference executor gives, the same bits fused or not, for
one thread or two."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradc.ir.plan.execute import execute_plan
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import DType, Function
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.lower.plan import to_loops
from gradc.passes.place.place import place
from gradc.runtime.native.arrays import NUMPY_DTYPE
from gradc.runtime.native.load import compile_plan
from tests.support.generate import random_program
from tests.support.loops_models import (
    arguments,
    channel_model,
    gradient,
    lstm,
    mlp,
    planned,
    row_model,
    tidy,
    transformer,
)

Values = list[NDArray[Any]]


def call(plan: Plan, given: Values, threads: int = 1) -> Values:
    """The results of ``plan`` in machine code; results start as NaN."""
    function = compile_plan(plan, threads=threads, cache=False)
    arrays: Values = []
    inputs = iter(given)
    for port in plan.ports:
        dtype = np.dtype(NUMPY_DTYPE[port.dtype])
        if port.direction == "out":
            arrays.append(np.full(port.shape, np.nan if port.dtype.is_float else 0, dtype))
        else:
            arrays.append(np.array(next(inputs), dtype, order="C").reshape(port.shape))
    function.call(arrays)
    return [a for a, port in zip(arrays, plan.ports, strict=True) if port.direction != "in"]


MODELS = {
    "channels": gradient(channel_model(6, 5, 9, 16), inputs=True),
    "row": gradient(row_model(1024, 96), inputs=True),
    "mlp": gradient(mlp(64, [64, 128, 64, 10])),
    "transformer": gradient(transformer(1, 2, 16, 32, 4, 48)),
    "lstm": gradient(lstm(9, 4, 5, 6)),
    # Long enough that weight gradients are summed in a loop of their own.
    "long lstm": gradient(lstm(40, 3, 4, 5)),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_models(name: str) -> None:
    function = MODELS[name]
    given: Values = list(arguments(function, 7))
    plan = planned(function)
    found = call(plan, given)
    for ours, theirs in zip(found, execute_plan(plan, given), strict=True):
        scale = max(float(np.abs(theirs).max(initial=0.0)), 1e-30)
        assert float(np.abs(ours - theirs).max(initial=0.0)) <= 2e-5 * scale
    for other in (call(plan, given, threads=2), call(place(to_loops(function)), given)):
        for ours, theirs in zip(found, other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def _gradient(seed: int) -> tuple[Function, Values]:
    program = random_program(
        seed, steps=8 + seed % 11, dtype=DType.F32, regions=seed % 2 == 0, images=seed % 4 == 1
    )
    return tidy(value_and_grad(program.function, program.differentiable)), list(program.inputs)


@pytest.mark.parametrize("seed", range(6, 12))
def test_random_gradients_have_the_same_bits_fused_or_not(seed: int) -> None:
    function, given = _gradient(seed)
    together = call(planned(function), given)
    apart = call(place(to_loops(function)), given)
    for ours, theirs in zip(together, apart, strict=True):
        np.testing.assert_array_equal(ours, theirs)
