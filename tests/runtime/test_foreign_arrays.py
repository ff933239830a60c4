"""Arrays of other libraries as parameters, inputs and seeds: the numbers of torch and JAX, whatever
their history.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gradc
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.runtime.native.arrays import as_array

TEXT = """
dim B, D = 3
model net(x: float[B, D], y: int[B]) -> float {
    use fc = dense(D, 4)
    logits = fc(x)
    output logits
    return mean(cross_entropy(logits, y))
}
"""


def arrays() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    net = gradc.loads(TEXT)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, 3)).astype(np.float32)
    return net.init(2), x, rng.integers(0, 4, 5, dtype=np.int32)


def assert_same(found: Any, expected: Any) -> None:
    assert found[0] == expected[0]
    assert all(np.array_equal(found[1][n], a) for n, a in expected[1].items())


def test_tensors_that_require_gradients_are_detached() -> None:
    torch = pytest.importorskip("torch")
    params, x, y = arrays()
    expected = gradc.loads(TEXT).value_and_grad(["fc.w", "x"])(params, x=x, y=y)
    theirs = {name: torch.nn.Parameter(torch.from_numpy(a.copy())) for name, a in params.items()}
    given = torch.from_numpy(x.copy()).requires_grad_()
    function = gradc.loads(TEXT).value_and_grad(["fc.w", "x"])
    for _ in range(2):
        assert_same(function(theirs, x=given, y=torch.from_numpy(y)), expected)
    # A result of torch's own, with a history and in another layout.
    assert_same(function(theirs, x=(given.T * 1.0).T, y=torch.from_numpy(y).long()), expected)
    assert given.grad is None and all(p.grad is None for p in theirs.values())
    # No copy where none is needed.
    assert np.shares_memory(as_array("x", given), given.detach().numpy())
    state = gradc.loads(TEXT).train_step("sgd(lr=0.1)").init(theirs)
    np.testing.assert_array_equal(state.params["fc.w"], params["fc.w"])


@pytest.mark.parametrize("shape", [(5, 3), (1, 3), (0, 3), ()])
def test_bf16_tensors_keep_their_numbers(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    values = torch.from_numpy(
        np.asarray(1e3 * np.random.default_rng(3).normal(size=shape))
    ).bfloat16()
    for tensor in (
        values,
        values.clone().requires_grad_(),
        values.T if values.ndim == 2 else values,
    ):
        found = as_array("x", tensor)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, tensor.detach().float().numpy())


def test_bf16_tensors_in_programs_of_every_precision() -> None:
    torch = pytest.importorskip("torch")
    params, x, y = arrays()
    half = torch.from_numpy(x).bfloat16().requires_grad_()
    numbers = half.detach().float().numpy()
    for precision in ("f32", "bf16", "f64"):
        net = gradc.loads(TEXT, precision=precision)
        forward = net.forward()
        expected = forward(params, x=numbers, y=y)
        found = forward(params, x=half, y=y)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)


def test_numpy_functions_take_tensors() -> None:
    torch = pytest.importorskip("torch")
    x = torch.arange(4, dtype=torch.float64, requires_grad=True)
    value, slope = gradc.value_and_grad(lambda x: np.sum(x**3))(x)
    assert value == 36
    np.testing.assert_array_equal(slope, [0, 3, 12, 27])


def test_arrays_of_jax() -> None:
    jax = pytest.importorskip("jax")
    params, x, y = arrays()
    function = gradc.loads(TEXT).value_and_grad(["fc.b"])
    theirs = {name: jax.numpy.asarray(a) for name, a in params.items()}
    found = function(theirs, x=jax.numpy.asarray(x), y=jax.numpy.asarray(y))
    assert_same(found, function(params, x=x, y=y))
    half = jax.numpy.asarray(x, jax.numpy.bfloat16)
    np.testing.assert_array_equal(as_array("x", half), np.asarray(half, np.float32))


def test_what_is_no_dense_array_of_the_processor_is_said() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(DiagnosticError, match=r"GC0551.*`x`"):
        as_array("x", torch.eye(3).to_sparse())
    with pytest.raises(DiagnosticError, match=r"GC0551.*`x`"):
        as_array("x", torch.empty(3, device="meta"))
    with pytest.raises(DiagnosticError, match=r"GC0551.*`x`"):
        as_array("x", torch.ones(2, dtype=torch.complex64))
