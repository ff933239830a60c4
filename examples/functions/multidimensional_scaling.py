"""Multidimensional scaling: places of cities from the distances between them."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

import gradc

COUNT = 9


def distances(places: Any) -> Any:
    gaps = places[:, None, :] - places[None, :, :]
    return np.sqrt(np.sum(gaps**2, axis=2) + np.eye(COUNT))


def objective(flat: Any, wanted: Any) -> Any:
    """The stress."""
    return np.sum((distances(np.reshape(flat, (COUNT, 2))) - wanted) ** 2)


def start() -> tuple[Any, ...]:
    rng = np.random.default_rng(5)
    return rng.standard_normal(2 * COUNT), distances(rng.uniform(0, 3, (COUNT, 2)))


def main() -> None:
    flat, wanted = start()
    g = gradc.value_and_grad(objective)
    best = min(
        minimize(g, flat + k, args=(wanted,), jac=True, method="BFGS").fun
        for k in np.random.default_rng(6).standard_normal((6, 2 * COUNT))
    )
    assert best < 1e-8, best


if __name__ == "__main__":
    main()
