"""A call of a traced function with arrays alone: few calls of Python functions, nothing made twice,
nothing stale.
"""

from __future__ import annotations

import numpy as np

import gradc
from tests.passes.test_pipeline_growth import calls

KEPT = [2.0]


def test_a_call_with_arrays_takes_few_steps() -> None:
    """Counted, not timed: calls of functions, of Python and of C, arrays made included."""
    x, y = np.arange(10.0), np.ones(10)
    one = gradc.value_and_grad(lambda x: np.sum(x**2))
    two = gradc.value_and_grad(lambda x, y: np.sum(x * y), argnums=(0, 1))
    one(x), two(x, y)
    assert calls(lambda: one(x)) <= 24
    assert calls(lambda: two(x, y)) <= 34


def test_what_is_remembered_of_plain_calls_is_compared() -> None:
    function = gradc.grad(lambda x: np.sum(KEPT[0] * x**2))
    x = np.arange(3.0)
    for factor in (2.0, 5.0, 2.0):
        KEPT[0] = factor
        for _ in range(2):
            np.testing.assert_array_equal(function(x), 2 * factor * x)
    # Other shapes and types, and a call inside another recording, between calls that are alike.
    np.testing.assert_array_equal(function(x[:2]), 4 * x[:2])
    assert function(x.astype(np.float32)).dtype == np.float32
    outer = gradc.grad(lambda z: np.sum(function(z) ** 2))
    for _ in range(2):
        np.testing.assert_array_equal(outer(x), 32 * x)
        np.testing.assert_array_equal(function(x), 4 * x)
    first, second = function(x), function(x)
    assert not np.shares_memory(first, second)
