"""Logistic regression by Newton's method, from w = 0, where the Hessian is X^T X / 4."""

from __future__ import annotations

from typing import Any

import numpy as np

import gradc


def objective(w: Any, x: Any, y: Any) -> Any:
    return np.sum(np.logaddexp(0.0, -y * (x @ w))) + 0.05 * np.sum(w**2)


def start() -> tuple[Any, ...]:
    rng = np.random.default_rng(9)
    x = rng.standard_normal((80, 4))
    y = np.where(x @ np.array([1.0, -2.0, 0.5, 0.0]) + 0.3 * rng.standard_normal(80) > 0, 1.0, -1.0)
    return np.zeros(4), x, y


def main() -> None:
    w, x, y = start()
    slope, curvature = gradc.grad(objective), gradc.hessian(objective)
    expected = x.T @ x / 4 + 0.1 * np.eye(4)
    assert np.abs(curvature(w, x, y) - expected).max() < 1e-12
    for _ in range(8):
        w = w - np.linalg.solve(curvature(w, x, y), slope(w, x, y))
    assert np.abs(slope(w, x, y)).max() < 1e-10


if __name__ == "__main__":
    main()
