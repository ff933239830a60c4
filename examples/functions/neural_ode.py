"""A neural differential equation that learns a spiral from points along it."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

import gradc

HIDDEN, STEPS, H = 6, 24, 0.15


def slope(w: Any, y: Any) -> Any:
    first = np.reshape(w[: 2 * HIDDEN], (2, HIDDEN))
    second = np.reshape(w[3 * HIDDEN : 5 * HIDDEN], (HIDDEN, 2))
    return np.tanh(y @ first + w[2 * HIDDEN : 3 * HIDDEN]) @ second


def path(w: Any, y: Any) -> Any:
    """Heun's method."""
    places = [y]
    for _ in range(STEPS):
        a = slope(w, y)
        y = y + H / 2 * (a + slope(w, y + H * a))
        places.append(y)
    return np.stack(places)


def objective(w: Any, points: Any) -> Any:
    return np.mean((path(w, points[0]) - points) ** 2)


def start() -> tuple[Any, ...]:
    t = H * np.arange(STEPS + 1)
    points = np.exp(-0.2 * t)[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1)
    return 0.5 * np.random.default_rng(15).standard_normal(5 * HIDDEN), points


def main() -> None:
    w, points = start()
    found = minimize(
        gradc.value_and_grad(objective), w, args=(points,), jac=True, method="L-BFGS-B"
    )
    assert found.fun < 1e-3, found.fun


if __name__ == "__main__":
    main()
