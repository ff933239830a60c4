"""Diagnosis of whole networks: norms are those of the compiled gradient, faults planted in them are
named.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradc.runtime.api import load, loads
from gradc.runtime.model.model import Model

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"

NETWORKS: dict[str, dict[str, int]] = {
    "digits/mlp.grad": {"H": 16},
    "digits/cnn.grad": {"C1": 4, "C2": 4, "H": 12},
    "digits/rows_gru.grad": {"H": 8},
    "digits/autoencoder.grad": {"H": 12},
    "text/lstm.grad": {"E": 6, "H": 8, "T": 9, "V": 12},
    "text/gpt.grad": {"D": 12, "N": 3, "L": 2, "T": 9, "V": 12},
}


def batch(net: Model, rng: np.random.Generator, size: int = 6) -> dict[str, Any]:
    """Random inputs of the model's types; ids below ten."""
    types = net.lower({"B": size}).function
    pairs = zip(types.parameters, types.block.parameters, strict=True)
    shapes = {slot.name: value.type for slot, value in pairs if slot.name in net.inputs}
    return {
        name: rng.random(t.static_shape)
        if t.dtype.is_float
        else rng.integers(0, 10, t.static_shape).astype(np.int32)
        for name, t in shapes.items()
    }


@pytest.mark.parametrize("network", list(NETWORKS))
def test_every_example_is_measured_as_it_is_compiled(network: str) -> None:
    net = load(EXAMPLES / network, dims=NETWORKS[network], precision="f64")
    rng = np.random.default_rng(0)
    params, inputs = net.init(0), batch(net, rng)
    found = net.diagnose(params, **inputs)
    loss, grads = net.value_and_grad()(params, **inputs)
    assert found.loss == pytest.approx(float(loss), rel=1e-10)
    assert [p.name for p in found.parameters] == list(grads)
    for row in found.parameters:
        assert row.grad_norm == pytest.approx(np.linalg.norm(grads[row.name]), rel=1e-9)
        assert row.span is not None
    assert (len(found.times) > 0) == ("gru" in network or "lstm" in network)
    kinds = {f.kind for f in found.findings}
    assert not kinds & {"symmetry", "exploding", "truncation", "unreached"}


def test_dead_channels_of_a_convolution_are_found() -> None:
    """Six of eight channels can never fire; units of images are channels, not columns."""
    net = load(EXAMPLES / "digits" / "cnn.grad", dims={"C1": 8, "C2": 4, "H": 12})
    params = net.init(0)
    params["b1"][[0, 1, 3, 4, 6, 7]] = -1000
    found = net.diagnose(params, **batch(net, np.random.default_rng(0), 2))
    dead = [f for f in found.findings if f.kind == "dead" and f.span and f.span.line == 14]
    assert len(dead) == 1 and dead[0].message.startswith("75% of the ReLU units")
    assert "for all 128 samples" in dead[0].message


LOOP = """
dim T, B, D = 8
model m(x: float[T, B, D]) -> float {
    param w: float[D, D] ~ orthogonal
    param b: float[D] ~ zeros
    hs = scan row in x carry h = zeros([B, D]) {
        h = relu(h @ w + row + b)
        yield h
    }
    return mean(hs^2)
}
"""


def test_dead_units_inside_a_loop_are_found() -> None:
    net = loads(LOOP)
    params = net.init(0)
    x = np.random.default_rng(0).normal(size=(10, 8, 8)).astype(np.float32)
    assert not [f for f in net.diagnose(params, x=x).findings if f.kind == "dead"]
    params["b"][:6] = -1000
    (dead,) = [f for f in net.diagnose(params, x=x).findings if f.kind == "dead"]
    assert "75% of the ReLU units" in dead.message and "for all 80 samples" in dead.message
    assert dead.span is not None and dead.span.line == 7
