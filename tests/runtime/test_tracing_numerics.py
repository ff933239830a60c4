"""Traced functions where the mathematics is awkward: ties, ends of the number line, one element,
none; exact results.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradc

INF = np.inf
RNG = np.random.default_rng(11)


# ---- derivatives at ties


def test_the_second_derivative_of_logaddexp_at_a_tie_is_that_of_softplus() -> None:
    assert gradc.hessian(lambda x: np.logaddexp(0.0, x))(0.0) == pytest.approx(0.25, rel=1e-15)
    pair = gradc.hessian(lambda v: np.logaddexp(v[0], v[1]))(np.array([0.7, 0.7]))
    np.testing.assert_allclose(pair, [[0.25, -0.25], [-0.25, 0.25]], rtol=1e-14)


def test_a_logistic_regression_has_its_hessian_at_zero() -> None:
    x, y = RNG.standard_normal((9, 3)), RNG.integers(0, 2, 9) * 2.0 - 1

    def loss(w: Any) -> Any:
        return np.sum(np.logaddexp(0.0, -y * (x @ w)))

    np.testing.assert_allclose(gradc.hessian(loss)(np.zeros(3)), x.T @ x / 4, rtol=1e-13)


_U = 1 + 0.66**2
_ARCTAN_JET = (1 / _U, -2 * 0.66 / _U**2, (6 * 0.66**2 - 2) / _U**3)

# Functions whose value is put together from cases, at points where the cases meet: (function,
# point, third-order jet).
TIES: tuple[tuple[str, Callable[[Any], Any], float, tuple[float, ...]], ...] = (
    ("logaddexp", lambda x: np.logaddexp(x, 0.0), 0.0, (0.5, 0.25, 0.0)),
    ("logaddexp mirrored", lambda x: np.logaddexp(-x, x), 0.0, (0.0, 1.0, 0.0)),
    ("sinh", np.sinh, 0.0, (1.0, 0.0, 1.0)),
    ("sinh at a seam", np.sinh, 1.0, (np.cosh(1), np.sinh(1), np.cosh(1))),
    ("cosh", np.cosh, 0.0, (0.0, 1.0, 0.0)),
    ("arcsinh", np.arcsinh, 0.0, (1.0, 0.0, -1.0)),
    ("arctanh", np.arctanh, 0.0, (1.0, 0.0, 2.0)),
    ("arctan", np.arctan, 0.0, (1.0, 0.0, -2.0)),
    ("arctan at a seam", np.arctan, 0.66, _ARCTAN_JET),
    ("arcsin", np.arcsin, 0.0, (1.0, 0.0, 1.0)),
    ("arccos", np.arccos, 0.0, (-1.0, 0.0, -1.0)),
    ("exp2 at a half", np.exp2, 0.5, tuple(2**0.5 * np.log(2) ** n for n in (1, 2, 3))),
    ("log2", np.log2, 1.0, tuple(c / np.log(2) for c in (1, -1, 2))),
    ("hypot", lambda x: np.hypot(x, 1.0), 1.0, (0.5**0.5, 8**-0.5, -3 / 32**0.5)),
    ("arctan2", lambda x: np.arctan2(x, x + 1), 0.0, (1.0, -2.0, 4.0)),
)


@pytest.mark.parametrize(("name", "function", "at", "jet"), TIES, ids=[t[0] for t in TIES])
def test_derivatives_where_cases_meet(
    name: str, function: Callable[[Any], Any], at: float, jet: tuple[float, ...]
) -> None:
    def curvature(x: Any) -> Any:
        return gradc.grad(lambda z: gradc.grad(function)(z))(x)

    second, third = gradc.value_and_grad(curvature)(at)
    first = gradc.jvp(function, (at,), (1.0,))[1]
    np.testing.assert_allclose([first, second, third], jet, rtol=1e-13, atol=1e-14)


# ---- the ends of the number line, and exact results

EXACT: dict[Callable[..., Any], tuple[tuple[float, ...], ...]] = {
    np.logaddexp: ((-INF, -INF), (-INF, 2.0), (INF, -INF), (INF, INF), (3.0, -INF)),
    np.exp2: ((3.0,), (-1074.0,), (1023.0,), (1100.0,), (-2000.0,), (INF,), (-INF,), (np.nan,)),
    np.log2: ((8.0,), (5e-324,), (2.0**1000,), (0.0,), (INF,)),
    np.log10: ((1000.0,), (1e-5,), (1e22,), (0.0,), (INF,)),
    np.cbrt: ((8.0,), (-27.0,), (0.0,), (INF,), (-INF,)),
    np.hypot: ((3.0, 4.0), (0.0, 0.0), (INF, np.nan), (1e300, 0.0), (1e300, 1e300)),
    np.arctan: ((0.0,), (-0.0,), (INF,), (-INF,)),
    np.arctan2: ((0.0, -1.0), (-0.0, -1.0), (0.0, 0.0), (-0.0, 0.0), (INF, INF), (1.0, -INF)),
    np.arcsinh: ((0.0,), (INF,), (-INF,)),
    np.arccosh: ((1.0,), (INF,)),
    np.sinh: ((0.0,), (-0.0,), (INF,), (-INF,)),
}


@pytest.mark.parametrize("function", EXACT, ids=lambda f: f.__name__)
def test_values_at_the_ends(function: Callable[..., Any]) -> None:
    columns = tuple(np.array(c) for c in zip(*EXACT[function], strict=True))
    with np.errstate(all="ignore"):
        expected = function(*columns)
    value, _ = gradc.jvp(function, columns, columns)
    np.testing.assert_allclose(value, expected, rtol=3e-16)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(value)[known], np.signbit(expected)[known])


def test_sinh_and_cosh_are_finite_up_to_the_last_argument() -> None:
    for function in (np.sinh, np.cosh):
        value, slope = gradc.value_and_grad(function)(710.2)
        assert value == pytest.approx(float(function(710.2)), rel=1e-13)
        assert slope == pytest.approx(float(np.cosh(710.2)), rel=1e-13)


ULPS: tuple[tuple[str, float, float, float], ...] = (
    ("exp2", -20.0, 20.0, 2.0),
    ("log2", 1e-3, 1e3, 2.0),
    ("log10", 1e-3, 1e3, 2.5),
    ("sinh", -5.0, 5.0, 3.0),
    ("cosh", -5.0, 5.0, 3.0),
    ("arcsinh", -9.0, 9.0, 4.0),
    ("arccosh", 1.0, 9.0, 4.0),
    ("arctanh", -0.99, 0.99, 4.0),
    ("arctan", -9.0, 9.0, 2.0),
    ("arcsin", -1.0, 1.0, 3.0),
    ("arccos", -1.0, 1.0, 3.0),
    ("cbrt", -9.0, 9.0, 2.0),
)


@pytest.mark.parametrize(("name", "low", "high", "bound"), ULPS, ids=[u[0] for u in ULPS])
@pytest.mark.parametrize("width", [np.float64, np.float32])
def test_largest_errors_in_units_of_the_last_place(
    name: str, low: float, high: float, bound: float, width: Any
) -> None:
    x = np.random.default_rng(3).uniform(low, high, 4000).astype(width)
    function = getattr(np, name)
    found, _ = gradc.jvp(function, (x,), (x,))
    exact = function(x.astype(np.longdouble))
    ulps = np.abs(found - exact) / np.spacing(np.abs(exact).astype(width))
    assert float(ulps.max()) <= bound


# ---- one element, or none


def test_the_deviation_of_one_element_is_flat() -> None:
    value, slope = gradc.value_and_grad(np.std)(np.array([3.0]))
    assert (float(value), float(slope[0])) == (0.0, 0.0)
    rows = gradc.grad(lambda x: np.sum(np.std(x, axis=1)))(np.array([[2.0], [5.0]]))
    np.testing.assert_array_equal(rows, np.zeros((2, 1)))
    equal = gradc.grad(lambda x: np.std(x) + x[0])(np.full(4, 0.1))
    np.testing.assert_array_equal(equal, [1.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("function", [np.max, np.min, np.amax, np.amin])
def test_an_extreme_of_no_elements_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(gradc.DiagnosticError, match=r"GC0558.*no elements"):
        gradc.grad(lambda x: function(x[:0]))(np.ones(3))
    started = gradc.value_and_grad(lambda x: function(x[:0], initial=2.5) + x[0])(np.ones(3))
    assert float(started[0]) == 3.5


def test_moments_take_ddof_masks_and_types() -> None:
    x, mask = RNG.standard_normal((4, 5)), RNG.random((4, 5)) > 0.3
    cases: tuple[Callable[[Any], Any], ...] = (
        lambda v: np.var(v, ddof=1),
        lambda v: np.sum(np.std(v, axis=0, ddof=1.0)),
        lambda v: np.sum(np.var(v, axis=1, where=mask)),
        lambda v: np.mean(v, where=mask),
        lambda v: np.sum(v, where=mask),
        lambda v: np.sum(np.prod(v, axis=1, where=mask, initial=2.0)),
        lambda v: np.sum(np.max(v, axis=1, where=mask, initial=-1.0)),
        lambda v: np.sum(np.sum(v, 1, float)),
        lambda v: np.sum(np.mean(v, 1, np.float64, None, True)),
    )
    for number, function in enumerate(cases):
        value, slope = gradc.value_and_grad(function)(x)
        assert value == pytest.approx(float(function(x)), rel=1e-13), number
        along = RNG.standard_normal(x.shape)
        step = (function(x + 1e-6 * along) - function(x - 1e-6 * along)) / 2e-6
        assert np.vdot(slope, along) == pytest.approx(step, rel=1e-7, abs=1e-8), number


# ---- places and axes count as NumPy's


def test_places_of_split_count_from_the_end() -> None:
    x = np.arange(6.0)
    for places in ([-1], [2, -1], [4, 2], [-9, 3], [3, 99]):
        weights = [RNG.standard_normal(p.size) for p in np.split(x, places)]

        def total(v: Any, places: Any = places, weights: Any = weights) -> Any:
            parts = np.split(v, places)
            return sum(np.sum(p * w) for p, w in zip(parts, weights, strict=True))

        assert float(gradc.value_and_grad(total)(x)[0]) == pytest.approx(total(x), rel=1e-14)


OUT_OF_RANGE: tuple[tuple[str, Callable[[Any], Any], str], ...] = (
    ("expand_dims", lambda x: np.sum(np.expand_dims(x, 7)), "axis 7"),
    ("expand_dims twice", lambda x: np.sum(np.expand_dims(x, (0, 0))), "axis"),
    ("transpose", lambda x: np.sum(np.transpose(x, (3, 2))), "axis"),
    ("transpose twice", lambda x: np.sum(np.transpose(x, (0, 0))), "do not turn"),
    ("transpose too few", lambda x: np.sum(np.transpose(x, (0,))), "do not turn"),
    ("swapaxes", lambda x: np.sum(np.swapaxes(x, 0, 2)), "axis"),
    ("stack", lambda x: np.sum(np.stack([x, x], axis=5)), "axis 5"),
    ("squeeze", lambda x: np.sum(np.squeeze(x, axis=4)), "axis 4"),
    ("split", lambda x: np.sum(np.split(x, 2, axis=3)[0]), "axis 3"),
)


@pytest.mark.parametrize(
    ("name", "function", "message"), OUT_OF_RANGE, ids=[o[0] for o in OUT_OF_RANGE]
)
def test_an_axis_out_of_range_is_refused(
    name: str, function: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(gradc.DiagnosticError) as found:
        gradc.grad(function)(np.ones((2, 3)))
    assert re.search(rf"GC0558.*{message}", str(found.value), re.DOTALL), str(found.value)
