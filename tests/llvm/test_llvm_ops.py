"""Every op at every sample of its definition, through loops to machine code, against its evaluation
in NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gradc.ir.domains import interpret
from gradc.ir.ops.registry import Control
from gradc.ir.tensor.core import DType
from gradc.passes.lower.plan import to_loops
from gradc.passes.place.place import place
from gradc.runtime.native.load import compile_plan
from tests.support.op_cases import ARRAYS, CASES, Case

Array = npt.NDArray[Any]
CHOSEN = [case for case in CASES if not isinstance(case.definition.loop, Control)]


@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_machine_code_gives_the_value_of_the_op(case: Case) -> None:
    function = case.function()
    plan = place(to_loops(function))
    operands = case.operands(seed=4)
    with np.errstate(all="ignore"):
        (truth,) = interpret.run(ARRAYS, function, operands)
    out = np.full(np.shape(truth), 1, np.asarray(truth).dtype)
    compile_plan(plan, threads=1, cache=False).call([*operands, out])
    dtype = function.block.outputs[0].type.dtype
    if not dtype.is_float:
        np.testing.assert_array_equal(out, truth)
        return
    tolerance = {DType.F64: 1e-13, DType.F32: 2e-6}[dtype]
    scale = float(np.max(np.abs(truth), initial=1.0, where=np.isfinite(truth)))
    np.testing.assert_allclose(out, truth, rtol=tolerance, atol=tolerance * scale)
