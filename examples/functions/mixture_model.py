"""A mixture of Gaussians in the plane, fitted by the gradient of its log-likelihood."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

import gradc

PARTS = 3


def objective(w: Any, x: Any) -> Any:
    """The negative mean log-likelihood; weights and scales by their logarithms."""
    logits, logs = w[:PARTS], w[PARTS : 2 * PARTS]
    means = np.reshape(w[2 * PARTS :], (PARTS, 2))
    log_weights = logits - np.log(np.sum(np.exp(logits)))
    gaps = np.sum((x[:, None, :] - means[None, :, :]) ** 2, axis=2)
    each = log_weights - 2 * logs - 0.5 * gaps / np.exp(2 * logs) - np.log(2 * np.pi)
    top = np.max(each, axis=1)
    return -np.mean(top + np.log(np.sum(np.exp(each - top[:, None]), axis=1)))


def start() -> tuple[Any, ...]:
    rng = np.random.default_rng(4)
    centres = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 5.0]])
    x = centres[rng.integers(0, PARTS, 150)] + 0.6 * rng.standard_normal((150, 2))
    first = np.array([[1.0, 1.0], [3.0, 1.0], [1.0, 3.0]])
    return np.concatenate([np.zeros(2 * PARTS), np.ravel(first)]), x


def main() -> None:
    w, x = start()
    found = minimize(gradc.value_and_grad(objective), w, args=(x,), jac=True, method="BFGS")
    means = np.reshape(found.x[2 * PARTS :], (PARTS, 2))
    assert np.abs(means - [[0, 0], [4, 0], [0, 5]]).max() < 0.3, means
    assert np.abs(np.exp(found.x[PARTS : 2 * PARTS]) - 0.6).max() < 0.15


if __name__ == "__main__":
    main()
