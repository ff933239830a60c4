"""Every op at every sample of its definition, through loops to machine code, against its evaluation
in NumPy.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gradc.ir.domains import interpret
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import Control
from gradc.ir.tensor.core import DType
from gradc.passes.lower.plan import to_loops
from gradc.passes.place.place import place
from gradc.runtime.native.load import compile_plan
from tests.support.op_cases import ARRAYS, CASES, Case, close

Array = npt.NDArray[Any]
CHOSEN = [case for case in CASES if not isinstance(case.definition.loop, Control)]
GROUPS = [list(cases) for _, cases in groupby(CHOSEN, key=lambda case: case.definition.name)]


@pytest.mark.parametrize("cases", GROUPS, ids=lambda cases: str(cases[0].definition.name))
def test_machine_code_gives_the_value_of_the_op(cases: list[Case]) -> None:
    """All samples of an op are one program, for speed: nothing is fused, each has its kernels."""
    b = Builder()
    function = close(b, [case.emit(b).results[0] for case in cases])
    plan = place(to_loops(function))
    operands = [operand for case in cases for operand in case.operands(seed=4)]
    with np.errstate(all="ignore"):
        truths = interpret.run(ARRAYS, function, operands)
    found = [np.full(np.shape(truth), 1, np.asarray(truth).dtype) for truth in truths]
    compile_plan(plan, threads=1, cache=False).call([*operands, *found])
    for case, out, truth in zip(cases, found, truths, strict=True):
        agrees(out, truth, case.function().block.outputs[0].type.dtype)


def agrees(out: Array, truth: Any, dtype: DType) -> None:
    """The same numbers, up to a few roundings where they are floats."""
    if not dtype.is_float:
        np.testing.assert_array_equal(out, truth)
        return
    tolerance = {DType.F64: 1e-13, DType.F32: 2e-6}[dtype]
    scale = float(np.max(np.abs(truth), initial=1.0, where=np.isfinite(truth)))
    np.testing.assert_allclose(out, truth, rtol=tolerance, atol=tolerance * scale)
