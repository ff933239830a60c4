"""Derivatives of NumPy functions inside each other, closures included, against closed forms and
differences.
"""

from typing import Any

import numpy as np
import pytest

import gradc

RNG = np.random.default_rng(12)


def test_jvp_of_jvp_is_the_second_derivative() -> None:
    x = RNG.normal(size=5)
    ones = np.ones(5)

    def slope(s: Any) -> Any:
        return gradc.jvp(lambda r: np.sin(2 * r), [s], [ones])[1]

    value, second = gradc.jvp(slope, [x], [ones])
    np.testing.assert_allclose(value, 2 * np.cos(2 * x), rtol=1e-13)
    np.testing.assert_allclose(second, -4 * np.sin(2 * x), rtol=1e-12)


def test_an_inner_function_uses_traced_values_of_the_outer_one() -> None:
    """d/dw of the sum of d/dx sin(w x) = w cos(w x): cos(w x) - w x sin(w x)."""
    x, w = RNG.normal(size=7), 1.3

    def loss(w: Any) -> Any:
        return np.sum(gradc.jvp(lambda s: np.sin(w * s), [x], [np.ones(7)])[1])

    value, slope = gradc.value_and_grad(loss)(w)
    assert float(value) == pytest.approx(float(np.sum(w * np.cos(w * x))), rel=1e-13)
    expected = np.sum(np.cos(w * x) - w * x * np.sin(w * x))
    assert float(slope) == pytest.approx(float(expected), rel=1e-12)


def test_three_levels_of_closure() -> None:
    """d/da d/db d/dc of a^2 b^3 c^4 = 24 a b^2 c^3."""

    def in_a(a: Any) -> Any:
        def in_b(b: Any) -> Any:
            return gradc.grad(lambda c: a**2 * b**3 * c**4)(0.7)

        return gradc.grad(in_b)(1.1)

    assert float(gradc.grad(in_a)(1.9)) == pytest.approx(24 * 1.9 * 1.1**2 * 0.7**3, rel=1e-12)


def test_inner_perturbation_is_not_confused_with_the_outer_one() -> None:
    """The classic: d/dx (x d/dy (x + y)) at 1 is 1, not 2."""
    inner = gradc.grad(lambda x: x * gradc.grad(lambda y: x + y)(1.0))
    assert float(inner(1.0)) == pytest.approx(1.0, rel=1e-15)


def test_gradient_of_a_hessian_vector_product_with_captured_arrays() -> None:
    a = RNG.normal(size=(4, 4))
    v, x = RNG.normal(size=4), RNG.normal(size=4)

    def f(s: Any) -> Any:
        return np.sum(np.tanh(a @ s) ** 2)

    def along(s: Any) -> Any:
        return np.sum(gradc.jvp(gradc.grad(f), [s], [v])[1] * v)

    found = gradc.grad(along)(x)
    step = 1e-5
    for i in range(4):
        e = np.zeros(4)
        e[i] = step
        slope = (float(_along_by_hand(a, x + e, v)) - float(_along_by_hand(a, x - e, v))) / (
            2 * step
        )
        assert found[i] == pytest.approx(slope, rel=1e-6, abs=1e-8)


def _along_by_hand(a: Any, x: Any, v: Any) -> Any:
    """v^T H v of sum tanh(a x)^2, from the derivative of t^2 twice: 2 (1 - t^2)(1 - 3 t^2)."""
    t = np.tanh(a @ x)
    return np.sum(2 * (1 - t**2) * (1 - 3 * t**2) * (a @ v) ** 2)


def test_values_left_over_are_refused() -> None:
    kept: list[Any] = []

    def keeps(x: Any) -> Any:
        kept.append(x)
        return np.sum(x**2)

    gradc.grad(keeps)(np.ones(3))
    with pytest.raises(gradc.DiagnosticError, match="GC0559"):
        kept[0] + 1
    with pytest.raises(gradc.DiagnosticError, match="GC0559"):
        gradc.grad(lambda x: np.sum(x * kept[0]))(np.ones(3))


def test_an_error_inside_leaves_no_trace_behind() -> None:
    """After a failed recording, derivatives outside work as before."""
    with pytest.raises(gradc.DiagnosticError):
        gradc.grad(lambda x: np.linalg.eig(x))(np.eye(2))
    assert float(gradc.grad(lambda x: x**2)(3.0)) == 6.0


def test_tangents_of_another_shape_are_refused() -> None:
    with pytest.raises(gradc.DiagnosticError, match="GC0566"):
        gradc.grad(lambda x: np.sum(gradc.jvp(np.sin, [x], [np.ones(2)])[1]))(np.ones(3))


def test_numbers_of_a_class_are_compared() -> None:
    class Model:
        k = 3.0

        def f(self, x: Any) -> Any:
            return self.k * x

    one, two = Model(), Model()
    first, second = gradc.grad(lambda x: one.f(x)), gradc.grad(lambda x: two.f(x))
    assert first(1.0) == second(1.0) == 3.0
    one.k = 5.0
    assert (first(1.0), second(1.0)) == (5.0, 3.0)
    Model.k = 7.0
    assert (first(1.0), second(1.0)) == (5.0, 7.0)


def test_data_of_a_class_may_be_rebound() -> None:
    """Lists as well as numbers, read from an object or from the class itself."""

    class Model:
        w = [1.0, 2.0]  # noqa: RUF012  (rebound below)
        k = 2.0

        def f(self, x: Any) -> Any:
            return self.w[0] * x

    one = Model()
    slopes = [
        gradc.grad(lambda x: one.f(x)),
        gradc.grad(lambda x: Model.w[1] * x),
        gradc.grad(lambda x: Model.k * x),
    ]
    assert [float(slope(1.0)) for slope in slopes] == [1.0, 2.0, 2.0]
    Model.w, Model.k = [5.0, 6.0], 7.0
    assert [float(slope(1.0)) for slope in slopes] == [5.0, 6.0, 7.0]
