"""Rows of ``ir/special/table.py``: the gamma and error functions and what follows from them.

Relative errors against SciPy on the ranges users have are stated and measured in
``tests/runtime/test_special.py``.
"""

from __future__ import annotations

import math
from typing import Any

from gradc.ir.special.coefficients import ERFCX, LOG_GAMMA
from gradc.ir.special.table import Words, polynomial, special

PI, INF = math.pi, math.inf
ROOT_PI, ROOT_2 = math.sqrt(math.pi), math.sqrt(2.0)
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)


def _c(k: Any, value: float) -> Any:
    return k.const(float(value))


def _distance(k: Any, x: Any) -> Any:
    """How far x is from the nearest integer, with its sign: sin(pi x) and cot(pi x) have it as
    their argument.
    """
    return k.sub(x, k.round(x))


# --- the logarithm of gamma


def _log_gamma_near(k: Any, x: Any) -> Any:
    """On (0, 3]: one or none of the steps x -> x + 1, then a fit that keeps both roots."""
    small = k.lt(x, _c(k, 1.0))
    at = k.select(small, k.add(x, _c(k, 1.0)), x)
    roots = k.mul(k.sub(at, _c(k, 1.0)), k.sub(at, _c(k, 2.0)))
    found = k.mul(roots, polynomial(k, k.sub(at, _c(k, 2.0)), LOG_GAMMA))
    return k.sub(found, k.log(k.select(small, x, _c(k, 1.0))))


def _log_gamma_far(k: Any, x: Any) -> Any:
    """Beyond 3: Stirling's series from 8 on, reached by five steps."""
    short = k.lt(x, _c(k, 8.0))
    factors = x
    for step in range(1, 5):
        factors = k.mul(factors, k.add(x, _c(k, step)))
    at = k.select(short, k.add(x, _c(k, 5.0)), x)
    inverse = k.div(_c(k, 1.0), at)
    series = [b / (2 * n * (2 * n - 1)) for n, b in enumerate(_BERNOULLI, 1)]
    tail = k.mul(inverse, polynomial(k, k.mul(inverse, inverse), tuple(reversed(series))))
    body = k.mul(k.sub(at, _c(k, 0.5)), k.sub(k.log(at), _c(k, 1.0)))
    found = k.add(k.add(body, _c(k, HALF_LOG_2PI - 0.5)), tail)
    huge = k.gt(x, _c(k, 1e17))
    found = k.select(huge, k.mul(x, k.sub(k.log(x), _c(k, 1.0))), found)
    return k.sub(found, k.log(k.select(short, factors, _c(k, 1.0))))


def _log_gamma(k: Any, x: Any) -> Any:
    negative = k.lt(x, _c(k, 0.0))
    a = k.select(negative, k.sub(_c(k, 1.0), x), x)
    near = k.le(a, _c(k, 3.0))
    inside = _log_gamma_near(k, k.select(near, a, _c(k, 1.5)))
    found = k.select(near, inside, _log_gamma_far(k, k.select(near, _c(k, 5.0), a)))
    sine = k.abs(k.sin(k.mul(_c(k, PI), _distance(k, x))))
    turned = k.sub(k.sub(_c(k, math.log(PI)), k.log(sine)), found)
    pole = k.logical_and(k.le(x, _c(k, 0.0)), k.eq(x, k.floor(x)))
    return k.select(pole, _c(k, INF), k.select(negative, turned, found))


def _digamma(k: Any, x: Any) -> Any:
    negative = k.lt(x, _c(k, 0.0))
    a = k.select(negative, k.sub(_c(k, 1.0), x), x)
    total = _c(k, 0.0)
    for _ in range(10):
        short = k.lt(a, _c(k, 10.0))
        step = k.div(_c(k, -1.0), k.select(short, a, _c(k, 1.0)))
        total = k.add(total, k.select(short, step, _c(k, 0.0)))
        a = k.select(short, k.add(a, _c(k, 1.0)), a)
    inverse = k.div(_c(k, 1.0), a)
    square = k.mul(inverse, inverse)
    series = [-b / (2 * n) for n, b in enumerate(_BERNOULLI, 1)]
    tail = k.mul(square, polynomial(k, square, tuple(reversed(series))))
    far = k.add(k.sub(k.log(a), k.mul(_c(k, 0.5), inverse)), tail)
    found = k.add(total, far)
    turn = k.div(_c(k, PI), k.tan(k.mul(_c(k, PI), _distance(k, x))))
    return k.select(negative, k.sub(found, turn), found)


