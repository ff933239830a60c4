"""A Kalman filter: the noise of a moving body's acceleration and of its measured place, by maximum
likelihood.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

import gradc

MOVE = np.array([[1.0, 0.1], [0.0, 1.0]])
PUSH = np.array([[0.005], [0.1]])


def objective(logs: Any, y: Any) -> Any:
    """The negative log-likelihood of the measured places."""
    process = np.exp(2 * logs[0]) * (PUSH @ PUSH.T)
    noise = np.exp(2 * logs[1])
    mean, cov = np.zeros(2), np.eye(2)
    total = 0.0
    for place in y:
        mean, cov = MOVE @ mean, MOVE @ cov @ MOVE.T + process
        spread = cov[0, 0] + noise  # only the place is seen
        gap = place - mean[0]
        total = total + 0.5 * (np.log(2 * np.pi * spread) + gap**2 / spread)
        gain = cov[:, 0] / spread
        mean = mean + gain * gap
        cov = cov - np.outer(gain, cov[0])
    return total


def start() -> tuple[Any, ...]:
    rng = np.random.default_rng(2)
    state, y = np.zeros(2), []
    for _ in range(60):
        state = MOVE @ state + PUSH[:, 0] * 2.0 * rng.standard_normal()
        y.append(state[0] + 0.1 * rng.standard_normal())
    return np.array([0.0, -1.0]), np.array(y)


def main() -> None:
    logs, y = start()
    found = minimize(gradc.value_and_grad(objective), logs, args=(y,), jac=True, method="BFGS")
    assert 0.07 < np.exp(found.x[1]) < 0.15, np.exp(found.x)
    assert np.abs(found.jac).max() < 1e-3


if __name__ == "__main__":
    main()
