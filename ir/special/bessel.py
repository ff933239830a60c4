"""Rows of ``ir/special/table.py``: Bessel functions of orders 0 and 1, and the derivatives of
sin(x)/x.

Below 8 the Bessel functions are fits in x**2, beyond it amplitude and phase; errors are absolute,
near 3e-16 times the amplitude, so zeros of J and Y are as far off as their neighbours' last place.
"""

from __future__ import annotations

import math
from typing import Any

from gradc.ir.special import coefficients as table
from gradc.ir.special.table import polynomial, special

PI = math.pi
ROOT_HALF = math.sqrt(0.5)
_LIMIT = 8.0


def _near(k: Any, a: Any, coefficients: tuple[float, ...]) -> Any:
    """A fit in x**2 on [0, 8]."""
    capped = k.min(a, k.const(_LIMIT))
    t = k.sub(k.mul(k.mul(capped, capped), k.const(1 / 32)), k.const(1.0))
    return polynomial(k, t, coefficients)


def _wave(k: Any, a: Any, order: int, is_y: bool) -> Any:
    """J or Y beyond 8: amplitudes of the sine and cosine of x - (2 order + 1) pi/4."""
    x = k.max(a, k.const(_LIMIT))
    inverse = k.div(k.const(_LIMIT), x)
    t = k.sub(k.mul(k.const(2.0), k.mul(inverse, inverse)), k.const(1.0))
    p = polynomial(k, t, (table.P0, table.P1)[order])
    q = k.mul(inverse, polynomial(k, t, (table.Q0, table.Q1)[order]))
    s, c = k.sin(x), k.cos(x)
    # cos and sin of x - pi/4 and of x - 3 pi/4, by the addition theorem
    cosine = k.mul(k.const(ROOT_HALF), k.add(c, s) if order == 0 else k.sub(s, c))
    sine = k.mul(k.const(ROOT_HALF), k.sub(s, c) if order == 0 else k.neg(k.add(s, c)))
    scale = k.sqrt(k.div(k.const(2 / PI), x))
    if is_y:
        return k.mul(scale, k.add(k.mul(p, sine), k.mul(q, cosine)))
    return k.mul(scale, k.sub(k.mul(p, cosine), k.mul(q, sine)))


def _j0(k: Any, x: Any) -> Any:
    a = k.abs(x)
    return k.select(k.lt(a, k.const(_LIMIT)), _near(k, a, table.J0), _wave(k, a, 0, False))


def _j1(k: Any, x: Any) -> Any:
    a = k.abs(x)
    near = k.mul(a, _near(k, a, table.J1))
    found = k.select(k.lt(a, k.const(_LIMIT)), near, _wave(k, a, 1, False))
    return k.select(k.lt(x, k.const(0.0)), k.neg(found), found)


def _y0(k: Any, x: Any) -> Any:
    a = k.min(x, k.const(_LIMIT))
    near = k.add(_near(k, x, table.Y0), k.mul(k.mul(k.const(2 / PI), k.log(a)), _j0(k, a)))
    return k.select(k.lt(x, k.const(_LIMIT)), near, _wave(k, x, 0, True))


def _y1(k: Any, x: Any) -> Any:
    a = k.min(x, k.const(_LIMIT))
    lead = k.sub(k.mul(k.log(a), _j1(k, a)), k.div(k.const(1.0), a))
    near = k.add(k.mul(a, _near(k, a, table.Y1)), k.mul(k.const(2 / PI), lead))
    return k.select(k.lt(x, k.const(_LIMIT)), near, _wave(k, x, 1, True))


def _over(w: Any, y: Any, x: Any) -> Any:
    """y / x, whose limit at 0 is 1/2."""
    zero = w.eq(x, w.const(0.0))
    return w.select(zero, w.const(0.5), w.div(y, w.select(zero, w.const(1.0), x)))


special("j0", _j0, lambda w, y, x: w.neg(w("j1", x)), wide=True)
special("j1", _j1, lambda w, y, x: w.sub(w("j0", x), _over(w, y, x)), wide=True)
special("y0", _y0, lambda w, y, x: w.neg(w("y1", x)), wide=True)
special("y1", _y1, lambda w, y, x: w.sub(w("y0", x), w.div(y, x)), wide=True)


# --- J of whole orders


def _series_j(k: Any, x: Any, order: int) -> Any:
    """(x/2)^n / n! times a series, whose terms fall where x^2 <= 4 (n + 1)."""
    square = k.mul(k.mul(x, x), k.const(-0.25))
    terms = [1.0]
    for n in range(1, 20):
        terms.append(terms[-1] / (n * (order + n)))
    series = polynomial(k, square, tuple(reversed(terms)))
    power = k.const(1.0)
    for n in range(order):
        power = k.mul(power, k.mul(x, k.const(0.5 / (n + 1))))
    return k.mul(power, series)


