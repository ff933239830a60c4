"""A dimension given by the user counts wherever the program counts with it, and types follow the precision."""

from typing import Any

import numpy as np
import pytest

import gradc
from gradc.ir.core import DType

STACK = """
dim B, D = 3, L = 4
layer step(D) {
    param w: float[D, D] ~ orthogonal
    apply(x: float[..., D]) -> float[..., D] { return tanh(x @ w) }
}
model deep(x: float[B, D]) -> float {
    use steps = step(D) * L
    h = x
    for s in steps { h = s(h) }
    return mean(h^2)
}
"""


@pytest.mark.parametrize("layers", [0, 1, 4, 6])
def test_the_number_of_layers_follows_the_dimension(layers: int) -> None:
    net = gradc.loads(STACK, dims={"L": layers}, precision="f64")
    assert list(net.params) == [f"steps.{i}.w" for i in range(layers)]
    params = net.init(seed=0)
    x = np.random.default_rng(layers).normal(size=(2, 3))
    loss, grads = net.value_and_grad()(params, x=x)
    h = x
    for i in range(layers):
        h = np.tanh(h @ params[f"steps.{i}.w"])
    assert float(loss) == pytest.approx((h**2).mean(), rel=1e-13)
    assert list(grads) == list(net.params)


@pytest.mark.parametrize(("precision", "dtype"), [("f32", DType.F32), ("f64", DType.F64)])
def test_types_follow_the_precision(precision: str, dtype: DType) -> None:
    net = gradc.loads(STACK, precision=precision)
    assert {t.dtype for t in (*net.inputs.values(), *net.params.values())} == {dtype}


@pytest.mark.parametrize("size", ["x", -1, 2.5, True, None])
def test_a_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(gradc.DiagnosticError, match="GC0544"):
        gradc.loads(STACK, dims={"L": size})


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(gradc.DiagnosticError, match="GC0546"):
        gradc.loads(STACK, precision="f17")
