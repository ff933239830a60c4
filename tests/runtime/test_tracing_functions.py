"""Every traceable function means what NumPy's means: values, and gradients against finite
differences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gradc
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
    """Cases are compiled together, for speed; each is compared by itself."""
    given = {name: list(CASES[name][1]) for name in names}

    def total(arrays: dict[str, list[Any]], signs: Any) -> Any:
        return sum(signs[n] * weighed(name, arrays[name]) for n, name in enumerate(names))

    both = gradc.value_and_grad(total, argnums=(0, 1))
    _, (slopes, values) = both(given, np.ones(len(names)))
    rng = np.random.default_rng(2)
    for n, name in enumerate(names):
        with np.errstate(all="ignore"):
            expected = float(weighed(name, CASES[name][1]))
        assert values[n] == pytest.approx(expected, rel=1e-11, abs=1e-12), name
        for number, found in enumerate(slopes[name]):
            along = rng.standard_normal(found.shape)
            step = slope(name, number, along)
            assert np.vdot(found, along) == pytest.approx(step, rel=1e-6, abs=1e-7), name
