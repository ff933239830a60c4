"""The laws of scipy.stats that are traced, each in its standard form (location 0, scale 1).

Formulas are those of SciPy's documentation of each distribution. ``w`` gives the special functions;
``x`` lies within the support. Where a distribution function is not written, it is one less its
complement; where a logarithm is not, it is that of the function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Rule = Callable[..., Any]
_INF, _PI = math.inf, math.pi
_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)
_ABOVE_ZERO = (5e-324, _INF)  # without 0 itself, where formulas have no number
_EVERYWHERE, _POSITIVE, _UNIT = (-_INF, _INF), (0.0, _INF), (0.0, 1.0)


def _positive(*shapes: Any) -> Any:
    good: Any = True
    for shape in shapes:
        good = np.logical_and(good, shape > 0)
    return good


@dataclass(frozen=True, slots=True)
class Continuous:
    """A distribution with a density. ``support`` may depend on the shapes; ``within`` is a point in
    it, for elements that lie outside."""

    shapes: tuple[str, ...]
    support: Any
    logpdf: Rule
    cdf: Rule | None = None
    sf: Rule | None = None
    logcdf: Rule | None = None
    logsf: Rule | None = None
    ppf: Rule | None = None
    valid: Rule | None = _positive
    within: Rule = lambda *_: 0.5


@dataclass(frozen=True, slots=True)
class Discrete:
    """A distribution with a mass function, of whole numbers."""

    shapes: tuple[str, ...]
    support: Any
    logpmf: Rule
    cdf: Rule | None = None
    sf: Rule | None = None
    logcdf: Rule | None = None
    logsf: Rule | None = None
    valid: Rule | None = _positive
    within: Rule = lambda *_: 1.0


def _normal(x: Any) -> Any:
    return -0.5 * x * x - _LOG_ROOT_2PI


def _student(w: Any, x: Any, df: Any) -> Any:
    half = -w.betaln(df / 2, 0.5) - 0.5 * np.log(df)
    return half - (df + 1) / 2 * np.log1p(x * x / df)


def _exp_tail(x: Any) -> Any:
    """log(1 - exp(-x)) for x >= 0."""
    small = x < math.log(2)
    near = np.log(-np.expm1(-np.where(small, x, 1.0)))
    return np.where(small, near, np.log1p(-np.exp(-np.where(small, 1.0, x))))


def _log_weibull(w: Any, x: Any, c: Any) -> Any:
    return np.log(c) + w.xlogy(c - 1, x) - x**c


CONTINUOUS: dict[str, Continuous] = {
    "norm": Continuous(
        (),
        _EVERYWHERE,
        lambda w, x: _normal(x),
        cdf=lambda w, x: w.ndtr(x),
        sf=lambda w, x: w.ndtr(-x),
        logcdf=lambda w, x: w.log_ndtr(x),
        logsf=lambda w, x: w.log_ndtr(-x),
        ppf=lambda w, q: w.ndtri(q),
        valid=None,
    ),
    "t": Continuous(
        ("df",),
        _EVERYWHERE,
        _student,
        cdf=lambda w, x, df: w.stdtr(df, x),
        sf=lambda w, x, df: w.stdtr(df, -x),
    ),
    "chi2": Continuous(
        ("df",),
        _POSITIVE,
        lambda w, x, df: w.xlogy(df / 2 - 1, x) - x / 2 - w.gammaln(df / 2) - math.log(2) * df / 2,
        cdf=lambda w, x, df: w.chdtr(df, x),
        sf=lambda w, x, df: w.chdtrc(df, x),
    ),
    "gamma": Continuous(
        ("a",),
        _POSITIVE,
        lambda w, x, a: w.xlogy(a - 1, x) - x - w.gammaln(a),
        cdf=lambda w, x, a: w.gammainc(a, x),
        sf=lambda w, x, a: w.gammaincc(a, x),
    ),
    "beta": Continuous(
        ("a", "b"),
        _UNIT,
        lambda w, x, a, b: w.xlog1py(b - 1, -x) + w.xlogy(a - 1, x) - w.betaln(a, b),
        cdf=lambda w, x, a, b: w.betainc(a, b, x),
        sf=lambda w, x, a, b: w.betaincc(a, b, x),
    ),
    "expon": Continuous(
        (),
        _POSITIVE,
        lambda w, x: -x,
        cdf=lambda w, x: -np.expm1(-x),
        sf=lambda w, x: np.exp(-x),
        logcdf=lambda w, x: _exp_tail(x),
        logsf=lambda w, x: -x,
        ppf=lambda w, q: -np.log1p(-q),
        valid=None,
    ),
    "laplace": Continuous(
        (),
        _EVERYWHERE,
        lambda w, x: -np.abs(x) - math.log(2),
        cdf=lambda w, x: np.where(x > 0, 1 - 0.5 * np.exp(-np.abs(x)), 0.5 * np.exp(-np.abs(x))),
        sf=lambda w, x: np.where(x > 0, 0.5 * np.exp(-np.abs(x)), 1 - 0.5 * np.exp(-np.abs(x))),
        ppf=lambda w, q: np.where(
            q > 0.5,
            -np.log(2 * (1 - np.where(q > 0.5, q, 0.5))),
            np.log(2 * np.where(q > 0.5, 0.5, q)),
        ),
        valid=None,
    ),
    "cauchy": Continuous(
        (),
        _EVERYWHERE,
        lambda w, x: -np.log1p(x * x) - math.log(_PI),
        cdf=lambda w, x: np.arctan2(1.0, -x) / _PI,
        sf=lambda w, x: np.arctan2(1.0, x) / _PI,
        ppf=lambda w, q: np.tan(_PI * (q - 0.5)),
        valid=None,
    ),
    "logistic": Continuous(
        (),
        _EVERYWHERE,
        lambda w, x: -np.abs(x) - 2 * np.log1p(np.exp(-np.abs(x))),
        cdf=lambda w, x: w.expit(x),
        sf=lambda w, x: w.expit(-x),
        logcdf=lambda w, x: w.log_expit(x),
        logsf=lambda w, x: w.log_expit(-x),
        ppf=lambda w, q: w.logit(q),
        valid=None,
    ),
    "lognorm": Continuous(
        ("s",),
        _ABOVE_ZERO,
        lambda w, x, s: _normal(np.log(x) / s) - np.log(s * x),
        cdf=lambda w, x, s: w.ndtr(np.log(x) / s),
        sf=lambda w, x, s: w.ndtr(-np.log(x) / s),
        logcdf=lambda w, x, s: w.log_ndtr(np.log(x) / s),
        logsf=lambda w, x, s: w.log_ndtr(-np.log(x) / s),
        ppf=lambda w, q, s: np.exp(s * w.ndtri(q)),
    ),
    "uniform": Continuous(
        (),
        _UNIT,
        lambda w, x: 0.0 * x,
        cdf=lambda w, x: x,
        sf=lambda w, x: 1 - x,
        ppf=lambda w, q: q,
        valid=None,
    ),
    "invgamma": Continuous(
        ("a",),
        _ABOVE_ZERO,
        lambda w, x, a: -(a + 1) * np.log(x) - w.gammaln(a) - 1 / x,
        cdf=lambda w, x, a: w.gammaincc(a, 1 / x),
        sf=lambda w, x, a: w.gammainc(a, 1 / x),
    ),
    "weibull_min": Continuous(
        ("c",),
        _POSITIVE,
        _log_weibull,
        cdf=lambda w, x, c: -np.expm1(-(x**c)),
        sf=lambda w, x, c: np.exp(-(x**c)),
        logsf=lambda w, x, c: -(x**c),
        ppf=lambda w, q, c: (-np.log1p(-q)) ** (1 / c),
    ),
    "gumbel_r": Continuous(
        (),
        _EVERYWHERE,
        lambda w, x: -x - np.exp(-x),
        cdf=lambda w, x: np.exp(-np.exp(-x)),
        sf=lambda w, x: -np.expm1(-np.exp(-x)),
        logcdf=lambda w, x: -np.exp(-x),
        ppf=lambda w, q: -np.log(-np.log(q)),
        valid=None,
    ),
    "gumbel_l": Continuous(
        (),
        _EVERYWHERE,
        lambda w, x: x - np.exp(x),
        cdf=lambda w, x: -np.expm1(-np.exp(x)),
        sf=lambda w, x: np.exp(-np.exp(x)),
        logsf=lambda w, x: -np.exp(x),
        ppf=lambda w, q: np.log(-np.log1p(-q)),
        valid=None,
    ),
    "pareto": Continuous(
        ("b",),
        (1.0, _INF),
        lambda w, x, b: np.log(b) - (b + 1) * np.log(x),
        cdf=lambda w, x, b: 1 - x ** (-b),
        sf=lambda w, x, b: x ** (-b),
        ppf=lambda w, q, b: (1 - q) ** (-1 / b),
        within=lambda *_: 2.0,
    ),
    "lomax": Continuous(
        ("c",),
        _POSITIVE,
        lambda w, x, c: np.log(c) - (c + 1) * np.log1p(x),
        cdf=lambda w, x, c: -np.expm1(-c * np.log1p(x)),
        sf=lambda w, x, c: np.exp(-c * np.log1p(x)),
        logsf=lambda w, x, c: -c * np.log1p(x),
        ppf=lambda w, q, c: np.expm1(-np.log1p(-q) / c),
    ),
    "halfnorm": Continuous(
        (),
        _POSITIVE,
        lambda w, x: _normal(x) + math.log(2),
        cdf=lambda w, x: w.erf(x / math.sqrt(2)),
        sf=lambda w, x: 2 * w.ndtr(-x),
        ppf=lambda w, q: w.ndtri((1 + q) / 2),
        valid=None,
    ),
    "halfcauchy": Continuous(
        (),
        _POSITIVE,
        lambda w, x: math.log(2 / _PI) - np.log1p(x * x),
        cdf=lambda w, x: 2 / _PI * np.arctan(x),
        sf=lambda w, x: 2 / _PI * np.arctan2(1.0, x),
        ppf=lambda w, q: np.tan(_PI / 2 * q),
        valid=None,
    ),
    "rayleigh": Continuous(
        (),
        _POSITIVE,
        lambda w, x: np.log(x) - 0.5 * x * x,
        cdf=lambda w, x: -np.expm1(-0.5 * x * x),
        sf=lambda w, x: np.exp(-0.5 * x * x),
        logsf=lambda w, x: -0.5 * x * x,
        ppf=lambda w, q: np.sqrt(-2 * np.log1p(-q)),
        valid=None,
    ),
    "maxwell": Continuous(
        (),
        _POSITIVE,
        lambda w, x: 0.5 * math.log(2 / _PI) + 2 * np.log(x) - 0.5 * x * x,
        valid=None,
        cdf=lambda w, x: w.gammainc(1.5, 0.5 * x * x),
        sf=lambda w, x: w.gammaincc(1.5, 0.5 * x * x),
    ),
    "chi": Continuous(
        ("df",),
        _POSITIVE,
        lambda w, x, df: (
            math.log(2) * (1 - df / 2) - w.gammaln(df / 2) + w.xlogy(df - 1, x) - 0.5 * x * x
        ),
        cdf=lambda w, x, df: w.gammainc(df / 2, 0.5 * x * x),
        sf=lambda w, x, df: w.gammaincc(df / 2, 0.5 * x * x),
    ),
    "f": Continuous(
        ("dfn", "dfd"),
        _POSITIVE,
        lambda w, x, n, m: (
            m / 2 * np.log(m)
            + n / 2 * np.log(n)
            + w.xlogy(n / 2 - 1, x)
            - ((n + m) / 2) * np.log(m + n * x)
            - w.betaln(n / 2, m / 2)
        ),
        cdf=lambda w, x, n, m: w.betainc(n / 2, m / 2, n * x / (m + n * x)),
        sf=lambda w, x, n, m: w.betainc(m / 2, n / 2, m / (m + n * x)),
    ),
    "skewnorm": Continuous(
        ("a",),
        _EVERYWHERE,
        lambda w, x, a: _normal(x) + math.log(2) + w.log_ndtr(a * x),
        valid=None,
    ),
    "gennorm": Continuous(
        ("beta",),
        _EVERYWHERE,
        lambda w, x, beta: np.log(0.5 * beta) - w.gammaln(1 / beta) - np.abs(x) ** beta,
    ),
    "vonmises": Continuous(
        ("kappa",),
        _EVERYWHERE,
        lambda w, x, kappa: kappa * (np.cos(x) - 1) - math.log(2 * _PI) - np.log(w.i0e(kappa)),
        valid=lambda kappa: kappa >= 0,
    ),
    "powerlaw": Continuous(
        ("a",),
        _UNIT,
        lambda w, x, a: np.log(a) + w.xlogy(a - 1, x),
        cdf=lambda w, x, a: x**a,
        logcdf=lambda w, x, a: a * np.log(x),
        ppf=lambda w, q, a: q ** (1 / a),
    ),
}


def _binomial(w: Any, k: Any, n: Any, p: Any) -> Any:
    ways = w.gammaln(n + 1) - w.gammaln(k + 1) - w.gammaln(n - k + 1)
    return ways + w.xlogy(k, p) + w.xlog1py(n - k, -p)


def _binomial_up_to(w: Any, k: Any, n: Any, p: Any, is_rest: bool) -> Any:
    """All of it from n on, where the incomplete beta function has no meaning."""
    rule = w.betainc if is_rest else w.betaincc
    return np.where(k < n, rule(k + 1, np.where(k < n, n - k, 1.0), p), 0.0 if is_rest else 1.0)


def _chance(p: Any) -> Any:
    return np.logical_and(p >= 0, p <= 1)


DISCRETE: dict[str, Discrete] = {
    "poisson": Discrete(
        ("mu",),
        _POSITIVE,
        lambda w, k, mu: w.xlogy(k, mu) - w.gammaln(k + 1) - mu,
        valid=lambda mu: mu >= 0,
        cdf=lambda w, k, mu: w.gammaincc(k + 1, mu),
        sf=lambda w, k, mu: w.gammainc(k + 1, mu),
    ),
    "bernoulli": Discrete(
        ("p",),
        _UNIT,
        lambda w, k, p: w.xlogy(k, p) + w.xlog1py(1 - k, -p),
        cdf=lambda w, k, p: np.where(k < 1, 1 - p, 1.0),
        sf=lambda w, k, p: np.where(k < 1, p, 0.0),
        valid=_chance,
    ),
    "binom": Discrete(
        ("n", "p"),
        lambda n, p: (0.0, n),
        _binomial,
        valid=lambda n, p: np.logical_and(np.logical_and(n >= 0, n == np.floor(n)), _chance(p)),
        within=lambda *_: 0.0,
        cdf=lambda w, k, n, p: _binomial_up_to(w, k, n, p, False),
        sf=lambda w, k, n, p: _binomial_up_to(w, k, n, p, True),
    ),
    "nbinom": Discrete(
        ("n", "p"),
        _POSITIVE,
        lambda w, k, n, p: (
            w.gammaln(n + k) - w.gammaln(k + 1) - w.gammaln(n) + n * np.log(p) + w.xlog1py(k, -p)
        ),
        valid=lambda n, p: np.logical_and(n > 0, np.logical_and(p > 0, p <= 1)),
        cdf=lambda w, k, n, p: w.betainc(n, k + 1, p),
        sf=lambda w, k, n, p: w.betaincc(n, k + 1, p),
    ),
    "geom": Discrete(
        ("p",),
        (1.0, _INF),
        lambda w, k, p: w.xlog1py(k - 1, -p) + np.log(p),
        cdf=lambda w, k, p: -np.expm1(k * np.log1p(-p)),
        sf=lambda w, k, p: np.exp(k * np.log1p(-p)),
        logsf=lambda w, k, p: k * np.log1p(-p),
        valid=lambda p: np.logical_and(p > 0, p <= 1),
    ),
}
