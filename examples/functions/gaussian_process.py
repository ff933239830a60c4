"""Gaussian process regression: length scale, amplitude and noise by the gradient of the marginal
likelihood.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

import gradc


def kernel(a: Any, b: Any, logs: Any) -> Any:
    gaps = (a[:, None] - b[None, :]) / np.exp(logs[0])
    return np.exp(2 * logs[1]) * np.exp(-0.5 * gaps**2)


def objective(logs: Any, x: Any, y: Any) -> Any:
    """The negative log marginal likelihood."""
    cov = kernel(x, x, logs) + np.exp(2 * logs[2]) * np.eye(len(x))
    low = np.linalg.cholesky(cov)
    white = np.linalg.solve(low, y)
    return 0.5 * np.sum(white**2) + np.sum(np.log(np.diag(low))) + 0.5 * len(x) * np.log(2 * np.pi)


def start() -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0, 6, 30))
    return np.array([0.3, 0.2, -1.0]), x, np.sin(x) + 0.1 * rng.standard_normal(30)


def main() -> None:
    logs, x, y = start()
    found = minimize(gradc.value_and_grad(objective), logs, args=(x, y), jac=True, method="BFGS")
    cov = kernel(x, x, found.x) + np.exp(2 * found.x[2]) * np.eye(len(x))
    at = np.array([1.0, 2.5, 4.0])
    mean = kernel(at, x, found.x) @ np.linalg.solve(cov, y)
    assert np.abs(mean - np.sin(at)).max() < 0.1, mean
    assert 0.05 < np.exp(found.x[2]) < 0.2


if __name__ == "__main__":
    main()
