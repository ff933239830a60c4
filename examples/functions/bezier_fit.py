"""A cubic Bezier curve through noisy points: control points and the parameters of the points
together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

import gradc


def curve(control: Any, t: Any) -> Any:
    t = t[:, None]
    u = 1 - t
    return (
        u**3 * control[0]
        + 3 * u**2 * t * control[1]
        + 3 * u * t**2 * control[2]
        + t**3 * control[3]
    )


def objective(w: Any, points: Any) -> Any:
    control, steps = np.reshape(w[:8], (4, 2)), np.exp(w[8:])
    t = np.cumsum(steps) / np.sum(steps)
    return np.sum((curve(control, t) - points) ** 2)


def start() -> tuple[Any, ...]:
    truth = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 2.0], [4.0, -1.0]])
    t = np.linspace(0.05, 1, 20) ** 1.3
    points = curve(truth, t) + 0.01 * np.random.default_rng(13).standard_normal((20, 2))
    line = points[0] + (points[-1] - points[0]) * np.linspace(0, 1, 4)[:, None]
    return np.concatenate([np.ravel(line), np.zeros(20)]), points


def main() -> None:
    w, points = start()
    g = gradc.value_and_grad(objective)
    found = minimize(g, w, args=(points,), jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    assert found.fun < 5e-3, found.fun


if __name__ == "__main__":
    main()
