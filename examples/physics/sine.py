"""A network that satisfies a differential equation: u'' = -u with u(0) = 0 and u'(0) = 1, whose
solution is sin.

No value of the solution is shown to it: the loss is the mean square of u'' + u at points in [0, 2
pi]. The second derivative in x is taken of the network inside the loss, and the loss is
differentiated by the network's weights: three nested derivatives, compiled into one native call.
The initial conditions hold by construction.

    python examples/physics/sine.py [--steps 3000] [--points 64] [--width 24]
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import gradc

Params = dict[str, Any]
END = 2 * np.pi


def init(width: int, seed: int = 0) -> Params:
    """Weights of a tanh network of two hidden layers, one number in and one out."""
    rng = np.random.default_rng(seed)
    return {
        "w1": rng.normal(size=(1, width)),
        "b1": rng.normal(size=width),
        "w2": rng.normal(size=(width, width)) / np.sqrt(width),
        "b2": np.zeros(width),
        "w3": rng.normal(size=(width, 1)) / np.sqrt(width),
    }


def solution(p: Params, x: Any) -> Any:
    """u at the points ``x``: u(0) = 0 and u'(0) = 1 whatever the weights are."""
    z = x.reshape(-1, 1) * (2 / END) - 1
    h = np.tanh(np.tanh(z @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"])
    return x + x**2 * (h @ p["w3"])[:, 0]


def residual(p: Params, x: Any) -> Any:
    """u'' + u at the points; each point is a sample of its own, so the gradient of the sum is
    pointwise.
    """
    slope = gradc.grad(lambda x: np.sum(solution(p, x)))
    curvature = gradc.grad(lambda x: np.sum(slope(x)))
    return curvature(x) + solution(p, x)


@gradc.value_and_grad
def loss(p: Params, x: Any) -> Any:
    """The mean squared residual, and (compiled) its gradient by the weights."""
    return np.mean(residual(p, x) ** 2)


def fit(p: Params, x: Any, steps: int, peak: float = 1e-2) -> tuple[Params, float]:
    """Adam with a cosine schedule; the weights and the last loss."""
    m = {name: np.zeros_like(a) for name, a in p.items()}
    v = {name: np.zeros_like(a) for name, a in p.items()}
    value = np.inf
    for t in range(1, steps + 1):
        value, grads = loss(p, x)
        rate = peak * (0.5 + 0.5 * np.cos(np.pi * t / steps))
        for name, g in grads.items():
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            step = m[name] / (1 - 0.9**t) / (np.sqrt(v[name] / (1 - 0.999**t)) + 1e-8)
            p = {**p, name: p[name] - rate * step}
    return p, float(value)


def main() -> None:
    """Fits, and compares with the sine on a grid that was not trained on."""
    parser = argparse.ArgumentParser(description="u'' = -u by a small network")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--points", type=int, default=64)
    parser.add_argument("--width", type=int, default=24)
    options = parser.parse_args()
    x = np.linspace(0, END, options.points)
    p, value = fit(init(options.width), x, options.steps)
    grid = np.linspace(0, END, 1001)
    error = np.abs(solution(p, grid) - np.sin(grid)).max()
    print(f"loss {value:.3g}, largest error against sin on [0, 2 pi]: {error:.3g}")


if __name__ == "__main__":
    main()
