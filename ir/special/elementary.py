"""Rows of ``ir/special/table.py``: other bases of exp and log, inverse and hyperbolic functions,
roots, stable sums of exponentials.

Cases are chosen by ``select`` on the primal and every branch is finite where it is not taken, so
nothing overflows on the side. Ties of ``hypot`` at the origin and of ``arctan2`` have slope 0.
"""

from __future__ import annotations

import math
from typing import Any

from gradc.ir.special.table import polynomial, special

LN2, LN10, PI = math.log(2), math.log(10), math.pi
INF = math.inf


def _signed(k: Any, x: Any, magnitude: Any) -> Any:
    """``magnitude`` with the sign of ``x``; keeps the signed zero where magnitude is 0."""
    return k.select(k.lt(x, k.const(0.0)), k.neg(magnitude), k.select(_zero(k, x), x, magnitude))


def _zero(k: Any, x: Any) -> Any:
    return k.eq(x, k.const(0.0))


# --- sums of exponentials


def _logaddexp(k: Any, a: Any, b: Any) -> Any:
    tied = k.eq(a, b)  # equal infinities have no difference
    gap = k.select(tied, k.const(0.0), k.neg(k.abs(k.sub(a, b))))
    return k.add(k.max(a, b), k.log1p(k.exp(gap)))


def _advantage(k: Any, a: Any, b: Any) -> Any:
    """a - b, and 0 for equal infinities."""
    endless = k.logical_and(k.eq(a, b), k.eq(k.abs(a), k.const(INF)))
    return k.select(endless, k.const(0.0), k.sub(a, b))


def _sigmoid(w: Any, x: Any) -> Any:
    return w("expit", x)


special(
    "expit",
    lambda k, x: k.div(k.const(1.0), k.add(k.const(1.0), k.exp(k.neg(x)))),
    # s(x) s(-x) keeps its digits in both tails, where s (1 - s) does not.
    lambda w, y, x: w.mul(y, w("expit", w.neg(x))),
)
special(
    "logaddexp",
    _logaddexp,
    lambda k, y, a, b: _sigmoid(k, _advantage(k, a, b)),
    lambda k, y, a, b: _sigmoid(k, _advantage(k, b, a)),
)


def _times_log(k: Any, x: Any, value: Any) -> Any:
    return k.select(_zero(k, x), k.const(0.0), k.mul(x, value))


special(
    "xlogy",
    lambda k, x, y: _times_log(k, x, k.log(y)),
    lambda w, z, x, y: w.log(y),
    lambda w, z, x, y: w.div(x, y),
)
special(
    "xlog1py",
    lambda k, x, y: _times_log(k, x, k.log1p(y)),
    lambda w, z, x, y: w.log1p(y),
    lambda w, z, x, y: w.div(x, w.add(w.const(1.0), y)),
)

# --- other bases


def _exp2(k: Any, x: Any) -> Any:
    # Whole powers of two are exact; the rest is the exponential of less than ln(2)/2.
    low = k.max(k.min(x, k.const(1100.0)), k.const(-1200.0))
    whole = k.round(low)
    rest = k.exp(k.mul(k.sub(low, whole), k.const(LN2)))
    half = k.floor(k.mul(whole, k.const(0.5)))  # 2**whole alone may overflow or underflow too early
    two = k.const(2.0)
    product = k.mul(k.mul(rest, k.pow(two, half)), k.pow(two, k.sub(whole, half)))
    return k.select(k.ne(x, x), x, product)


def _log_base(base: float, limit: float) -> Any:
    inverse = 1 / math.log(base)

    def meaning(k: Any, x: Any) -> Any:
        # n + log(x / base**n) / log(base): whole results are exact.
        rough = k.mul(k.log(x), k.const(inverse))
        usual = k.lt(k.abs(rough), k.const(limit))  # false for 0, infinity, NaN
        n = k.round(k.select(usual, rough, k.const(0.0)))
        part = k.div(k.select(usual, x, k.const(1.0)), k.pow(k.const(base), n))
        return k.select(usual, k.add(n, k.mul(k.log(part), k.const(inverse))), rough)

    return meaning


special("exp2", _exp2, lambda k, y, x: k.mul(y, k.const(LN2)))
special("log2", _log_base(2.0, 1020.0), lambda k, y, x: k.div(k.const(1 / LN2), x))
special("log10", _log_base(10.0, 300.0), lambda k, y, x: k.div(k.const(1 / LN10), x))

# --- hyperbolic functions


def _half_exp(k: Any, a: Any) -> Any:
    """exp(a) / 2 up to the last a at which that is finite."""
    h = k.exp(k.mul(a, k.const(0.5)))
    near = k.lt(a, k.const(80.0))
    usual = k.mul(k.const(0.5), k.exp(k.select(near, a, k.const(0.0))))
    return k.select(near, usual, k.mul(k.mul(h, k.const(0.5)), h))


