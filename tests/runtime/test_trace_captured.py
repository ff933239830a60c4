"""Arrays that a recorded function reads: the same numbers are one operand of the program."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradc.runtime.tracing.record import record_arrays
from tests.support.interpreted import evaluated

M = np.arange(6.0).reshape(2, 3)
TWIN = M.copy()


def captured(function: Any) -> list[Any]:
    return list(record_arrays(function, {"x": np.ones(3)}, is_loss=True).captured.values())


def test_a_part_taken_again_is_the_same() -> None:
    def loss(x: Any) -> Any:
        for _ in range(5):
            x = M.T @ (M @ x) + M[0] * M[1]
        return np.sum(x)

    assert len(captured(loss)) == 3  # M, M.T, and the product
    value = evaluated(loss, [np.ones(3)], is_loss=True)[0]
    assert value == loss(np.ones(3))


def test_arrays_of_the_functions_own_that_are_equal_are_one() -> None:
    def loss(x: Any) -> Any:
        for n in range(4):
            x = np.eye(3) @ x + np.arange(3) * x + np.eye(3, k=n % 2) @ x
        return np.sum(x)

    assert len(captured(loss)) == 3
    assert evaluated(loss, [np.ones(3)], is_loss=True)[0] == loss(np.ones(3))


def test_arrays_that_somebody_has_stay_apart() -> None:
    kept: list[Any] = []

    def loss(x: Any) -> Any:
        kept.append(np.ones(3))
        kept.append(np.ones(3))
        return np.sum(M * x + TWIN * x) + np.sum(kept[-1] * kept[-2] * x)

    found = captured(loss)
    assert any(item is M for item in found)
    assert any(item is TWIN for item in found)
