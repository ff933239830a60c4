"""Three bodies: speeds that bring each back to where it began, found by the gradient through a
leapfrog.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

import gradc

STEPS, H = 60, 0.05


def pull(places: Any) -> Any:
    gaps = places[None, :, :] - places[:, None, :]
    squares = np.sum(gaps**2, axis=2) + np.eye(3) + 1e-3
    return np.sum(gaps / squares[:, :, None] ** 1.5, axis=1)


def orbit(speeds: Any, places: Any) -> Any:
    for _ in range(STEPS):
        speeds = speeds + H / 2 * pull(places)
        places = places + H * speeds
        speeds = speeds + H / 2 * pull(places)
    return places, speeds


def energy(speeds: Any, places: Any) -> Any:
    gaps = places[:, None, :] - places[None, :, :]
    far = np.sqrt(np.sum(gaps**2, axis=2) + np.eye(3) + 1e-3)
    return 0.5 * np.sum(speeds**2) - 0.5 * np.sum((1 - np.eye(3)) / far)


def objective(flat: Any, places: Any) -> Any:
    """How far from a third of a turn the bodies are: each where the next one was."""
    after, _ = orbit(np.reshape(flat, (3, 2)), places)
    return np.sum((after - np.roll(places, -1, axis=0)) ** 2)


def start() -> tuple[Any, ...]:
    turn = 2 * np.pi * np.arange(3) / 3
    places = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return np.ravel(0.7 * np.stack([-np.sin(turn), np.cos(turn)], axis=1)), places


def main() -> None:
    flat, places = start()
    found = minimize(gradc.value_and_grad(objective), flat, args=(places,), jac=True, method="BFGS")
    assert found.fun < 1e-8, found.fun
    speeds = np.reshape(found.x, (3, 2))
    after, then = orbit(speeds, places)
    assert abs(energy(then, after) - energy(speeds, places)) < 1e-3


if __name__ == "__main__":
    main()
