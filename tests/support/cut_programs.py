"""Programs whose batch can be cut into parts, with inputs, and what cutting them needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradc.frontend.model.models import ModelIR
from gradc.ir.tensor.core import DType, TensorType
from gradc.passes.training.accumulate_batch import batch_axes
from gradc.runtime.model.model import Model

Inputs = dict[str, Any]

CLASSIFIER = """
dim B, D = 5, H = 7, C = 4
model m(x: float[B, D], y: int[B]) -> float {
    use fc1 = dense(D, H)
    use fc2 = dense(H, C)
    logits = fc2(gelu(fc1(x)))
    output logits
    return mean(cross_entropy(logits, y))
}
"""
TOKENS = """
dim B, T, V = 7, H = 5
model m(x: float[B, T, H], y: int[B, T], w: float[B, T]) -> float {
    use f = dense(H, V)
    losses = cross_entropy(f(tanh(x)), y)
    output losses
    return sum(losses * w) / sum(w)
}
"""
NOT_LINEAR = """
dim B, D = 5
model m(x: float[B, D]) -> float {
    use f = dense(D, 3)
    return sum(mean(f(x), axis = 0)^2) + 0.1 * sum(f.w^2)
}
"""
RECURRENT = """
dim B, T = 6, D = 5
model m(x: float[T, B, D]) -> float {
    use r = rnn(D, 4)
    use head = dense(4, 1)
    return mean(head(r(x))^2)
}
"""
DROPS = """
dim B, D = 5
model m(x: float[B, D]) -> float {
    use f = dense(D, 2000)
    return mean(dropout(f(x), 0.5)^2) + 0.1 * sum(f.w^2)
}
"""
# By kind: the program, and the axis of samples of its inputs.
PROGRAMS = {
    "classifier": (CLASSIFIER, 0),
    "tokens": (TOKENS, 0),
    "not linear": (NOT_LINEAR, 0),
    "recurrent": (RECURRENT, 1),
    "drops": (DROPS, 0),
}


def inputs_of(kind: str, samples: int) -> Inputs:
    """Inputs of a program of PROGRAMS with so many samples."""
    rng = np.random.default_rng(7)
    if kind == "tokens":
        shape = (samples, 3)
        return {
            "x": rng.standard_normal((*shape, 5)).astype(np.float32),
            "y": rng.integers(0, 7, shape),
            "w": rng.random(shape).astype(np.float32).round(),
        }
    if kind == "recurrent":
        return {"x": rng.standard_normal((6, samples, 5)).astype(np.float32)}
    x = rng.standard_normal((samples, 5)).astype(np.float32)
    return {"x": x, "y": rng.integers(0, 4, samples)} if kind == "classifier" else {"x": x}


def whole_batch(
    net: Model, inputs: Inputs, parts: int, axis: int = 0
) -> tuple[ModelIR, dict[str, int]]:
    """The program of the whole batch, and the axes of samples of its inputs."""
    whole = net.lower(net.bind({k: v.shape for k, v in inputs.items()}))
    smaller = {k: v.take(range(v.shape[axis] // parts), axis) for k, v in inputs.items()}
    whole_types, part_types = (
        {k: TensorType(v.shape, DType.F64) for k, v in arrays.items()}
        for arrays in (inputs, smaller)
    )
    return whole, batch_axes(whole_types, part_types, parts)
