"""The cluster of seven argon atoms with least Lennard-Jones energy: a pentagonal bipyramid at
-16.505384.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

import gradc

ATOMS = 7
I, J = np.triu_indices(ATOMS, 1)


def objective(flat: Any) -> Any:
    """The energy in units of the well's depth, distances in units of sigma."""
    places = np.reshape(flat, (ATOMS, 3))
    squares = np.sum((places[I] - places[J]) ** 2, axis=1)
    sixth = 1 / squares**3
    return 4 * np.sum(sixth**2 - sixth)


def start() -> tuple[Any, ...]:
    turn = 2 * np.pi * np.arange(5) / 5
    ring = np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
    places = np.concatenate([ring, [[0, 0, 0.6], [0, 0, -0.6]]])
    return (1.05 * np.ravel(places) + 0.05 * np.random.default_rng(7).standard_normal(21),)


def main() -> None:
    found = minimize(gradc.value_and_grad(objective), start()[0], jac=True, method="BFGS")
    assert abs(found.fun + 16.505384) < 1e-5, found.fun


if __name__ == "__main__":
    main()