def _backward_j(k: Any, x: Any, order: int) -> Any:
    """Miller's recurrence down from a high order, whose sum 1 = J0 + 2 J2 + 2 J4 + ... says the
    scale.
    """
    start = 2 * ((order + int(math.sqrt(160 * order))) // 2)
    turn = k.div(k.const(2.0), x)
    above, at = k.const(0.0), k.const(1.0)
    total, found = k.const(0.0), k.const(0.0)
    for n in range(start, 0, -1):
        above, at = at, k.sub(k.mul(k.mul(k.const(float(n)), turn), at), above)
        if n - 1 == order:
            found = at
        if (n - 1) % 2 == 0:
            total = k.add(total, k.mul(k.const(1.0 if n == 1 else 2.0), at))
    return k.div(found, total)


def _jn(k: Any, x: Any, order: int) -> Any:
    """Forward recurrence where |x| > n; a series, or Miller's recurrence, below."""
    if order < 2:
        return (_j0, _j1)[order](k, x)
    a, bound = k.abs(x), 2 * math.sqrt(order + 1.0)
    far = k.gt(a, k.const(float(order)))
    turn = k.div(k.const(2.0), k.select(far, a, k.const(float(order))))
    before, at = _j0(k, a), _j1(k, a)
    for n in range(1, order):
        before, at = at, k.sub(k.mul(k.mul(k.const(float(n)), turn), at), before)
    low = _series_j(k, k.min(a, k.const(min(bound, float(order)))), order)
    if bound < order:
        middle = k.max(k.min(a, k.const(float(order))), k.const(bound))
        low = k.select(k.le(a, k.const(bound)), low, _backward_j(k, middle, order))
    found = k.select(far, at, low)
    found = k.select(k.ne(x, x), x, found)
    return k.select(k.lt(x, k.const(0.0)), k.neg(found), found) if order % 2 else found


def _jn_slope(w: Any, y: Any, x: Any, order: int) -> Any:
    if order == 0:
        return w.neg(w("jn", x, order=1))
    both = w.sub(w("jn", x, order=order - 1), w("jn", x, order=order + 1))
    return w.mul(w.const(0.5), both)


special("jn", _jn, _jn_slope, wide=True, ordered=True)


def _scaled_i(order: int) -> Any:
    near, far = ((table.I0_NEAR, table.I0_FAR), (table.I1_NEAR, table.I1_FAR))[order]

    def meaning(k: Any, x: Any) -> Any:
        a = k.abs(x)
        low, high = k.min(a, k.const(_LIMIT)), k.max(a, k.const(_LIMIT))
        inside = polynomial(k, k.sub(k.mul(low, k.const(0.25)), k.const(1.0)), near)
        inside = inside if order == 0 else k.mul(inside, low)
        t = k.sub(k.div(k.const(16.0), high), k.const(1.0))
        outside = k.div(polynomial(k, t, far), k.sqrt(high))
        found = k.select(k.lt(a, k.const(_LIMIT)), inside, outside)
        if order == 0:
            return found
        return k.select(k.lt(x, k.const(0.0)), k.neg(found), found)

    return meaning


_i0e, _i1e = _scaled_i(0), _scaled_i(1)


def _unscaled(scaled: Any) -> Any:
    def meaning(k: Any, x: Any) -> Any:
        half = k.exp(
            k.mul(k.const(0.5), k.abs(x))
        )  # in two halves: exp overflows before the product
        return k.mul(k.mul(scaled(k, x), half), half)

    return meaning


special("i0", _unscaled(_i0e), lambda w, y, x: w("i1", x), wide=True)
special("i1", _unscaled(_i1e), lambda w, y, x: w.sub(w("i0", x), _over(w, y, x)), wide=True)
special("i0e", _i0e, lambda w, y, x: w.sub(w("i1e", x), w.mul(w.sign(x), y)), wide=True)
special(
    "i1e",
    _i1e,
    lambda w, y, x: w.sub(w.sub(w("i0e", x), _over(w, y, x)), w.mul(w.sign(x), y)),
    wide=True,
)

# --- sin(x)/x and its derivatives


def _sine_over(k: Any, x: Any, order: int) -> Any:
    """The derivative of ``order``: Taylor's series below 2 + order / 2, beyond it from one order to
    the next.
    """
    limit = 2.0 + order / 2
    near = k.lt(k.abs(x), k.const(limit))
    at = k.select(near, x, k.const(0.0))
    terms = []
    for n in range(order + order % 2, order + 40, 2):
        terms.append((-1.0) ** (n // 2) / (n + 1) * (1 / math.factorial(n - order)))
    series = polynomial(k, k.mul(at, at), tuple(reversed(terms)))
    series = k.mul(series, at) if order % 2 else series
    safe = k.select(near, k.const(1.0), x)
    found = k.div(k.sin(safe), safe)
    waves = (k.sin(safe), k.cos(safe), k.neg(k.sin(safe)), k.neg(k.cos(safe)))
    for n in range(1, order + 1):
        found = k.div(k.sub(waves[n % 4], k.mul(k.const(float(n)), found)), safe)
    return k.select(near, series, found)


special(
    "sine_over",
    _sine_over,
    lambda w, y, x, order: w("sine_over", x, order=order + 1),
    wide=True,
    ordered=True,
)
