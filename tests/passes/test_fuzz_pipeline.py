"""Random programs and their gradients through the whole pipeline, checked at every step by the
reference interpreter.

The pipeline runs at its strictest: every step verified, its text read back, ops reordered before
it. What the last Plan computes over a poisoned arena is compared with the interpreter on the
program as it was written. ``python -m tests.support.alarms`` proves any number of such
compilations.
"""

from __future__ import annotations

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.plan.execute import execute_plan
from gradc.ir.tensor.core import DType, Function
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.pipeline import Options, run_pipeline
from tests.support.generate import Program, random_program


def compiled_like_the_source(program: Program, tolerance: float) -> None:
    """Value and gradients of ``program``, compiled, against the interpreter in f64."""

    def derivative(function: Function) -> Function:
        return value_and_grad(function, program.differentiable)

    wide = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in program.inputs]
    expected = run(NumpyArrays(DType.F64), derivative(program.function), wide)
    plan = run_pipeline(program.function, Options(derivative=derivative, verify=3)).plan
    found = execute_plan(plan, list(program.inputs), poison=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.isfinite(theirs).all(), "the generator made an unsafe program"
        scale = max(1.0, float(np.abs(theirs).max(initial=0.0)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("seed", range(12))
def test_double(seed: int) -> None:
    program = random_program(seed, steps=8 + seed % 8, regions=seed % 3 == 0, images=seed % 4 == 0)
    compiled_like_the_source(program, 1e-10)


@pytest.mark.parametrize("seed", range(100, 106))
def test_single(seed: int) -> None:
    """Smooth programs: rounding cannot decide a branch."""
    program = random_program(seed, steps=8, dtype=DType.F32, smooth=True, regions=seed % 2 == 0)
    compiled_like_the_source(program, 5e-5)
