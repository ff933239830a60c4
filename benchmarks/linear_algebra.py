"""Linear algebra beside LAPACK (NumPy) and JAX: ``python -m benchmarks.linear_algebra [SIZE ...]``.

For each function of numpy.linalg and each size the least processor time of several calls, in
microseconds, f64: the value by gradc, NumPy and JAX, then the gradient of a sum of cubes by gradc
and JAX. Values that do not depend on signs are compared first.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import gradc

Function = Callable[[Any, Any], Any]

FUNCTIONS: dict[str, Function] = {
    "cholesky": lambda m, x: m.linalg.cholesky(x @ x.T + len(x) * m.eye(len(x))),
    "solve": lambda m, x: m.linalg.solve(x, x[:, :3] ** 2),
    "inv": lambda m, x: m.linalg.inv(x),
    "slogdet": lambda m, x: m.linalg.slogdet(x)[1],
    "qr": lambda m, x: m.abs(m.linalg.qr(x)[1]),
    "eigh": lambda m, x: m.abs(m.linalg.eigh(x + x.T)[1]),
    "svd": lambda m, x: m.abs(m.linalg.svd(x, full_matrices=False)[0]),
}


def least(call: Callable[[Any], Any], x: Any, repeats: int) -> float:
    """Microseconds of processor time."""
    call(x)
    found = []
    for _ in range(repeats):
        started = time.process_time()
        call(x)
        found.append(time.process_time() - started)
    return min(found) * 1e6


def row(name: str, n: int, jax: Any, repeats: int) -> list[float]:
    """The five figures of one function at one size."""
    x = np.random.default_rng(n).standard_normal((n, n)) + 2 * np.eye(n)
    function, jnp = FUNCTIONS[name], jax.numpy
    mine = gradc.jit(lambda x: function(np, x))
    np.testing.assert_allclose(mine(x), function(np, x), rtol=1e-6, atol=1e-8)
    slope = gradc.grad(lambda x: np.sum(function(np, x) ** 3))
    theirs = jax.jit(lambda x: function(jnp, x))
    their_slope = jax.jit(jax.grad(lambda x: jnp.sum(function(jnp, x) ** 3)))
    np.testing.assert_allclose(slope(x), their_slope(x), rtol=1e-5, atol=1e-4)
    calls: list[Callable[[Any], Any]] = [
        mine,
        lambda x: function(np, x),
        lambda x: theirs(x).block_until_ready(),
        slope,
        lambda x: their_slope(x).block_until_ready(),
    ]
    return [least(call, x, repeats) for call in calls]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", type=int, nargs="*", default=[10, 100, 300])
    parser.add_argument("--only", default=",".join(FUNCTIONS))
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    jax: Any = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    print("| n | function | gradc | NumPy | JAX | gradient: gradc | JAX |")
    print("|---|---|---|---|---|---|---|")
    for n in given.sizes:
        for name in given.only.split(","):
            cells = " | ".join(f"{t:.0f}" for t in row(name, n, jax, given.repeats))
            print(f"| {n} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
