"""A cloth of masses and springs, hung at two corners: its shape at rest by minimising its
energy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

import gradc

SIDE = 6
WEIGHT, STIFFNESS = 0.02, 20.0
GRID = np.arange(SIDE) / (SIDE - 1.0)
FLAT = np.stack([*np.meshgrid(GRID, GRID), np.zeros((SIDE, SIDE))], axis=2)
HELD = np.zeros((SIDE, SIDE, 1))
HELD[0, 0] = HELD[0, -1] = 1.0


def stretch(gaps: Any) -> Any:
    length = np.sqrt(np.sum(gaps**2, axis=-1))
    return 0.5 * STIFFNESS * np.sum((length - 1 / (SIDE - 1)) ** 2)


def objective(flat: Any) -> Any:
    """Springs along rows and columns, and height."""
    moved = np.reshape(flat, (SIDE, SIDE, 3))
    places = HELD * FLAT + (1 - HELD) * moved
    springs = stretch(places[1:] - places[:-1]) + stretch(places[:, 1:] - places[:, :-1])
    return springs + WEIGHT * np.sum(places[:, :, 2])


def start() -> tuple[Any, ...]:
    return (np.ravel(FLAT + 0.02 * np.random.default_rng(12).standard_normal(FLAT.shape)),)


def main() -> None:
    g = gradc.value_and_grad(objective)
    found = minimize(g, start()[0], jac=True, method="L-BFGS-B", options={"maxiter": 3000})
    places = HELD * FLAT + (1 - HELD) * np.reshape(found.x, FLAT.shape)
    assert np.abs(g(found.x)[1]).max() < 1e-3
    assert places[-1, :, 2].max() < -0.5  # the free edge hangs


if __name__ == "__main__":
    main()
