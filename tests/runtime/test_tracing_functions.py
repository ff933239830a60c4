"""Every traceable function means what NumPy's means: values, and gradients against finite
differences.

What is recorded is run by the reference interpreter: machine code of every op is compared with
NumPy in tests/llvm/test_llvm_ops.py, and that of traced functions in
tests/runtime/test_runtime_traced.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gradc
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.runtime.tracing.record import record_arrays
from tests.support.traced_cases import CASES

SIZE = 12


def weighed(name: str, arrays: Any) -> Any:
    """A random weighing of the result of one case."""
    function, given = CASES[name]
    with np.errstate(all="ignore"):
        shape = np.shape(function(*given))
    weights = np.random.default_rng(len(name)).standard_normal(shape)
    return np.sum(weights * function(*arrays))


def slope(name: str, number: int, along: Any) -> float:
    """The central difference of one case along one argument."""
    arrays, found = CASES[name][1], []
    for step in (1e-6, -1e-6):
        moved = list(arrays)
        moved[number] = arrays[number] + step * along
        with np.errstate(all="ignore"):
            found.append(float(weighed(name, moved)))
    return (found[0] - found[1]) / 2e-6


NAMES = list(CASES)
GROUPS = [tuple(NAMES[n : n + SIZE]) for n in range(0, len(NAMES), SIZE)]


# NumPy still answers, and warns of, cross products of two numbers.
@pytest.mark.filterwarnings("ignore:Arrays of 2-dimensional vectors:DeprecationWarning")
@pytest.mark.parametrize("names", GROUPS, ids=lambda group: group[0])
def test_traced_functions_mean_what_numpys_mean(names: tuple[str, ...]) -> None:
    """Cases are recorded together, for speed; each is compared by itself."""
    given = {f"{name}/{n}": a for name in names for n, a in enumerate(CASES[name][1])}

    def total(signs: Any, *arrays: Any) -> Any:
        left = iter(arrays)
        rows = ((name, [next(left) for _ in CASES[name][1]]) for name in names)
        return sum(signs[n] * weighed(name, own) for n, (name, own) in enumerate(rows))

    both = gradc.value_and_grad(total, argnums=tuple(range(len(given) + 1)))
    arrays = {"signs": np.ones(len(names)), **given}
    recorded = record_arrays(lambda *a: both(*a)[1], arrays)
    operands = [np.asarray(a) for a in (*arrays.values(), *recorded.captured.values())]
    with np.errstate(all="ignore"):
        values, *found_slopes = run(NumpyArrays(), recorded.function, operands)
    left = iter(found_slopes)
    slopes = {name: [next(left) for _ in CASES[name][1]] for name in names}
    rng = np.random.default_rng(2)
    for n, name in enumerate(names):
        with np.errstate(all="ignore"):
            expected = float(weighed(name, CASES[name][1]))
        assert values[n] == pytest.approx(expected, rel=1e-11, abs=1e-12), name
        for number, found in enumerate(slopes[name]):
            along = rng.standard_normal(found.shape)
            step = slope(name, number, along)
            assert np.vdot(found, along) == pytest.approx(step, rel=1e-6, abs=1e-7), name
