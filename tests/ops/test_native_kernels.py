"""Kernels that stand for a region: what they compute is what the region says, at every size, type
and edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops import linalg
from gradc.ir.ops.builder import Builder
from gradc.ir.plan.execute import execute_plan
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType
from gradc.passes.lower.plan import to_loops
from gradc.passes.place.place import place

Array = np.ndarray[Any, Any]


def _symmetric(x: Array) -> Array:
    return x + np.swapaxes(x, -1, -2)


def _positive(x: Array) -> Array:
    return np.asarray(x @ np.swapaxes(x, -1, -2) + np.eye(x.shape[-1]), x.dtype)


PROGRAMS: dict[str, Callable[..., Any]] = {
    "cholesky": lambda b, x: linalg.cholesky(b, x),
    "inverse": lambda b, x: linalg.inverse(b, x),
    "determinant": lambda b, x: linalg.determinant(b, x),
    "triangular": lambda b, x: linalg.triangular_inverse(b, x),
    "triangular up": lambda b, x: linalg.triangular_inverse(b, x, False),
    "eigh": lambda b, x: linalg.eigh(b, x),
    "svd": lambda b, x: linalg.svd(b, x),
}


def _function(name: str, x: Array) -> Function:
    b = Builder()
    dtype = DType.F32 if x.dtype == np.float32 else DType.F64
    found = PROGRAMS[name](b, b.parameter(TensorType(x.shape, dtype)))
    results = list(found) if isinstance(found, tuple) else [found]
    slots = [Slot(f"r{n}", Role.OUTPUT) for n in range(len(results))]
    return b.function("f", results, [Slot("x", Role.INPUT)], slots)


def _operand(name: str, n: int) -> Array:
    x = np.random.default_rng(n).standard_normal((2, n, n)) + 2 * np.eye(n)
    if name == "cholesky":
        return _positive(x)
    return _symmetric(x) if name == "eigh" else x


@pytest.mark.parametrize("name", PROGRAMS)
def test_kernels_compute_what_their_regions_say(name: str) -> None:
    """The kernel over a poisoned arena, beside the region in the interpreter: signs too."""
    for n in (0, 1, 2, 5):
        x = _operand(name, n)
        function = _function(name, x)
        expected = run(NumpyArrays(), function, [x])
        found = execute_plan(place(to_loops(function)), [x], poison=True)
        for mine, said in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine, said, rtol=1e-9, atol=1e-10, err_msg=f"{name} {n}")


@pytest.mark.parametrize("dtype, rtol", [(np.float64, 1e-9), (np.float32, 2e-3)])
def test_machine_code_beside_lapack(dtype: type[np.floating[Any]], rtol: float) -> None:
    """Sizes around vectors and the leaves of sums."""
    both = gradc.jit(
        lambda x, y: (
            np.linalg.cholesky(y),
            np.linalg.solve(x, y),
            np.linalg.slogdet(x),
            np.linalg.eigh(y),
            np.linalg.svd(x[..., :, 1:], full_matrices=False),
        )
    )
    for n in (17, 41):
        rng = np.random.default_rng(n)
        x = (rng.standard_normal((2, n, n)) + 3 * np.eye(n)).astype(dtype)
        y = _positive(x)
        low, solution, (sign, size), (values, vectors), (u, s, vt) = both(x, y)
        assert low.dtype == vectors.dtype == s.dtype == dtype
        wide, high = x.astype(float), y.astype(float)
        scale = np.abs(high).max()
        np.testing.assert_allclose(low, np.linalg.cholesky(high), rtol=rtol, atol=rtol)
        np.testing.assert_allclose(wide @ solution, high, rtol=rtol, atol=rtol * scale)
        np.testing.assert_array_equal(sign, np.linalg.slogdet(wide)[0])
        np.testing.assert_allclose(size, np.linalg.slogdet(wide)[1], rtol=rtol)
        near: dict[str, Any] = {"rtol": rtol, "atol": rtol * scale}
        np.testing.assert_allclose(values, np.linalg.eigvalsh(high), **near)
        np.testing.assert_allclose(high @ vectors, vectors * values[:, None], **near)
        np.testing.assert_allclose(u * s[:, None] @ vt, wide[..., :, 1:], rtol=rtol, atol=rtol)


EDGES: dict[str, Array] = {
    "one value": np.eye(12),
    "rank 1": np.ones((12, 12)),
    "nothing": np.zeros((12, 12)),
    "close pairs": np.diag(np.abs(np.arange(-10.0, 11.0))) + np.eye(21, k=1) + np.eye(21, k=-1),
    "graded": _symmetric(np.tril(10.0 ** -np.add.outer(np.arange(12.0), np.arange(12.0)))),
    "huge": 1e200 * _symmetric(np.random.default_rng(0).standard_normal((9, 9))),
    "tiny": 1e-200 * _symmetric(np.random.default_rng(1).standard_normal((9, 9))),
}


@pytest.mark.parametrize("name", EDGES)
def test_vectors_are_orthonormal_at_the_edges(name: str) -> None:
    a = EDGES[name]
    (values, vectors), (_, s, vt) = gradc.jit(lambda x: (np.linalg.eigh(x), np.linalg.svd(x)))(a)
    scale = max(np.abs(np.linalg.eigvalsh(a)).max(), 1e-300)
    np.testing.assert_allclose(values / scale, np.linalg.eigvalsh(a) / scale, atol=1e-14)
    np.testing.assert_allclose(s / scale, np.linalg.svd(a, compute_uv=False) / scale, atol=1e-14)
    for rows in (vectors.T, vt):
        np.testing.assert_allclose(rows @ rows.T, np.eye(len(a)), atol=1e-13)
    np.testing.assert_allclose(a / scale @ vectors, vectors * (values / scale), atol=1e-13)


def test_iterations_end_where_there_is_a_nan() -> None:
    a = _symmetric(np.random.default_rng(2).standard_normal((7, 7)))
    a[4, 2] = a[2, 4] = np.nan
    found = gradc.jit(lambda x: (np.linalg.eigh(x)[0], np.linalg.svd(x)[1]))(a)
    assert np.isnan(found[0]).all() and np.isnan(found[1]).all()


SLOPES: dict[str, Callable[[Any, Any], Any]] = {
    "cholesky": lambda m, x: m.sum(m.linalg.cholesky(x @ x.T + m.eye(5)) ** 3),
    "solve": lambda m, x: m.sum(m.linalg.solve(x, x[:, :2] ** 2) ** 2),
    "inv": lambda m, x: m.sum(m.sin(m.linalg.inv(x))),
    "slogdet": lambda m, x: m.linalg.slogdet(x)[1] ** 2,
    "eigh": lambda m, x: m.sum(m.linalg.eigh(x + x.T)[1] ** 3 * m.linalg.eigh(x + x.T)[1]),
    "svd": lambda m, x: m.sum(m.linalg.svd(x[:, 1:], full_matrices=False)[0] ** 4),
    "qr": lambda m, x: m.sum(m.linalg.qr(x)[1] ** 2 * x),
}


@pytest.mark.parametrize("name", SLOPES)
def test_gradients_are_those_of_jax(name: str) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    x = np.random.default_rng(5).standard_normal((5, 5)) + 2 * np.eye(5)
    function = SLOPES[name]
    expected = jax.jit(jax.grad(lambda x: function(jax.numpy, x)))(x)
    found = gradc.grad(lambda x: function(np, x))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_what_is_not_read_has_no_slope() -> None:
    """NumPy reads one triangle, so differences move nothing in the other."""
    rng = np.random.default_rng(6)
    x, along, weights = rng.standard_normal((3, 4, 4))
    for name in ("L", "U"):

        def f(x: Any, name: Any = name) -> Any:
            return np.sum(np.linalg.eigh(x, UPLO=name)[1] ** 2 * weights)

        slope = gradc.grad(f)(x)
        expected = (f(x + 1e-6 * along) - f(x - 1e-6 * along)) / 2e-6
        assert np.sum(slope * along) == pytest.approx(expected, rel=1e-6)
        assert not np.any((np.triu if name == "L" else np.tril)(slope, 1 if name == "L" else -1))
