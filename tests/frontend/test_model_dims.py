"""A dimension given by the user counts wherever the program counts with it, and types follow the
precision.
"""

from typing import Any

import numpy as np
import pytest

import gradc
from gradc.ir.tensor.core import DType

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


# ---- starts of parameters, while dimensions of the data are free


BLOCKS = """
dim L, D = 4
layer block(D) { 
    use f = dense(D, D)
    apply(x: float[D]) -> float[D] { return f(x) }
}
model m(x: float[D]) -> float {
    use blocks = block(D) * L
    for b in blocks { x = b(x) }
    return sum(x)
}
"""


@pytest.mark.parametrize(
    ("inputs", "body"),
    [
        ("float[B, 1, H, W]", "use c = conv(1, 4, 3)\n    return mean(c(x))"),
        ("float[T, 5]", "use f = dense(5, 2)\n    return sum(f(x[1] - x[0]))"),
        ("float[T, 5]", "use f = dense(5, 2)\n    return sum(f(reshape(x, [T // 2, 2, 5])))"),
        ("float[T, 5]", "use f = dense(5, 2)\n    return sum(f(x[3:T - 2])) / (T - 1)"),
        (
            "float[B, T]",
            "param w: float[3] ~ normal(1 / 3)\n    return sum(w) * sum(x) * (B / T)",
        ),
        ("float[B, 2, H]", "use p = conv1d_like(H)\n    return mean(p(x))"),
    ],
)
def test_parameters_start_without_the_dimensions_of_the_data(inputs: str, body: str) -> None:
    """The same numbers as at any size, and a training step that starts from them."""
    layer = (
        "layer conv1d_like(H) { use c = conv(2, 3, 3); apply(x: float[B, 2, H]) -> float[B, 3, 4, "
        "H - 2] "
    )
    layer += "{ return c(broadcast(x[:, :, None, :], [B, 2, 6, H])) } }\n"
    text = f"{layer if 'like' in body else ''}model m(x: {inputs}) -> float {{\n    {body}\n}}"
    net = gradc.loads(text)
    params = net.init(4)
    sizes = dict.fromkeys(net.signature.dims, 12)
    fixed = net.init(4, sizes)
    assert list(params) == list(fixed)
    assert all(np.array_equal(params[name], fixed[name]) for name in params)
    assert set(net.train_step("adam(lr=1e-3)").init(params).params) == set(params)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (BLOCKS, "L"),
        ("model m(x: float[D]) -> float {\n    use f = dense(D, 2)\n    return sum(f(x))\n}", "D"),
        (
            (
                "model m(x: float[T]) -> float {\n    param w: float ~ constant(1 / T)\n    return "
                "sum(x) * w\n}"
            ),
            "T",
        ),
        (
            (
                "model m(x: float[T, 3]) -> float {\n    if T > 40 { use f = dense(3, 2); x = f(x) "
                "}\n    return sum(x)\n}"
            ),
            "T",
        ),
    ],
)
def test_a_dimension_that_parameters_depend_on_is_asked_for(text: str, name: str) -> None:
    """Sizes, numbers of layers, numbers in a start, branches that declare."""
    net = gradc.loads(text)
    with pytest.raises(gradc.DiagnosticError, match=f"GC0541.*\n*.*`{name}`"):
        net.init(0)
    assert net.init(0, {name: 50})
    assert gradc.loads(text, dims={name: 45}).init(0)
