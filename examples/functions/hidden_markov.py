"""A hidden Markov model with Gaussian emissions, fitted by the gradient of the forward
algorithm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

import gradc

STATES = 2


def log_sum(x: Any, axis: int) -> Any:
    top = np.max(x, axis=axis, keepdims=True)
    return np.squeeze(top, axis=axis) + np.log(np.sum(np.exp(x - top), axis=axis))


def objective(w: Any, y: Any) -> Any:
    """The negative log-likelihood, by the forward recursion in logarithms."""
    moves = np.reshape(w[: STATES**2], (STATES, STATES))
    log_moves = moves - log_sum(moves, 1)[:, None]
    means, log_scale = w[STATES**2 : STATES**2 + STATES], w[-1]
    gaps = (y[:, None] - means[None, :]) / np.exp(log_scale)
    emissions = -0.5 * gaps**2 - log_scale - 0.5 * np.log(2 * np.pi)
    alpha = emissions[0] - np.log(STATES)
    for t in range(1, len(y)):
        alpha = log_sum(alpha[:, None] + log_moves, 0) + emissions[t]
    return -log_sum(alpha, 0)


def start() -> tuple[Any, ...]:
    rng = np.random.default_rng(1)
    hidden, y = 0, []
    for _ in range(40):
        hidden = hidden if rng.random() < 0.9 else 1 - hidden
        y.append((-1.0, 2.0)[hidden] + 0.5 * rng.standard_normal())
    return np.array([1.0, 0.0, 0.0, 1.0, -0.5, 0.5, 0.0]), np.array(y)


def main() -> None:
    w, y = start()
    found = minimize(gradc.value_and_grad(objective), w, args=(y,), jac=True, method="BFGS")
    means = np.sort(found.x[4:6])
    assert np.abs(means - [-1.0, 2.0]).max() < 0.4, means


if __name__ == "__main__":
    main()
