"""Linear algebra of the tensor IR: values against NumPy's over sizes, second derivatives, matrices
at the edge.
"""

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
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType
from gradc.passes.differentiate.transforms import jvp, vjp

RNG = np.random.default_rng(21)


def program(write: Callable[..., Any], *arrays: Any) -> Function:
    """A program of ``ir/ops/linalg.py`` as a function of its operands."""
    b = Builder()
    operands = [b.parameter(TensorType(a.shape, DType.F64), f"p{n}") for n, a in enumerate(arrays)]
    found = write(b, *operands)
    results = list(found) if isinstance(found, tuple) else [found]
    slots = [Slot(f"p{n}", Role.INPUT) for n in range(len(operands))]
    return b.function(
        "f", results, slots, [Slot(f"r{n}", Role.OUTPUT) for n in range(len(results))]
    )


def evaluated(write: Callable[..., Any], *arrays: Any) -> list[Any]:
    return [np.asarray(x) for x in run(NumpyArrays(), program(write, *arrays), list(arrays))]


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_values_over_sizes(n: int) -> None:
    a = RNG.standard_normal((3, n, n))
    b = RNG.standard_normal((3, n, 2))
    positive = a @ np.swapaxes(a, -1, -2) + np.eye(n)
    steady = a + 3 * np.eye(n)
    close: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}
    np.testing.assert_allclose(evaluated(linalg.inverse, a)[0], np.linalg.inv(a), **close)
    np.testing.assert_allclose(evaluated(linalg.solve, a, b)[0], np.linalg.solve(a, b), **close)
    for mine, numpys in zip(evaluated(linalg.determinant, a), np.linalg.slogdet(a), strict=True):
        np.testing.assert_allclose(mine, numpys, **close)
    low = evaluated(linalg.cholesky, positive)[0]
    np.testing.assert_allclose(low, np.linalg.cholesky(positive), **close)
    for mine, numpys in zip(evaluated(linalg.qr, a), np.linalg.qr(a), strict=True):
        np.testing.assert_allclose(mine, numpys, **close)
    values, vectors = evaluated(linalg.eigh, a + np.swapaxes(a, -1, -2))
    np.testing.assert_allclose(values, np.linalg.eigvalsh(a + np.swapaxes(a, -1, -2)), **close)
    rebuilt = vectors * values[:, None] @ np.swapaxes(vectors, -1, -2)
    np.testing.assert_allclose(rebuilt, a + np.swapaxes(a, -1, -2), **close)
    for is_lower, keep in ((True, np.tril), (False, np.triu)):
        found = evaluated(
            lambda k, x, y, low=is_lower: linalg.triangular_solve(k, x, y, low), steady, b
        )
        np.testing.assert_allclose(found[0], np.linalg.solve(keep(steady), b), **close)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (6, 1)])
def test_singular_values_of_any_shape(shape: tuple[int, int]) -> None:
    a = RNG.standard_normal((2, *shape))
    u, s, vt = evaluated(linalg.svd, a)
    np.testing.assert_allclose(s, np.linalg.svd(a, compute_uv=False), rtol=1e-12)
    np.testing.assert_allclose(u * s[:, None] @ vt, a, rtol=1e-11, atol=1e-13)
    q, r = evaluated(linalg.qr, a)
    np.testing.assert_allclose(q @ r, a, rtol=1e-11, atol=1e-13)
    gram = np.swapaxes(q, -1, -2) @ q
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(q.shape[-1]), gram.shape), atol=1e-14)


def test_forward_is_the_transpose_of_reverse_for_triangular_systems() -> None:
    a, b = RNG.standard_normal((4, 4)) + 3 * np.eye(4), RNG.standard_normal((4, 2))
    f = program(linalg.triangular_solve, a, b)
    da, db, ct = (
        RNG.standard_normal((4, 4)),
        RNG.standard_normal((4, 2)),
        RNG.standard_normal((4, 2)),
    )
    *_, dot = run(NumpyArrays(), jvp(f, ["p0", "p1"]), [a, b, da, db])
    *_, a_ct, b_ct = run(NumpyArrays(), vjp(f, ["p0", "p1"]), [a, b, ct])
    assert np.sum(ct * dot) == pytest.approx(np.sum(a_ct * da) + np.sum(b_ct * db), rel=1e-12)
    step = 1e-6
    ends = [np.linalg.solve(np.tril(a + h * da), b + h * db) for h in (step, -step)]
    np.testing.assert_allclose(dot, (ends[0] - ends[1]) / (2 * step), rtol=1e-7, atol=1e-8)


def even(x: Any) -> Any:
    return (x + x.T) / 2 + 5 * np.eye(4)


CURVED: dict[str, Callable[[Any], Any]] = {
    "solve": lambda x: np.sum(np.linalg.solve(even(x), x[0]) ** 2),
    "slogdet": lambda x: np.linalg.slogdet(even(x))[1],
    "cholesky": lambda x: np.sum(np.linalg.cholesky(even(x)) ** 3),
    "eigh": lambda x: np.sum(np.sin(np.linalg.eigh(even(x))[0])),
    "qr": lambda x: np.sum(np.linalg.qr(x)[1] ** 2 * np.arange(4.0)),
    "svd": lambda x: np.sum(np.linalg.svd(x, compute_uv=False) ** 3),
}


@pytest.mark.parametrize("name", CURVED)
def test_second_derivatives(name: str) -> None:
    """Forward over reverse, against central differences of the gradient."""
    function, x = CURVED[name], RNG.standard_normal((4, 4))
    along = RNG.standard_normal((4, 4))
    slope = gradc.grad(function)
    _, curved = gradc.jvp(lambda v: gradc.grad(function)(v), (x,), (along,))
    expected = (slope(x + 1e-5 * along) - slope(x - 1e-5 * along)) / 2e-5
    np.testing.assert_allclose(curved, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_matrices_without_the_factorisation_give_no_numbers() -> None:
    singular = np.array([[1.0, 2.0], [2.0, 4.0]])
    value, _ = gradc.value_and_grad(np.linalg.det)(singular)
    assert float(value) == pytest.approx(0.0, abs=1e-15)
    negative = np.array([[1.0, 0.0], [0.0, -1.0]])
    value, _ = gradc.value_and_grad(lambda x: np.sum(np.linalg.cholesky(x)))(negative)
    assert np.isnan(value)


def test_equal_eigenvalues_have_a_gradient() -> None:
    slope = gradc.grad(lambda x: np.sum(np.linalg.eigh(x)[0] ** 2))(2.0 * np.eye(3))
    np.testing.assert_allclose(slope, 4.0 * np.eye(3), atol=1e-14)


@pytest.mark.parametrize("function", [np.linalg.norm, np.std], ids=["norm", "std"])
def test_roots_of_sums_of_squares_are_flat_where_they_vanish(function: Callable[..., Any]) -> None:
    np.testing.assert_array_equal(gradc.grad(function)(np.zeros(4)), np.zeros(4))


def test_order_with_ties_and_nan() -> None:
    x = np.array([2.0, np.nan, 1.0, 2.0, -np.inf, np.nan, 1.0])
    order = gradc.jvp(lambda v: np.argsort(v) + 0.0 * np.nan_to_num(v), (x,), (x,))[0]
    np.testing.assert_array_equal(order, np.argsort(x, kind="stable"))
    value, slope = gradc.jvp(np.sort, (x,), (np.arange(7.0),))
    np.testing.assert_array_equal(value, np.sort(x))
    np.testing.assert_array_equal(slope, np.arange(7.0)[np.argsort(x, kind="stable")])
