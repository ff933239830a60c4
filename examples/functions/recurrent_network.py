"""A recurrent network that says the next value of a wave, trained by the gradient through time."""

from __future__ import annotations

from typing import Any

import numpy as np

import gradc

HIDDEN = 8


def objective(params: dict[str, Any], wave: Any) -> Any:
    """The mean squared error of the next value."""
    hidden, total = np.zeros(HIDDEN), 0.0
    for n in range(len(wave) - 1):
        hidden = np.tanh(params["w"] @ hidden + params["u"] * wave[n] + params["b"])
        total = total + (params["v"] @ hidden - wave[n + 1]) ** 2
    return total / (len(wave) - 1)


def start() -> tuple[Any, ...]:
    rng = np.random.default_rng(14)
    params = {
        "w": 0.4 * rng.standard_normal((HIDDEN, HIDDEN)),
        "u": rng.standard_normal(HIDDEN),
        "b": np.zeros(HIDDEN),
        "v": 0.3 * rng.standard_normal(HIDDEN),
    }
    return params, np.sin(0.5 * np.arange(30.0))


def main() -> None:
    params, wave = start()
    g = gradc.value_and_grad(objective)
    first = float(g(params, wave)[0])
    for _ in range(500):
        value, slopes = g(params, wave)
        params = {name: params[name] - 0.1 * slopes[name] for name in params}
    assert value < 0.05 * first, (first, value)


if __name__ == "__main__":
    main()
