"""L-BFGS written out, on Rosenbrock's valley in ten dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np

import gradc


def objective(x: Any) -> Any:
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def start() -> tuple[Any, ...]:
    return (np.full(10, -1.2) * np.array([1, -1] * 5),)


def direction(slope: Any, pairs: list[tuple[Any, Any]]) -> Any:
    """The two loops over the last steps and changes of slope."""
    q, shares = slope, []
    for s, d in reversed(pairs):
        shares.append((s @ q) / (s @ d))
        q = q - shares[-1] * d
    if pairs:
        s, d = pairs[-1]
        q = q * (s @ d) / (d @ d)
    for (s, d), share in zip(pairs, reversed(shares), strict=True):
        q = q + (share - (d @ q) / (s @ d)) * s
    return -q


def main() -> None:
    g = gradc.value_and_grad(objective)
    (x,) = start()
    value, slope = g(x)
    pairs: list[tuple[Any, Any]] = []
    for _ in range(200):
        step, way = 1.0, direction(slope, pairs)
        while g(x + step * way)[0] > value + 1e-4 * step * (slope @ way) and step > 1e-10:
            step /= 2
        following, (value, fresh) = x + step * way, g(x + step * way)
        if (following - x) @ (fresh - slope) > 1e-12:
            pairs = [*pairs[-7:], (following - x, fresh - slope)]
        x, slope = following, fresh
    assert np.abs(x - 1).max() < 1e-6, x


if __name__ == "__main__":
    main()
