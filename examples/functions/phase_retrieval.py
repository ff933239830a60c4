"""A hologram: the phases of light at a lens, found from the brightness that is wanted behind it.

The light spreads from the lens to the screen by the angular spectrum: one Fourier transform there,
a turn of each plane wave, one back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

import gradc

POINTS, DISTANCE, WAVES = 24, 0.35, 40.0


def screen(phases: Any) -> Any:
    """The brightness on the screen."""
    light = np.exp(1j * phases)
    across = np.fft.fftfreq(POINTS)
    slow = across[:, None] ** 2 + across[None, :] ** 2
    turned = np.fft.fft2(light) * np.exp(-2j * np.pi * DISTANCE * WAVES * slow)
    return np.abs(np.fft.ifft2(turned)) ** 2


def objective(phases: Any, wanted: Any) -> Any:
    return np.mean((screen(phases) - wanted) ** 2)


def start() -> tuple[Any, ...]:
    phases = 0.1 * np.random.default_rng(0).standard_normal((POINTS, POINTS))
    x = np.linspace(-1, 1, POINTS)
    ring = np.exp(-20 * (np.hypot(x[:, None], x[None, :]) - 0.6) ** 2)
    return phases, ring / np.mean(ring)


def main() -> None:
    phases, wanted = start()
    g = gradc.value_and_grad(objective)

    def flat(p: Any) -> tuple[float, Any]:
        value, slope = g(p.reshape(phases.shape), wanted)
        return float(value), slope.ravel()

    found = minimize(flat, phases.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    assert found.fun < 0.02 * objective(phases, wanted)


if __name__ == "__main__":
    main()
