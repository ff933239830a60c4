"""Shooting: the angle and speed at which a ball with drag lands where it should, by Newton's
method.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import gradc

STEPS, DRAG = 40, 0.05


def slope(state: Any) -> Any:
    speed = np.sqrt(state[2] ** 2 + state[3] ** 2)
    return np.array([0.0, 0.0, 0.0, -9.81]) + np.concatenate([state[2:], -DRAG * speed * state[2:]])


def landing(velocity: Any, time: float) -> Any:
    """The place after ``time``, by Runge and Kutta's method."""
    h = time / STEPS
    state = np.concatenate([np.zeros(2), velocity])
    for _ in range(STEPS):
        a = slope(state)
        b = slope(state + h / 2 * a)
        c = slope(state + h / 2 * b)
        d = slope(state + h * c)
        state = state + h / 6 * (a + 2 * b + 2 * c + d)
    return state[:2]


def objective(velocity: Any, target: Any) -> Any:
    return np.sum((landing(velocity, 2.0) - target) ** 2)


def start() -> tuple[Any, ...]:
    return np.array([5.0, 9.0]), np.array([8.0, 1.0])


def main() -> None:
    velocity, target = start()
    jacobian = gradc.jacobian(lambda v: landing(v, 2.0))
    for _ in range(6):
        velocity = velocity - np.linalg.solve(jacobian(velocity), landing(velocity, 2.0) - target)
    assert objective(velocity, target) < 1e-20, velocity


if __name__ == "__main__":
    main()
