"""Optimal control: pushes that swing a pendulum up with little effort, by the gradient through
time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

import gradc

STEPS, H = 50, 0.06


def objective(push: Any) -> Any:
    """Distance from standing upright at the end, and the effort on the way."""
    angle, speed = 0.0, 0.0
    for n in range(STEPS):
        speed = speed + H * (-9.81 * np.sin(angle) - 0.1 * speed + push[n])
        angle = angle + H * speed
    return 20 * (1 + np.cos(angle)) + speed**2 + 0.002 * np.sum(push**2)


def start() -> tuple[Any, ...]:
    return (np.sin(np.arange(STEPS) * H * 3.0),)


def main() -> None:
    (push,) = start()
    found = minimize(gradc.value_and_grad(objective), push, jac=True, method="L-BFGS-B")
    assert found.fun < 0.25 * objective(push)
    assert found.fun < 3.0, found.fun


if __name__ == "__main__":
    main()
