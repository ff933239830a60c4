"""Transforms of transforms of transforms, beside JAX: ``python -m benchmarks.soak_nesting``.

Each transform makes of a map from R^3 to R^3 another one: a gradient of a weighing, a tangent, a
pulled-back cotangent, a Hessian times a vector, a Jacobian times a vector in both modes, a map over
rows. All triples of them are taken (``--pairs`` for all pairs) in a mixed order, each of one of
five functions in turn, and held to 1e-8 of what JAX computes for the same text in f64.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

import gradc
from benchmarks.soak_common import Tally, arguments, report, soak

Map = Callable[[Any], Any]
# A transform sees NumPy's names, gradc or JAX, and a map.
Transform = Callable[[Any, Any, Map], Map]

VALUES = np.random.default_rng(5)
A = VALUES.normal(size=(3, 3))
V, W, X = (VALUES.normal(size=3) for _ in range(3))


def _hessian_product(m: Any, k: Any, f: Map) -> Map:
    slope = k.grad(lambda x: m.sum(W * f(x)))
    return lambda x: k.jvp(slope, (x,), (V + 0 * x,))[1]


TRANSFORMS: dict[str, Transform] = {
    "grad": lambda m, k, f: k.grad(lambda x: m.sum(W * f(x))),
    "jvp": lambda m, k, f: lambda x: k.jvp(f, (x,), (V * m.cos(x),))[1],
    "vjp": lambda m, k, f: lambda x: k.vjp(f, x)[1](W + m.sin(x))[0],
    "hvp": _hessian_product,
    "jacfwd": lambda m, k, f: lambda x: k.jacfwd(f)(x) @ V,
    "jacrev": lambda m, k, f: lambda x: W @ k.jacrev(f)(x),
    "vmap": lambda m, k, f: lambda x: m.sum(k.vmap(f)(m.stack([x, 0.5 * x])), 0),
}
FUNCTIONS: tuple[Callable[[Any, Any], Any], ...] = (
    lambda m, x: m.tanh(A @ x) * x,
    lambda m, x: m.exp(x - m.max(x)) / m.sum(m.exp(x - m.max(x))),
    lambda m, x: m.sin(x) * m.sum(x * x) + x[::-1] ** 3,
    lambda m, x: m.log1p(x * x) + m.cumsum(m.cos(x)),
    lambda m, x: m.where(x > 0, m.sqrt(1 + x * x), x * m.exp(x)),
)


def nested(m: Any, k: Any, names: tuple[str, ...], number: int) -> Map:
    """The transforms of function ``number``, the last name innermost."""
    made: Map = lambda x: FUNCTIONS[number](m, x)
    for name in reversed(names):
        made = TRANSFORMS[name](m, k, made)
    return made


def main() -> int:
    """Runs all triples, or as many as asked for."""
    depth = 2 if "--pairs" in sys.argv else 3
    sys.argv = [a for a in sys.argv if a != "--pairs"]
    combinations = list(product(TRANSFORMS, repeat=depth))
    random.Random(0).shuffle(combinations)  # so that a part of them is a sample
    options = arguments(__doc__ or "", len(combinations))
    jax: Any = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    turns = iter(enumerate(combinations))

    def case(_rng: random.Random, tally: Tally) -> str:
        number, names = next(turns)
        which = number % len(FUNCTIONS)
        found = gradc.jit(nested(np, gradc, names, which), use_cache=False)(X)
        expected = jax.jit(nested(jax.numpy, jax, names, which))(X)
        size = max(1.0, float(np.max(np.abs(expected))))
        if np.all(np.abs(found - expected) <= 1e-8 * size):
            tally.kinds["right"] += 1
            return ""
        return f"{' of '.join(names)} of function {which}: {found}, JAX {expected}"

    tally = soak("nesting", case, min(options.count, len(combinations)), 0, options.seconds)
    return report(tally, options.json)


if __name__ == "__main__":
    sys.exit(main())
