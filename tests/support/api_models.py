"""A small classifier and what it computes, written once more in NumPy: the reference of the
interface tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MLP = """
dim B, D = 6, H = 5, C = 3

model mlp(x: float[B, D], y: int[B]) -> float {
    use fc1 = dense(D, H)
    use fc2 = dense(H, C)
    logits = fc2(tanh(fc1(x)))
    output logits
    return mean(cross_entropy(logits, y))
}
"""

# Batch statistics and a random counter: state that a call must not write to.
STATEFUL = """
dim B, D = 4

model stateful(x: float[B, D]) -> float {
    use norm = batchnorm(D)
    use fc = dense(D, D)
    return mean(dropout(tanh(fc(norm(x))), 0.25)^2)
}
"""

# Deep enough that recomputation pays.
DEEP = """
dim B, D = 6, H = 32, C = 3, L = 6

layer block(H) {
    use fc = dense(H, H)
    apply(h: float[B, H]) -> float[B, H] { return h + sin(tanh(fc(h))) }
}

model deep(x: float[B, D], y: int[B]) -> float {
    use fc1 = dense(D, H)
    use blocks = block(H) * L
    use fc2 = dense(H, C)
    h = fc1(x)
    for b in blocks { h = b(h) }
    return mean(cross_entropy(fc2(h), y))
}
"""


def batch(seed: int, size: int, width: int = 6, classes: int = 3) -> dict[str, Array]:
    """Inputs of the classifier."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((size, width))
    return {"x": x, "y": rng.integers(0, classes, size).astype(np.int32)}


def forward(params: Mapping[str, Array], x: Array, y: Array) -> tuple[float, Array]:
    """Loss and logits in float64."""
    h = np.tanh(x @ params["fc1.w"] + params["fc1.b"])
    logits = h @ params["fc2.w"] + params["fc2.b"]
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-log_p[np.arange(len(y)), y].mean()), logits


def gradients(params: Mapping[str, Array], x: Array, y: Array) -> dict[str, Array]:
    """Gradients of the loss in the parameters and in x, by hand."""
    h = np.tanh(x @ params["fc1.w"] + params["fc1.b"])
    logits = h @ params["fc2.w"] + params["fc2.b"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    dz2 = p / len(y)
    dz1 = (dz2 @ params["fc2.w"].T) * (1 - h * h)
    return {
        "fc1.w": x.T @ dz1,
        "fc1.b": dz1.sum(0),
        "fc2.w": h.T @ dz2,
        "fc2.b": dz2.sum(0),
        "x": dz1 @ params["fc1.w"].T,
    }


def central(function: Callable[[Array], Any], at: Array, along: Array, step: float = 1e-5) -> Any:
    """The derivative of ``function`` at ``at`` along ``along``, by central differences."""
    return (function(at + step * along) - function(at - step * along)) / (2 * step)
