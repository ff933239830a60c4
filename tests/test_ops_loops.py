"""Loop forms of all ops: every sample and every derivative program, lowered to kernels, verified, run by the reference executor.

The executor runs the Plan over a poisoned arena, so reading what was never written shows as NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from gradc.ir.core import Function
from gradc.ir.interpret import run
from gradc.ir.plan_execute import execute_plan
from gradc.ir.verify import verify_function
from gradc.ir.verify_loops import violations_of
from gradc.passes.place import place
from gradc.passes.to_loops import to_loops
from tests.op_cases import ARRAYS, CASES, SMOOTH, Array, Case
from tests.test_ops_derivatives import vjp_function


def compare(function: Function, operands: Sequence[Array]) -> None:
    """The lowered function gives what the interpreter gives."""
    verify_function(function, static=True)
    expected = run(ARRAYS, function, operands)
    plan = place(to_loops(function))
    assert [str(v) for v in violations_of(plan.kernels)] == []
    found = execute_plan(plan, operands, poison=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_lowered_op(case: Case) -> None:
    compare(case.function(), case.operands(21))


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_lowered_vjp(case: Case) -> None:
    function, present = vjp_function(case)
    if any(present):
        shape = case.function().block.outputs[0].type.static_shape
        ct = np.random.default_rng(22).standard_normal(shape)
        compare(function, [*case.operands(22), ct])
