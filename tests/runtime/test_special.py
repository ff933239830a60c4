"""Special functions against SciPy: values to a stated error, slopes and second slopes against
SciPy's own derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.codegen.special_fit import FITS, TARGET, fitted
from gradc.ir.special.table import TABLE, special
from gradc.runtime.tracing.trace import UFUNCS
from gradc.runtime.tracing.transforms import grad as fill_the_tables
from tests.support.interpreted import evaluated

sp = pytest.importorskip("scipy.special")

# Ranges, and the largest error there: relative, or absolute where a row says so (functions with
# zeros).
RANGES: tuple[tuple[str, float, float, float, bool], ...] = (
    ("gammaln", 1e-5, 3.0, 2e-15, True),
    ("gammaln", 3.0, 60.0, 1e-14, False),
    ("gammaln", 1e3, 1e10, 1e-15, False),
    ("gammaln", -4.9, -0.1, 2e-14, True),
    ("psi", 0.01, 60.0, 4e-14, True),
    ("gamma", 0.1, 30.0, 6e-14, False),
    ("erf", -3.0, 3.0, 1e-15, False),
    ("erfc", -3.0, 3.0, 4e-15, False),
    ("erfc", 3.0, 26.0, 2e-13, False),
    ("erfcx", -3.0, 1e3, 3e-15, False),
    ("erfcinv", 1e-12, 1.999, 3e-15, True),
    ("rgamma", -4.9, 30.0, 2e-13, True),
    ("loggamma", 0.1, 3.0, 2e-15, True),
    ("exp10", -9.0, 9.0, 4e-15, False),
    ("cosm1", -1e-3, 1e-3, 5e-16, False),
    ("erfinv", -0.999, 0.999, 2e-15, False),
    ("ndtr", -10.0, 10.0, 1e-13, False),
    ("log_ndtr", -1e3, 10.0, 1e-13, False),
    ("ndtri", 1e-6, 0.999999, 3e-15, True),
    ("expit", -40.0, 40.0, 1e-15, False),
    ("logit", 0.001, 0.999, 3e-15, True),
    ("log_expit", -40.0, 40.0, 1e-15, False),
    ("entr", 0.0, 3.0, 2e-15, True),
    ("j0", 0.0, 100.0, 2e-15, True),
    ("j1", -100.0, 100.0, 2e-15, True),
    ("y0", 0.01, 100.0, 4e-15, True),
    ("y1", 0.1, 100.0, 4e-15, True),
    ("i0", -8.0, 700.0, 2e-15, False),
    ("i1", -8.0, 700.0, 8e-15, False),
    ("i0e", -1e4, 1e4, 2e-15, False),
    ("i1e", -1e4, 1e4, 8e-15, False),
)


@pytest.mark.parametrize(
    ("name", "low", "high", "bound", "is_absolute"), RANGES, ids=[f"{r[0]}-{r[1]}" for r in RANGES]
)
def test_values_are_scipys(
    name: str, low: float, high: float, bound: float, is_absolute: bool
) -> None:
    x = np.random.default_rng(5).uniform(low, high, 1500)
    function = getattr(sp, name)
    value, slope = gradc.jvp(lambda v: function(v), (x,), (np.ones_like(x),))
    expected = function(x)
    size = np.ones_like(x) if is_absolute else np.abs(expected)
    assert float(np.max(np.abs(value - expected) / size)) <= bound
    step = 1e-5 * np.maximum(np.abs(x), 1e-2)
    coarse, fine = ((function(x + h) - function(x - h)) / (2 * h) for h in (2 * step, step))
    by_difference = (4 * fine - coarse) / 3
    rounding = np.abs(expected) * 4e-16 / step
    trusted = np.abs(fine - coarse) + 100 * rounding <= 1e-4 * np.abs(fine)
    assert trusted.mean() > 0.3
    np.testing.assert_allclose(slope[trusted], by_difference[trusted], rtol=1e-5, atol=1e-9)


# Derivatives that SciPy has in closed form: (function, points, second derivative).
CURVATURES: tuple[tuple[str, Any, Callable[[Any], Any]], ...] = (
    ("gammaln", np.array([0.3, 1.0, 2.0, 7.5, 40.0]), lambda x: sp.polygamma(1, x)),
    ("psi", np.array([0.3, 1.0, 2.0, 7.5, 40.0]), lambda x: sp.polygamma(2, x)),
    ("expit", np.array([-50.0, -2.0, 0.0, 3.0]), lambda x: _expit_curvature(x)),
    ("erfc", np.array([-1.0, 0.0, 2.0]), lambda x: 4 * x * np.exp(-x * x) / math.sqrt(math.pi)),
    (
        "ndtr",
        np.array([-1.0, 0.0, 2.0]),
        lambda x: -x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    ),
    ("j0", np.array([0.0, 0.5, 9.0]), lambda x: (sp.jv(2, x) - sp.j0(x)) / 2),
    ("j1", np.array([0.0, 0.5, 9.0]), lambda x: (sp.jv(3, x) - 3 * sp.j1(x)) / 4),
    ("i0", np.array([0.0, 0.5, 9.0]), lambda x: (sp.iv(2, x) + sp.i0(x)) / 2),
)


def _expit_curvature(x: Any) -> Any:
    s, rest = sp.expit(x), sp.expit(-x)
    return s * rest * (rest - s)


@pytest.mark.parametrize(("name", "x", "expected"), CURVATURES, ids=[c[0] for c in CURVATURES])
def test_second_derivatives(name: str, x: Any, expected: Callable[[Any], Any]) -> None:
    function = getattr(sp, name)

    def slope(v: Any) -> Any:
        return gradc.grad(lambda u: np.sum(function(u)))(v)

    _, found = gradc.jvp(slope, (x,), (np.ones_like(x),))
    np.testing.assert_allclose(found, expected(x), rtol=2e-13, atol=3e-15)


PAIRS: tuple[tuple[str, tuple[float, float], tuple[float, float]], ...] = (
    ("betaln", (0.2, 9.0), (0.2, 9.0)),
    ("beta", (0.2, 9.0), (0.2, 9.0)),
    ("xlogy", (0.0, 3.0), (0.2, 3.0)),
    ("xlog1py", (0.0, 3.0), (-0.5, 3.0)),
    ("rel_entr", (0.1, 3.0), (0.2, 3.0)),
    ("kl_div", (0.1, 3.0), (0.2, 3.0)),
    ("gammainc", (0.2, 9.0), (0.01, 20.0)),
)
# The same in the interpreter, whose quadratures need not be compiled.
INTERPRETED: tuple[tuple[str, tuple[float, float], tuple[float, float]], ...] = (
    ("huber", (0.5, 2.0), (-3.0, 3.0)),
    ("pseudo_huber", (0.5, 2.0), (-3.0, 3.0)),
    ("gammaincc", (0.2, 9.0), (0.01, 20.0)),
    ("chdtr", (0.2, 9.0), (0.01, 20.0)),
    ("chdtrc", (0.2, 9.0), (0.01, 20.0)),
    ("stdtr", (0.5, 9.0), (-4.0, 4.0)),
    ("iv", (0.0, 9.0), (0.1, 20.0)),
    ("ive", (0.0, 9.0), (0.1, 20.0)),
)


@pytest.mark.parametrize(("name", "first", "second"), PAIRS, ids=[p[0] for p in PAIRS])
def test_functions_of_two(
    name: str, first: tuple[float, float], second: tuple[float, float]
) -> None:
    rng = np.random.default_rng(6)
    a, b = rng.uniform(*first, 300), rng.uniform(*second, 300)
    function = getattr(sp, name)
    da, db = rng.standard_normal((2, 300))
    value, slope = gradc.jvp(lambda x, y: function(x, y), (a, b), (da, db))
    np.testing.assert_allclose(value, function(a, b), rtol=2e-13, atol=1e-14)
    step = 1e-6
    by_difference = (
        function(a + step * da, b + step * db) - function(a - step * da, b - step * db)
    ) / (2 * step)
    np.testing.assert_allclose(slope, by_difference, rtol=1e-6, atol=1e-7)


def test_every_function_of_scipy_is_tried() -> None:
    assert gradc.grad is fill_the_tables
    scipys = {n for n in UFUNCS if not isinstance(getattr(np, n, None), np.ufunc)}
    scipys -= {"clip"}
    # Of three, of an order that is known, and flat.
    beside = {"betainc", "betaincc", "jv", "yn", "gammasgn", "round"}
    assert scipys == {row[0] for row in (*RANGES, *PAIRS, *INTERPRETED)} | beside


@pytest.mark.parametrize("row", [*INTERPRETED, ("betainc",), ("betaincc",)], ids=lambda r: r[0])
def test_functions_of_several(row: Any) -> None:
    """Values, and slopes in every argument, against differences of SciPy's."""
    rng = np.random.default_rng(8)
    function = getattr(sp, row[0])
    given = [rng.uniform(low, high, 60) for low, high in row[1:]]
    given = given or [*rng.uniform(0.3, 9, (2, 60)), rng.uniform(0, 1, 60)]
    (value,) = evaluated(function, given)
    np.testing.assert_allclose(value, function(*given), rtol=2e-12)
    weights = rng.standard_normal(60)
    _, *slopes = evaluated(lambda *a: np.sum(weights * function(*a)), given, is_loss=True)
    for n, slope in enumerate(slopes):
        ends = [function(*(x + h * (n == m) for m, x in enumerate(given))) for h in (1e-6, -1e-6)]
        exact = weights * (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(slope, exact, rtol=1e-6, atol=3e-8 * np.max(np.abs(value)))


def test_signs_and_rounding_are_flat() -> None:
    x = np.array([1.2, 0.0, -0.0, -0.5, -1.0, -1.5, np.nan, np.inf, 2.5])
    for function in (sp.gammasgn, sp.round):
        np.testing.assert_array_equal(evaluated(function, [x])[0], function(x))
        slope = evaluated(lambda x, f=function: np.sum(f(x)), [x[:4]], is_loss=True)[1]
        np.testing.assert_array_equal(slope, np.zeros(4))


def test_incomplete_functions_of_any_size() -> None:
    """Against 40 digits: shapes from 1e-3 to 1e5, in the bulk and far out, and large degrees."""
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(9)
    a = 10 ** rng.uniform(-3, 5, 40)
    x = a * np.exp(rng.standard_normal(40) * 3 / np.sqrt(a + 1))
    b = 10 ** rng.uniform(-2, 4, 40)
    p = np.clip(a / (a + b) * np.exp(rng.standard_normal(40) / np.sqrt(a + 1)), 1e-9, 0.999)
    t = rng.standard_normal(40) * 3
    found = evaluated(
        lambda a, x, b, p, t: (sp.gammainc(a, x), sp.betainc(a, b, p), sp.stdtr(1e6 * a, t)),
        [a, x, b, p, t],
    )
    with mpmath.workdps(40):
        gammas = [mpmath.gammainc(u, 0, v, regularized=True) for u, v in zip(a, x, strict=True)]
        betas = [
            mpmath.betainc(*v[:2], 0, v[2], regularized=True) for v in zip(a, b, p, strict=True)
        ]
    normal = sp.stdtr(1e6 * a, t)
    for values, exact in zip(found, (gammas, betas, normal), strict=True):
        exact = np.array([float(v) for v in exact])
        np.testing.assert_allclose(values, exact, rtol=2e-9, atol=1e-290)
        assert np.median(np.abs(values / exact - 1)) < 1e-13


def test_ends_of_incomplete_functions() -> None:
    inf, nan = np.inf, np.nan
    a = np.array([1.0, 2.0, 0.5, 0.0, -1.0, 2.0, nan, 2.0])
    x = np.array([0.0, 0.0, 0.0, 1.0, 1.0, inf, 1.0, -1.0])
    for function in (sp.gammainc, sp.gammaincc):
        np.testing.assert_array_equal(evaluated(function, [a, x])[0], function(a, x))
    assert evaluated(lambda x: sp.gammainc(1.0, x), [0.0], is_loss=True)[1] == 1.0
    assert evaluated(lambda x: sp.betainc(1.0, 3.0, x), [0.0], is_loss=True)[1] == 3.0
    _, *slopes = evaluated(lambda v, t: sp.stdtr(v, t), [3.0, 0.0], is_loss=True)
    assert slopes[0] == 0.0
    assert slopes[1] == pytest.approx(0.3675525969478613, rel=1e-14)
    assert evaluated(lambda x: sp.ive(1.0, x), [0.0], is_loss=True)[1] == 0.5
    curved = gradc.grad(gradc.grad(lambda x: sp.gammainc(2.5, x)))(1.3)
    assert curved == pytest.approx(_density_slope(2.5, 1.3), rel=1e-12)


def _density_slope(a: float, x: float) -> float:
    return float(x ** (a - 1) * np.exp(-x) / sp.gamma(a) * ((a - 1) / x - 1))


@pytest.mark.parametrize("order", [0, 2, 5, 40, -3])
def test_bessel_functions_of_whole_orders(order: int) -> None:
    x = np.concatenate([np.linspace(-60, 60, 201), np.linspace(-4, 4, 50), [0.0]])
    value, slope = gradc.jvp(lambda x: sp.jv(order, x), (x,), (np.ones_like(x),))
    np.testing.assert_allclose(value, sp.jv(order, x), rtol=1e-11, atol=2e-15)
    np.testing.assert_allclose(slope, sp.jvp(order, x), rtol=1e-11, atol=2e-15)
    y = np.abs(x) + 2.0
    value, slope = gradc.jvp(lambda y: sp.yn(order, y), (y,), (np.ones_like(y),))
    np.testing.assert_allclose(value, sp.yn(order, y), rtol=1e-11, atol=4e-14)
    np.testing.assert_allclose(slope, sp.yvp(order, y), rtol=1e-11, atol=4e-14)


def test_derivatives_of_sinc_at_and_near_zero() -> None:
    x = np.array([0.0, 1e-9, 0.3, 0.64, 2.7, -5.1])
    first = gradc.jvp(np.sinc, (x,), (np.ones_like(x),))[1]
    safe = np.where(np.abs(x) < 1e-3, 1.0, x)
    exact = (np.cos(np.pi * safe) - np.sinc(safe)) / safe
    exact = np.where(np.abs(x) < 1e-3, -(np.pi**2) * x / 3, exact)
    np.testing.assert_allclose(first, exact, rtol=1e-12, atol=1e-15)
    curvature = gradc.jvp(lambda v: gradc.jvp(np.sinc, (v,), (np.ones(6),))[1], (x,), (np.ones(6),))
    assert curvature[1][0] == pytest.approx(-(np.pi**2) / 3, rel=1e-14)


def test_ends_of_the_range() -> None:
    inf = np.inf
    ends = {
        "gammaln": (0.0, -2.0, inf, 1.0, 2.0),
        "erfinv": (-1.0, 1.0, 0.0, 2.0),
        "ndtri": (0.0, 1.0, 0.5, -1.0),
        "erfc": (-inf, inf, 0.0),
        "log_ndtr": (-inf, inf, 0.0),
        "expit": (-inf, inf, 0.0),
        "logit": (0.0, 1.0, 0.5),
        "entr": (0.0, -1.0, 1.0),
        "i0e": (0.0, inf),
    }
    for name, points in ends.items():
        x, function = np.array(points), getattr(sp, name)
        value = gradc.jvp(lambda v, f=function: f(v), (x,), (np.zeros_like(x),))[0]
        np.testing.assert_allclose(value, function(x), rtol=1e-15, atol=1e-300, err_msg=name)


def test_narrow_types_are_rounded_once() -> None:
    x = np.linspace(0.5, 9, 400, dtype=np.float32)
    for name in ("gammaln", "psi", "erfc", "j0", "i0e"):
        function = getattr(sp, name)
        value = gradc.jvp(lambda v, f=function: f(v), (x,), (x,))[0]
        assert value.dtype == np.float32
        exact = function(x.astype(np.float64))
        np.testing.assert_array_equal(value, exact.astype(np.float32), err_msg=name)


def test_coefficients_are_what_the_fits_give() -> None:
    scope: dict[str, Any] = {}
    names = iter(FITS)
    text = TARGET.read_text(encoding="utf-8")
    for block in text.split("\n\n")[1:]:
        name, _, body = block.partition(" = (")
        assert name == next(names)
        scope[name] = tuple(
            float(line.strip(" ,")) for line in body.splitlines() if line.strip(" ,)")
        )
    for name in ("LOG_GAMMA", "P1", "I0_FAR"):
        assert scope[name] == fitted(name)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="'gammaln' is defined twice"):
        special("gammaln", TABLE["gammaln"].meaning, None)
