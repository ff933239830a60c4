"""A Bayesian neural network: a Gaussian over its weights, fitted by the gradient of the evidence
bound.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import gradc

HIDDEN = 6
COUNT = 3 * HIDDEN + 1


def network(w: Any, x: Any) -> Any:
    inner = np.tanh(x[:, None] * w[:HIDDEN] + w[HIDDEN : 2 * HIDDEN])
    return inner @ w[2 * HIDDEN : 3 * HIDDEN] + w[-1]


def objective(w: Any, x: Any, y: Any, noise: Any) -> Any:
    """The negative evidence bound at fixed draws of the noise."""
    mean, logs = w[:COUNT], w[COUNT:]
    total = 0.0
    for draw in noise:
        gaps = y - network(mean + np.exp(logs) * draw, x)
        total = total + 0.5 * np.sum(gaps**2) / 0.1**2
    prior = np.sum(0.5 * (np.exp(2 * logs) + mean**2) - logs)
    return total / len(noise) + prior


def start() -> tuple[Any, ...]:
    rng = np.random.default_rng(10)
    x = np.linspace(-2, 2, 25)
    w = np.concatenate([rng.standard_normal(COUNT), np.full(COUNT, -3.0)])
    return w, x, np.sin(2 * x) + 0.1 * rng.standard_normal(25), rng.standard_normal((4, COUNT))


def main() -> None:
    w, x, y, _ = start()
    g, rng = gradc.value_and_grad(objective), np.random.default_rng(11)
    moment, square = np.zeros_like(w), np.zeros_like(w)
    for step in range(1, 1201):
        _, slope = g(w, x, y, rng.standard_normal((4, COUNT)))
        moment, square = 0.9 * moment + 0.1 * slope, 0.99 * square + 0.01 * slope**2
        w = w - 0.03 * moment / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.99**step)) + 1e-8)
    assert np.sqrt(np.mean((network(w[:COUNT], x) - np.sin(2 * x)) ** 2)) < 0.2


if __name__ == "__main__":
    main()