def _sinh(k: Any, x: Any) -> Any:
    a = k.abs(x)
    e = k.expm1(k.min(a, k.const(1.0)))
    near = k.mul(k.const(0.5), k.add(e, k.div(e, k.add(e, k.const(1.0)))))
    far = k.sub(_half_exp(k, a), k.mul(k.const(0.5), k.exp(k.neg(a))))
    return _signed(k, x, k.select(k.lt(a, k.const(1.0)), near, far))


def _cosh(k: Any, x: Any) -> Any:
    a = k.abs(x)
    return k.add(_half_exp(k, a), k.mul(k.const(0.5), k.exp(k.neg(a))))


special("sinh", _sinh, lambda k, y, x: k("cosh", x))
special("cosh", _cosh, lambda k, y, x: k("sinh", x))


def _arcsinh(k: Any, x: Any) -> Any:
    a = k.abs(x)
    far = k.gt(a, k.const(1e8))
    s = k.select(far, k.const(1.0), a)
    square = k.mul(s, s)
    root = k.sqrt(k.add(square, k.const(1.0)))
    near = k.log1p(k.add(s, k.div(square, k.add(k.const(1.0), root))))
    large = k.add(k.log(k.select(far, a, k.const(1.0))), k.const(LN2))
    return _signed(k, x, k.select(far, large, near))


def _arccosh(k: Any, x: Any) -> Any:
    far = k.gt(x, k.const(1e8))
    u = k.sub(k.select(far, k.const(2.0), x), k.const(1.0))
    near = k.log1p(k.add(u, k.sqrt(k.mul(u, k.add(u, k.const(2.0))))))
    return k.select(far, k.add(k.log(x), k.const(LN2)), near)


def _arctanh(k: Any, x: Any) -> Any:
    a = k.abs(x)
    ratio = k.div(k.mul(k.const(2.0), a), k.sub(k.const(1.0), a))
    return _signed(k, x, k.mul(k.const(0.5), k.log1p(ratio)))


def _outside(k: Any, x: Any) -> Any:
    """(x - 1)(x + 1)."""
    return k.mul(k.sub(x, k.const(1.0)), k.add(x, k.const(1.0)))


special("arcsinh", _arcsinh, lambda k, y, x: k.div(k.const(1.0), k("hypot", x, 1.0)))
special("arccosh", _arccosh, lambda k, y, x: k.rsqrt(_outside(k, x)))
special("arctanh", _arctanh, lambda k, y, x: k.div(k.const(-1.0), _outside(k, x)))

# --- inverse circular functions: Cephes' atan, and the others through it

_ATAN_P = (
    -8.750608600031904122785e-1,
    -1.615753718733365076637e1,
    -7.500855792314704667340e1,
    -1.228866684490136173410e2,
    -6.485021904942025371773e1,
)
_ATAN_Q = (
    1.0,
    2.485846490142306297962e1,
    1.650270098316988542046e2,
    4.328810604912902668951e2,
    4.853903996359136964868e2,
    1.945506571482613964425e2,
)
_LOST = 6.123233995736765886130e-17  # pi/2 beyond its nearest f64
_TAN_3_8 = 2.41421356237309504880


def _arctan_of_positive(k: Any, a: Any) -> Any:
    far, middle = k.gt(a, k.const(_TAN_3_8)), k.gt(a, k.const(0.66))
    one = k.const(1.0)
    above = k.neg(k.div(one, k.select(far, a, one)))
    between = k.div(k.sub(a, one), k.add(a, one))
    t = k.select(far, above, k.select(middle, between, a))
    start = k.select(far, k.const(PI / 2), k.select(middle, k.const(PI / 4), k.const(0.0)))
    more = k.select(far, k.const(_LOST), k.select(middle, k.const(_LOST / 2), k.const(0.0)))
    z = k.mul(t, t)
    tail = k.div(k.mul(z, polynomial(k, z, _ATAN_P)), polynomial(k, z, _ATAN_Q))
    return k.add(start, k.add(k.fma(t, tail, t), more))


def _arctan(k: Any, x: Any) -> Any:
    return _signed(k, x, _arctan_of_positive(k, k.abs(x)))


def _is_negative(k: Any, x: Any) -> Any:
    """Below 0, or the negative zero."""
    down = k.lt(k.div(k.const(1.0), x), k.const(0.0))
    return k.logical_or(k.lt(x, k.const(0.0)), k.logical_and(_zero(k, x), down))


def _arctan2(k: Any, y: Any, x: Any) -> Any:
    a, b = k.abs(y), k.abs(x)
    equal = k.eq(a, b)  # also two zeros and two infinities
    ratio = k.div(k.select(equal, k.const(1.0), a), k.select(equal, k.const(1.0), b))
    angle = k.select(k.logical_and(equal, _zero(k, a)), k.const(0.0), _arctan_of_positive(k, ratio))
    turned = k.select(_is_negative(k, x), k.sub(k.const(PI), angle), angle)
    return k.select(_is_negative(k, y), k.neg(turned), turned)


