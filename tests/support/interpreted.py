"""Functions of NumPy's recorded and run by the reference interpreter, which takes a tenth of the
time of compiling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import gradc.runtime.tracing.tables  # noqa: F401  (fills the tables of traceable functions)
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.runtime.tracing.record import record_arrays


def evaluated(function: Callable[..., Any], given: Any, is_loss: bool = False) -> list[Any]:
    """The function recorded, differentiated where it is a loss, and run by the interpreter."""
    arrays = [np.asarray(x, np.float64) for x in given]
    names = [f"a{n}" for n in range(len(arrays))]
    recorded = record_arrays(function, dict(zip(names, arrays, strict=True)), is_loss=is_loss)
    program = recorded.function
    if is_loss:
        program = value_and_grad(program, range(len(arrays)))
    with np.errstate(all="ignore"):
        return list(run(NumpyArrays(), program, [*arrays, *recorded.captured.values()]))
