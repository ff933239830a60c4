"""What a run looks at while it trains: how far updates move the weights, and whether numbers stay
finite.

A copy of the weights at one step in ``WATCH_EVERY`` moves a few bytes per weight; a step moves each
weight a dozen times, so this is below a hundredth of the bytes of the steps between.

Non-goals: why something is wrong (``runtime.doctor``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from gradc.ir.diagnostics.diagnostic import Diagnostic, error
from gradc.runtime.native.arrays import Array

WATCH_EVERY = 50


def is_recorded(step: int) -> bool:
    """Whether the updates of ``step`` (from 1) are recorded: the first, and one in fifty."""
    return step == 1 or step % WATCH_EVERY == 0


def updates(
    before: Mapping[str, Array],
    after: Mapping[str, Array],
    whole: Callable[[Mapping[str, float]], dict[str, float]],
) -> dict[str, float]:
    """For each parameter the size of its last update, as a share of its own size (both L2);
    ``whole`` makes sums of squares of this rank's parts those of whole parameters.
    """
    moved = whole({name: _square(after[name] - old) for name, old in before.items()})
    sizes = whole({name: _square(old) for name, old in before.items()})
    return {
        name: math.sqrt(n / sizes[name]) if sizes[name] else (0.0 if n == 0 else math.inf)
        for name, n in moved.items()
    }


def _square(array: Array) -> float:
    return float(np.linalg.norm(array.astype(np.float64)) ** 2)


def are_finite(arrays: Mapping[str, Array]) -> bool:
    """Whether every floating array holds numbers only."""
    return all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f")


def broken_update(number: int) -> Diagnostic:
    """The finding for a step whose gradients are finite and whose new weights are not."""
    message = (
        f"the update of step {number} gives numbers that are not finite, though its gradients are"
    )
    help = "let the optimiser add a small number to what it divides by, as in `/ (sqrt(v) + 1e-8)`"
    return error("GC0809", message, None, help=help)