def _polygamma(k: Any, x: Any, order: int) -> Any:
    """(-1)^(n+1) n! times the sum of 1/(x + i)^(n+1): 14 terms, then Euler and Maclaurin's
    series.
    """
    if order == 0:
        return _digamma(k, x)
    total = _c(k, 0.0)
    for step in range(14):
        total = k.add(total, k.pow(k.add(x, _c(k, step)), _c(k, -order - 1)))
    a = k.add(x, _c(k, 14.0))
    lead = k.pow(a, _c(k, -order))
    inverse = k.div(_c(k, 1.0), a)
    square = k.mul(inverse, inverse)
    series, rising = [], float(order + 1)
    for n, b in enumerate(_BERNOULLI, 1):
        series.append(b / math.factorial(2 * n) * rising)
        rising *= (order + 2 * n) * (order + 2 * n + 1)
    tail = k.mul(square, polynomial(k, square, tuple(reversed(series))))
    rest = k.add(k.add(_c(k, 1 / order), k.mul(_c(k, 0.5), inverse)), tail)
    total = k.add(total, k.mul(lead, rest))
    return k.mul(_c(k, (-1.0) ** (order + 1) * math.factorial(order)), total)


special("gammaln", _log_gamma, lambda w, y, x: w("digamma", x), wide=True)
special("digamma", _digamma, lambda w, y, x: w("polygamma", x, order=1), wide=True)
special(
    "polygamma",
    _polygamma,
    lambda w, y, x, order: w("polygamma", x, order=order + 1),
    wide=True,
    ordered=True,
)


def _gamma(k: Any, x: Any) -> Any:
    size = k.exp(_log_gamma(k, x))
    half = k.mul(k.floor(x), _c(k, 0.5))
    odd = k.logical_and(k.lt(x, _c(k, 0.0)), k.ne(half, k.floor(half)))
    return k.select(odd, k.neg(size), size)


def _gamma_sign(k: Any, x: Any) -> Any:
    half = k.mul(k.floor(x), _c(k, 0.5))
    odd = k.logical_and(k.lt(x, _c(k, 0.0)), k.ne(half, k.floor(half)))
    pole = k.logical_and(k.lt(x, _c(k, 0.0)), k.eq(x, k.floor(x)))
    found = k.select(odd, _c(k, -1.0), _c(k, 1.0))
    found = k.select(k.eq(x, _c(k, 0.0)), k.sign(k.div(_c(k, 1.0), x)), found)
    return k.select(k.logical_or(pole, k.ne(x, x)), _c(k, math.nan), found)


special("gamma", _gamma, lambda w, y, x: w.mul(y, w("digamma", x)), wide=True)
special("gammasgn", _gamma_sign, lambda w, y, x: w.const(0.0))
special(
    "rgamma",
    lambda k, x: k.div(_c(k, 1.0), _gamma(k, x)),
    lambda w, y, x: w.neg(w.mul(y, w("digamma", x))),
    wide=True,
)


def _stirling(k: Any, x: Any) -> Any:
    """What Stirling's formula leaves of log gamma, from 10 on."""
    inverse = k.div(_c(k, 1.0), x)
    series = [b / (2 * n * (2 * n - 1)) for n, b in enumerate(_BERNOULLI, 1)]
    return k.mul(inverse, polynomial(k, k.mul(inverse, inverse), tuple(reversed(series))))


def _log_beta(k: Any, a: Any, b: Any) -> Any:
    """From 10 on the large terms of log gamma cancel beforehand (DiDonato and Morris, 1992)."""
    p, q = k.min(a, b), k.max(a, b)
    both = k.add(p, q)
    direct = k.sub(k.add(_log_gamma(k, a), _log_gamma(k, b)), _log_gamma(k, both))
    far, near = k.ge(q, _c(k, 10.0)), k.lt(p, _c(k, 10.0))
    x, y = k.select(near, _c(k, 10.0), p), k.select(far, q, _c(k, 10.0))
    p = k.select(far, p, _c(k, 1.0))
    whole = k.add(p, y)
    rest = k.sub(_stirling(k, y), _stirling(k, whole))
    fall = k.mul(k.sub(y, _c(k, 0.5)), k.log1p(k.neg(k.div(p, whole))))
    rest = k.add(rest, fall)
    one = k.add(k.add(_log_gamma(k, p), p), k.neg(k.mul(p, k.log(whole))))
    two = k.mul(k.sub(x, _c(k, 0.5)), k.log(k.div(x, whole)))
    two = k.add(
        k.add(two, _stirling(k, x)), k.sub(_c(k, HALF_LOG_2PI), k.mul(_c(k, 0.5), k.log(whole)))
    )
    return k.select(far, k.add(rest, k.select(near, one, two)), direct)


def _rise(w: Words, own: Any, other: Any) -> Any:
    return w.sub(w("digamma", own), w("digamma", w.add(own, other)))