def _over_square(k: Any, p: Any, y: Any, x: Any) -> Any:
    """p / (x^2 + y^2) without overflow; 0 at the origin."""
    r = k("hypot", y, x)
    origin = _zero(k, r)
    safe = k.select(origin, k.const(1.0), r)
    return k.select(origin, k.const(0.0), k.div(k.div(p, safe), safe))


def _one_plus_square(k: Any, x: Any) -> Any:
    return k.fma(x, x, k.const(1.0))


special("arctan", _arctan, lambda k, y, x: k.div(k.const(1.0), _one_plus_square(k, x)))
special(
    "arctan2",
    _arctan2,
    lambda k, angle, y, x: _over_square(k, x, y, x),
    lambda k, angle, y, x: k.neg(_over_square(k, y, y, x)),
)


def _root_inside(k: Any, x: Any) -> Any:
    return k.sqrt(k.mul(k.sub(k.const(1.0), x), k.add(k.const(1.0), x)))


special(
    "arcsin",
    lambda k, x: _arctan2(k, x, _root_inside(k, x)),
    lambda k, y, x: k.div(k.const(1.0), _root_inside(k, x)),
)
special(
    "arccos",
    lambda k, x: k.mul(
        k.const(2.0),
        _arctan2(k, k.sqrt(k.sub(k.const(1.0), x)), k.sqrt(k.add(k.const(1.0), x))),
    ),
    lambda k, y, x: k.div(k.const(-1.0), _root_inside(k, x)),
)

# --- roots


def _hypot(k: Any, a: Any, b: Any) -> Any:
    p, q = k.abs(a), k.abs(b)
    large, small = k.max(p, q), k.min(p, q)
    endless = k.logical_or(k.eq(p, k.const(INF)), k.eq(q, k.const(INF)))
    plain = k.logical_or(_zero(k, large), endless)
    ratio = k.div(small, k.select(plain, k.const(1.0), large))
    found = k.mul(large, k.sqrt(k.fma(ratio, ratio, k.const(1.0))))
    return k.select(endless, k.const(INF), k.select(_zero(k, large), large, found))


def _share(k: Any, y: Any, x: Any) -> Any:
    origin = _zero(k, y)
    return k.select(origin, k.const(0.0), k.div(x, k.select(origin, k.const(1.0), y)))


special("hypot", _hypot, lambda k, y, a, b: _share(k, y, a), lambda k, y, a, b: _share(k, y, b))


def _cbrt(k: Any, x: Any) -> Any:
    a = k.abs(x)
    plain = k.logical_or(_zero(k, a), k.eq(a, k.const(INF)))
    s = k.select(plain, k.const(1.0), a)
    y = k.pow(s, k.const(1 / 3))
    y = k.sub(y, k.div(k.sub(y, k.div(s, k.mul(y, y))), k.const(3.0)))  # one step of Newton's
    return _signed(k, x, k.select(plain, a, y))


special("cbrt", _cbrt, lambda k, y, x: k.div(k.const(1 / 3), k.mul(y, y)))


def _root_or_zero(k: Any, x: Any) -> Any:
    return k.sqrt(x)


def _root_slope(k: Any, y: Any, x: Any) -> Any:
    flat = _zero(k, x)
    return k.select(flat, k.const(0.0), k.div(k.const(0.5), k.select(flat, k.const(1.0), y)))


# The root of a sum of squares has a least value at 0: the slope there is taken to be 0, not
# infinite.
special("root_of_squares", _root_or_zero, _root_slope)


# --- remainders


def _quotient(k: Any, x: Any, y: Any, is_floor: bool) -> Any:
    q = k.div(x, y)
    return k.floor(q) if is_floor else k.mul(k.sign(q), k.floor(k.abs(q)))


def _remainder(k: Any, x: Any, y: Any) -> Any:
    """x - floor(x / y) y with the sign of y; x/y may round to the next whole number, which is put
    right.
    """
    r = k.fma(k.neg(_quotient(k, x, y, True)), y, x)
    zero = k.const(0.0)
    over = k.ge(k.abs(r), k.abs(y))
    r = k.select(over, k.sub(r, y), r)
    wrong = k.logical_and(k.ne(r, zero), k.ne(k.lt(r, zero), k.lt(y, zero)))
    r = k.select(wrong, k.add(r, y), r)
    endless = k.logical_and(k.eq(k.abs(y), k.const(INF)), k.lt(k.abs(x), k.const(INF)))
    same = k.logical_or(_zero(k, x), k.eq(k.lt(x, zero), k.lt(y, zero)))
    return k.select(endless, k.select(same, x, y), r)


def _fmod(k: Any, x: Any, y: Any) -> Any:
    """The remainder of the magnitudes, with the sign of x."""
    r = _remainder(k, k.abs(x), k.abs(y))
    return k.select(k.lt(x, k.const(0.0)), k.neg(r), r)


def _whole_part(w: Any, r: Any, x: Any, y: Any) -> Any:
    return w.neg(w.round(w.div(w.sub(x, r), y)))


special("remainder", _remainder, lambda w, r, x, y: w.const(1.0), _whole_part)
special("fmod", _fmod, lambda w, r, x, y: w.const(1.0), _whole_part)
