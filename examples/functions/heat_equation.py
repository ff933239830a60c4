"""Heat in a rod: the temperatures at the beginning, found from those measured at the end."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

import gradc

POINTS, STEPS, R = 32, 40, 0.4


def later(u: Any) -> Any:
    """Explicit steps; the ends are kept at 0."""
    for _ in range(STEPS):
        left = np.concatenate([np.zeros(1), u[:-1]])
        right = np.concatenate([u[1:], np.zeros(1)])
        u = u + R * (left - 2 * u + right)
    return u


def objective(u: Any, measured: Any) -> Any:
    return np.sum((later(u) - measured) ** 2) + 1e-6 * np.sum(u**2)


def truth() -> Any:
    x = np.linspace(0, 1, POINTS + 2)[1:-1]
    return np.sin(np.pi * x) + 0.5 * np.sin(2 * np.pi * x)


def start() -> tuple[Any, ...]:
    return np.full(POINTS, 0.1), later(truth())


def main() -> None:
    u, measured = start()
    g = gradc.value_and_grad(objective)
    found = minimize(g, u, args=(measured,), jac=True, method="L-BFGS-B", tol=1e-14)
    assert np.abs(found.x - truth()).max() < 0.05


if __name__ == "__main__":
    main()