special(
    "betaln",
    _log_beta,
    lambda w, y, a, b: _rise(w, a, b),
    lambda w, y, a, b: _rise(w, b, a),
    wide=True,
)
special(
    "beta",
    lambda k, a, b: k.exp(_log_beta(k, a, b)),
    lambda w, y, a, b: w.mul(y, _rise(w, a, b)),
    lambda w, y, a, b: w.mul(y, _rise(w, b, a)),
    wide=True,
)

# --- error functions


def _scaled_tail(k: Any, x: Any) -> Any:
    """exp(x^2) erfc(x) for x >= 0."""
    capped = k.min(x, _c(k, 1e9))
    t = k.div(k.sub(capped, _c(k, 3.75)), k.add(capped, _c(k, 3.75)))
    found = k.div(polynomial(k, t, ERFCX), k.fma(_c(k, 2.0), capped, _c(k, 1.0)))
    return k.select(k.gt(x, _c(k, 1e9)), k.div(_c(k, 1 / ROOT_PI), x), found)


def _gauss(k: Any, x: Any) -> Any:
    """exp(-x^2), the square in two parts so that its rounding does not matter."""
    capped = k.max(k.min(x, _c(k, 40.0)), _c(k, -40.0))
    high = k.div(k.round(k.mul(capped, _c(k, 65536.0))), _c(k, 65536.0))
    low = k.mul(k.sub(capped, high), k.add(capped, high))
    found = k.mul(k.exp(k.neg(k.mul(high, high))), k.exp(k.neg(low)))
    return k.select(k.eq(x, x), found, x)


def _erfc(k: Any, x: Any) -> Any:
    a = k.abs(x)
    tail = k.mul(_gauss(k, a), _scaled_tail(k, a))
    far = k.select(k.lt(x, _c(k, 0.0)), k.sub(_c(k, 2.0), tail), tail)
    return k.select(k.lt(a, _c(k, 0.5)), k.sub(_c(k, 1.0), k.erf(x)), far)


def _erfcx(k: Any, x: Any) -> Any:
    a = k.abs(x)
    tail = _scaled_tail(k, a)
    left = k.sub(k.div(_c(k, 2.0), _gauss(k, a)), tail)
    return k.select(k.lt(x, _c(k, 0.0)), left, tail)


_NORMAL = 1 / math.sqrt(2 * PI)


def _density(w: Any, x: Any) -> Any:
    return w.mul(w.const(_NORMAL), w.exp(w.mul(w.const(-0.5), w.mul(x, x))))


special(
    "erfc",
    _erfc,
    lambda w, y, x: w.mul(w.const(-2 / ROOT_PI), w.exp(w.neg(w.mul(x, x)))),
    wide=True,
)
special(
    "erfcx",
    _erfcx,
    lambda w, y, x: w.sub(w.mul(w.const(2.0), w.mul(x, y)), w.const(2 / ROOT_PI)),
    wide=True,
)


def _ndtr(k: Any, x: Any) -> Any:
    return k.mul(_c(k, 0.5), _erfc(k, k.mul(x, _c(k, -1 / ROOT_2))))


def _log_ndtr(k: Any, x: Any) -> Any:
    left = k.lt(x, _c(k, -1.0))
    a = k.select(left, k.mul(x, _c(k, -1 / ROOT_2)), _c(k, 1.0))
    low = k.sub(k.log(k.mul(_c(k, 0.5), _scaled_tail(k, a))), k.mul(a, a))
    return k.select(left, low, k.log1p(k.neg(_ndtr(k, k.neg(x)))))


def _hazard(w: Words, y: Any, x: Any) -> Any:
    """The density over the distribution, far into the tail."""
    scaled = w("erfcx", w.mul(x, w.const(-1 / ROOT_2)))
    return w.div(w.const(math.sqrt(2 / PI)), scaled)


special("ndtr", _ndtr, lambda w, y, x: _density(w, x), wide=True)
special("log_ndtr", _log_ndtr, _hazard, wide=True)


def _erfc_inverse(k: Any, z: Any) -> Any:
    """y >= 0 with erfc(y) = z for 0 < z <= 1: Newton's steps on the logarithm."""
    w = k.neg(k.log(k.mul(z, k.sub(_c(k, 2.0), z))))
    y = k.sqrt(
        k.max(
            k.sub(w, k.mul(_c(k, 0.5), k.log(k.add(k.mul(_c(k, PI), w), _c(k, 1.0))))), _c(k, 0.0)
        )
    )
    log_z = k.log(z)
    for _ in range(6):
        scaled = _scaled_tail(k, y)
        gap = k.sub(k.sub(k.log(scaled), k.mul(y, y)), log_z)
        y = k.max(k.fma(k.mul(gap, scaled), _c(k, ROOT_PI / 2), y), _c(k, 0.0))
    return y


