"""A cantilever beam: thickness along it that bends least under a load at the end, for a given
weight.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

import gradc

PIECES = 8
LENGTH = 1.0 / PIECES
ELEMENT = (
    np.array(
        [
            [12.0, 6 * LENGTH, -12.0, 6 * LENGTH],
            [6 * LENGTH, 4 * LENGTH**2, -6 * LENGTH, 2 * LENGTH**2],
            [-12.0, -6 * LENGTH, 12.0, -6 * LENGTH],
            [6 * LENGTH, 2 * LENGTH**2, -6 * LENGTH, 4 * LENGTH**2],
        ]
    )
    / LENGTH**3
)
PLACE = np.zeros((PIECES, 4, 2 * PIECES + 2))
for _n in range(PIECES):
    PLACE[_n, :, 2 * _n : 2 * _n + 4] = np.eye(4)
PLACE = PLACE[:, :, 2:]  # the first end is held
LOAD = np.eye(2 * PIECES)[-2]


def bent(logs: Any) -> Any:
    """Deflections and turns of the free nodes under a unit load at the end."""
    thickness = np.exp(logs)
    thickness = thickness / np.mean(thickness)
    stiffness = np.einsum("n,nai,ab,nbj->ij", thickness**3, PLACE, ELEMENT, PLACE)
    return np.linalg.solve(stiffness, LOAD)


def objective(logs: Any) -> Any:
    return bent(logs)[-2]


def start() -> tuple[Any, ...]:
    return (0.1 * np.arange(PIECES),)


def main() -> None:
    assert abs(objective(np.zeros(PIECES)) - 1 / 3) < 1e-9  # P L^3 / (3 E I)
    found = minimize(gradc.value_and_grad(objective), start()[0], jac=True, method="BFGS")
    thickness = np.exp(found.x - found.x[-1])
    assert found.fun < 0.22
    assert np.all(np.diff(thickness) < 0), thickness


if __name__ == "__main__":
    main()
