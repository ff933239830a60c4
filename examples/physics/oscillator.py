"""A network that obeys a differential equation: the damped oscillator u'' + 2 c u' + k u = 0, u(0)
= 1, u'(0) = 0.

The loss is the square of the equation's left side at points in time, plus the initial conditions.
u' and u'' are forward-mode derivatives of the network by time; the gradient of the loss by the
weights goes through both, so it is a third-order derivative. Everything is ordinary NumPy: gradc
traces it once and compiles it.

Usage: python oscillator.py [--steps 4000]
"""

import argparse

import numpy as np
from numpy.typing import NDArray

import gradc

Array = NDArray[np.float64]
Params = dict[str, Array]

DAMPING, STIFFNESS, END, POINTS, WIDTH = 0.5, 4.0, 4.0, 64, 24


def network(params: Params, t: Array) -> Array:
    """u(t): two hidden layers of tanh; time is scaled to -1..1."""
    h = np.tanh((2 / END * t - 1) @ params["w1"] + params["b1"])
    h = np.tanh(h @ params["w2"] + params["b2"])
    return h @ params["w3"] + params["b3"]


def slope(params: Params, t: Array) -> tuple[Array, Array]:
    """u(t) and u'(t)."""
    value, derivative = gradc.jvp(lambda s: network(params, s), [t], [np.ones((len(t), 1))])
    return value, derivative


def curvature(params: Params, t: Array) -> Array:
    """u''(t): the tangent of the tangent."""
    found: Array = gradc.jvp(lambda s: slope(params, s)[1], [t], [np.ones((len(t), 1))])[1]
    return found


def loss(params: Params, t: Array) -> float:
    """How far the network is from the equation and from its start."""
    u, du = slope(params, t)
    residual = curvature(params, t) + 2 * DAMPING * du + STIFFNESS * u
    start, start_slope = slope(params, np.zeros((1, 1)))
    edges = np.sum((start - 1) ** 2) + np.sum(start_slope**2)
    return np.mean(residual**2) + 20 * edges


def exact(t: Array) -> Array:
    """The solution of the equation, from a textbook."""
    w = np.sqrt(STIFFNESS - DAMPING**2)
    swing: Array = np.cos(w * t) + DAMPING / w * np.sin(w * t)
    return np.exp(-DAMPING * t) * swing


def start(seed: int) -> Params:
    """Weights with variance 1 / inputs, biases zero."""
    rng = np.random.default_rng(seed)
    sizes = ((1, WIDTH), (WIDTH, WIDTH), (WIDTH, 1))
    params: Params = {}
    for i, (inner, outer) in enumerate(sizes, start=1):
        params[f"w{i}"] = rng.normal(size=(inner, outer)) / np.sqrt(inner)
        params[f"b{i}"] = np.zeros(outer)
    return params


def fit(steps: int, seed: int = 0) -> tuple[Params, float]:
    """Weights after `steps` steps of Adam at equidistant times, and the loss."""
    gradient = gradc.value_and_grad(loss)
    t = np.linspace(0, END, POINTS)[:, None]
    params = start(seed)
    m = {name: np.zeros_like(p) for name, p in params.items()}
    v = {name: np.zeros_like(p) for name, p in params.items()}
    value = np.inf
    for step in range(1, steps + 1):
        value, grads = gradient(params, t)
        rate = 5e-3 * (1 + np.cos(np.pi * step / steps)) / 2
        for name, g in grads.items():
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            unbiased = m[name] / (1 - 0.9**step)
            params[name] = params[name] - rate * unbiased / (
                np.sqrt(v[name] / (1 - 0.999**step)) + 1e-8
            )
    return params, float(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=4000)
    params, value = fit(parser.parse_args().steps)
    t = np.linspace(0, END, 401)[:, None]
    error = np.abs(network(params, t) - exact(t)).max()
    print(f"loss {value:.2e}, largest error against the exact solution {error:.2e}")


if __name__ == "__main__":
    main()
