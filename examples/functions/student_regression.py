"""Regression with Student's t: outliers do not bend the line; degrees of freedom are learned as
well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import gammaln

import gradc


def objective(w: Any, x: Any, y: Any) -> Any:
    """The negative log-likelihood: slope, height, logarithms of scale and of degrees of freedom."""
    scale, freedom = np.exp(w[2]), np.exp(w[3])
    gaps = (y - w[0] * x - w[1]) / scale
    constant = gammaln((freedom + 1) / 2) - gammaln(freedom / 2) - 0.5 * np.log(freedom * np.pi)
    each = constant - w[2] - (freedom + 1) / 2 * np.log1p(gaps**2 / freedom)
    return -np.sum(each)


def start() -> tuple[Any, ...]:
    rng = np.random.default_rng(8)
    x = np.linspace(-2, 2, 60)
    y = 1.5 * x - 0.5 + 0.1 * rng.standard_normal(60)
    y[::9] += rng.uniform(3, 9, 7)
    return np.array([0.0, 0.0, 0.0, 1.0]), x, y


def main() -> None:
    w, x, y = start()
    found = minimize(gradc.value_and_grad(objective), w, args=(x, y), jac=True, method="BFGS")
    assert np.abs(found.x[:2] - [1.5, -0.5]).max() < 0.1, found.x


if __name__ == "__main__":
    main()