def _erfinv(k: Any, x: Any) -> Any:
    a = k.abs(x)
    inside = k.lt(a, _c(k, 1.0))
    y = _erfc_inverse(k, k.sub(_c(k, 1.0), k.select(inside, a, _c(k, 0.5))))
    # Near 0 the complement has lost digits: one more step on erf itself.
    step = k.mul(k.sub(k.erf(y), a), k.mul(_c(k, ROOT_PI / 2), k.exp(k.mul(y, y))))
    y = k.select(k.lt(a, _c(k, 0.5)), k.sub(y, step), y)
    end = k.select(k.eq(a, _c(k, 1.0)), _c(k, INF), _c(k, math.nan))
    y = k.select(inside, y, end)
    return k.select(k.lt(x, _c(k, 0.0)), k.neg(y), k.select(k.eq(x, _c(k, 0.0)), x, y))


def _erfcinv(k: Any, z: Any) -> Any:
    upper = k.gt(z, _c(k, 1.0))
    tail = k.select(upper, k.sub(_c(k, 2.0), z), z)
    inside = k.gt(tail, _c(k, 0.0))
    far = _erfc_inverse(k, k.select(inside, tail, _c(k, 0.5)))
    end = k.select(k.eq(tail, _c(k, 0.0)), _c(k, INF), _c(k, math.nan))
    far = k.select(inside, far, end)
    far = k.select(upper, k.neg(far), far)
    near = k.lt(k.abs(k.sub(z, _c(k, 1.0))), _c(k, 0.5))
    return k.select(near, _erfinv(k, k.sub(_c(k, 1.0), k.select(near, z, _c(k, 1.0)))), far)


def _ndtri(k: Any, p: Any) -> Any:
    half, one = _c(k, 0.5), _c(k, 1.0)
    upper = k.gt(p, half)
    tail = k.select(upper, k.sub(one, p), p)
    inside = k.gt(tail, _c(k, 0.0))
    y = k.mul(_c(k, ROOT_2), _erfc_inverse(k, k.mul(_c(k, 2.0), k.select(inside, tail, half))))
    y = k.select(inside, y, k.select(k.eq(tail, _c(k, 0.0)), _c(k, INF), _c(k, math.nan)))
    return k.select(upper, y, k.neg(y))


special(
    "erfinv",
    _erfinv,
    lambda w, y, x: w.mul(w.const(ROOT_PI / 2), w.exp(w.mul(y, y))),
    wide=True,
)
special(
    "erfcinv",
    _erfcinv,
    lambda w, y, z: w.mul(w.const(-ROOT_PI / 2), w.exp(w.mul(y, y))),
    wide=True,
)
special(
    "ndtri",
    _ndtri,
    lambda w, y, p: w.div(w.const(1.0), _density(w, y)),
    wide=True,
)

# --- logistic functions and entropies

special(
    "logit",
    lambda k, x: k.sub(k.log(x), k.log1p(k.neg(x))),
    lambda w, y, x: w.div(w.const(1.0), w.mul(x, w.sub(w.const(1.0), x))),
)
special(
    "log_expit",
    lambda k, x: k.sub(k.min(x, k.const(0.0)), k.log1p(k.exp(k.neg(k.abs(x))))),
    lambda w, y, x: w("expit", w.neg(x)),
)


def _entropy(k: Any, x: Any) -> Any:
    zero = k.eq(x, k.const(0.0))
    found = k.neg(k.mul(x, k.log(k.select(zero, k.const(1.0), x))))
    found = k.select(zero, k.const(0.0), found)
    return k.select(k.lt(x, k.const(0.0)), k.const(-INF), found)


def _relative(k: Any, x: Any, y: Any) -> Any:
    zero = k.logical_and(k.eq(x, k.const(0.0)), k.ge(y, k.const(0.0)))
    safe_x, safe_y = (k.select(zero, k.const(1.0), v) for v in (x, y))
    found = k.mul(x, k.log(k.div(safe_x, safe_y)))
    bad = k.logical_or(k.lt(x, k.const(0.0)), k.lt(y, k.const(0.0)))
    bad = k.logical_or(bad, k.logical_and(k.eq(y, k.const(0.0)), k.gt(x, k.const(0.0))))
    return k.select(bad, k.const(INF), k.select(zero, k.const(0.0), found))


special("entr", _entropy, lambda w, y, x: w.sub(w.const(-1.0), w.log(x)))
special(
    "rel_entr",
    _relative,
    lambda w, z, x, y: w.add(w.log(w.div(x, y)), w.const(1.0)),
    lambda w, z, x, y: w.neg(w.div(x, y)),
)
special(
    "kl_div",
    lambda k, x, y: k.add(k.sub(_relative(k, x, y), x), y),
    lambda w, z, x, y: w.log(w.div(x, y)),
    lambda w, z, x, y: w.sub(w.const(1.0), w.div(x, y)),
)
