"""Hamiltonian Monte Carlo on a correlated density: moments of the samples are those of the
density.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import gradc

PRECISION = np.linalg.inv(np.array([[1.0, 0.8], [0.8, 1.5]]))


def objective(x: Any) -> Any:
    """The potential: minus the logarithm of the density."""
    gap = x - np.array([1.0, -1.0])
    return 0.5 * gap @ PRECISION @ gap + 0.02 * np.sum(gap**4)


def start() -> tuple[Any, ...]:
    return (np.array([0.3, 0.7]),)


def main() -> None:
    slope, rng = gradc.grad(objective), np.random.default_rng(3)
    x, kept, taken = start()[0], [], 0
    for _ in range(600):
        momentum = rng.standard_normal(2)
        y, p = x, momentum - 0.1 * slope(x)
        for step in range(8):
            y = y + 0.2 * p
            p = p - (0.2 if step < 7 else 0.1) * slope(y)
        change = objective(x) - objective(y) + 0.5 * (momentum @ momentum - p @ p)
        if np.log(rng.random()) < change:
            x, taken = y, taken + 1
        kept.append(x)
    assert taken > 480
    assert np.abs(np.mean(kept, axis=0) - [1.0, -1.0]).max() < 0.2


if __name__ == "__main__":
    main()
