"""exp, expm1, log, log1p, tanh, sin, cos, tan, erf and pow, in f32 and f64, in the vocabulary of
``floats``.

``ULPS`` states the largest errors in units of the last place, with or without fused multiply-add
(``tests/llvm/test_llvm_vecmath.py``); of all f32, erf without it is off by up to 1.58.

Infinities, NaN, denormals and signed zeros are C's. Everything is straight-line code but for sin,
cos and tan of arguments beyond ``TRIG_LIMIT``, whose reduction is longer (``reduction``). The
arguments are reduced by Cody and Waite's method; the polynomials come from ``fit.py``; log and pow
in f64 follow fdlibm's arrangement.

Non-goals: correct rounding, exception flags, other rounding modes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gradc.codegen.maths import coefficients as table
from gradc.codegen.maths.fit import ERF_END_F32, ERF_SPLIT_F32, ERF_SPLIT_F64, ERFC_SCALE_F64
from gradc.codegen.maths.floats import Floats, V
from gradc.codegen.maths.reduction import TRIG_LIMIT, Angle, reduce_far, reduce_near

# Largest errors in f32 and in f64.
ULPS = {
    "exp": (1.1, 1.1),
    "expm1": (2.0, 2.0),
    "log": (1.0, 1.0),
    "log1p": (1.5, 1.5),
    "tanh": (2.75, 2.75),
    "sin": (1.5, 1.0),
    "cos": (1.5, 1.0),
    "tan": (3.0, 2.5),
    "erf": (1.5, 1.5),
    "pow": (0.6, 1.25),
}
LOG2E = table.INV_LN2[0]
LN2 = 0.6931471805599453
INFINITY, NAN = float("inf"), float("nan")


def _reduce_exp(k: Floats[V], x: V) -> tuple[V, V, V]:
    """``x = n ln 2 + r``, |r| <= ln2/2: r, n, and n in the low bits of a float."""
    high, low = table.LN2_F64 if k.double else table.LN2_F32
    n, shifted = k.nearest_multiple(x, LOG2E)
    r = k.fma(n, k.c(-low), k.fma(n, k.c(-high), x))
    k.note(r=r, n=n, shifted=shifted)
    return r, n, shifted


def _expm1_reduced(k: Floats[V], r: V) -> V:
    """exp(r) - 1 on the reduced range."""
    tail = k.polynomial(r, table.EXP_F64 if k.double else table.EXP_F32)
    return k.fma(k.mul(r, r), tail, r)


def exp(k: Floats[V], x: V) -> V:
    """e^x. The clamp keeps n finite; beyond it the result is 0 or infinity already."""
    low, high = (-746.0, 710.0) if k.double else (-104.0, 89.0)
    clamped = k.at_most(k.at_least(x, low), high)
    r, n, shifted = _reduce_exp(k, clamped)
    return k.scale_one_and(_expm1_reduced(k, r), n, shifted)


def expm1(k: Floats[V], x: V) -> V:
    """e^x - 1 = 2 (2^(n-1) (e^r - 1) + (2^(n-1) - 1/2)); halved so that 2^n may overflow."""
    low, high = (-50.0, 710.0) if k.double else (-30.0, 89.0)
    r, _, shifted = _reduce_exp(k, k.at_most(k.at_least(x, low), high))
    half = k.power_of_two(shifted, less=1)
    k.note(half=half)
    result = k.fma(half, _expm1_reduced(k, r), k.sub(half, k.c(0.5)))
    small = k.compare("olt", k.abs(x), k.c(2.0 ** (-k.mantissa - 2)))
    return k.select(small, x, k.add(result, result))


def tanh(k: Floats[V], x: V) -> V:
    """e/(e+2) with e = expm1(2|x|), and the sign of x."""
    if not k.double:
        return _tanh_f32(k, x)
    twice = k.abs(k.add(x, x))
    r, _, shifted = _reduce_exp(k, k.at_most(twice, 44.0))
    power = k.power_of_two(shifted)
    e = k.fma(power, _expm1_reduced(k, r), k.sub(power, k.c(1.0)))
    k.note(twice=twice, power=power, e=e)
    return k.copysign(k.div(e, k.add(e, k.c(2.0))), x)


def _tanh_f32(k: Floats[V], x: V) -> V:
    """In as few steps after each other as can be: loops wait for them, not for the processor.

    ln 2 in one part is enough: of what it lacks n times over, tanh shows the share 2/(e+2).
    """
    size = k.at_most(k.abs(x), 10.0)
    twice = k.add(size, size)
    n, shifted = k.nearest_multiple(size, 2.0 * LOG2E)
    r = k.fma(n, k.c(-LN2), twice)
    k.note(size=size, twice=twice, n=n, shifted=shifted, r=r)
    power, m = k.power_of_two(shifted), _expm1_reduced(k, r)
    e = k.fma(power, m, k.sub(power, k.c(1.0)))
    k.note(power=power, m=m, e=e)
    return k.copysign(k.div(e, k.add(e, k.c(2.0))), x)


# ---- logarithms ---------------------------------------------------------------------------------


def _split_exponent(k: Floats[V], x: V) -> tuple[V, V, V]:
    """``x = m 2^e`` with m in [sqrt 1/2, sqrt 2) for normal x > 0: m, e, and e + bias as bits."""
    root = k.to_bits(k.c(0.7071067811865476))
    bits = k.to_bits(x)
    lifted = k.integer("add", k.integer("sub", bits, root), k.bias << k.mantissa)
    biased = k.integer("lshr", lifted, k.mantissa)
    unit = 2.0**k.mantissa
    e = k.sub(k.from_bits(k.integer("or", biased, k.to_bits(k.c(unit)))), k.c(unit + k.bias))
    shift = k.integer("shl", k.integer("sub", biased, k.bias), k.mantissa)
    m = k.from_bits(k.integer("sub", bits, shift))
    k.note(m=m, e=e, biased=biased, bits=bits)
    return m, e, biased


def _normal(k: Floats[V], x: V) -> tuple[V, V]:
    """x scaled out of the denormals, and the exponent to add for it."""
    steps = k.mantissa + 2
    tiny = k.compare("olt", x, k.c(2.0 ** (1 - k.bias)))
    scaled = k.select(tiny, k.mul(x, k.c(2.0**steps)), x)
    k.note(tiny=tiny, scaled=scaled)
    return scaled, k.select(tiny, k.c(-float(steps)), k.c(0.0))


def _log_core(k: Floats[V], f: V, e: V) -> V:
    """log(1 + f) + e ln 2 for f in [sqrt 1/2 - 1, sqrt 2 - 1]."""
    high, low = table.LN2_F64 if k.double else table.LN2_F32
    square = k.mul(f, f)
    k.note(f=f, square=square)
    if not k.double:
        cubic = k.mul(k.mul(f, square), k.polynomial(f, table.LOG_F32))
        k.note(cubic=cubic)
        tail = k.fma(k.c(-0.5), square, k.fma(e, k.c(low), cubic))
        return k.fma(e, k.c(high), k.add(f, tail))
    half = k.mul(k.c(0.5), square)
    s = k.div(f, k.add(k.c(2.0), f))
    z = k.mul(s, s)
    rest = k.mul(z, k.polynomial(z, table.ATANH_F64))
    inner = k.fma(s, k.add(half, rest), k.mul(e, k.c(low)))
    k.note(half=half, s=s, z=z, rest=rest, inner=inner)
    return k.fma(e, k.c(high), k.sub(f, k.sub(half, inner)))


def _log_special(k: Floats[V], x: V, result: V) -> V:
    """The result of a logarithm of x where x is 0, negative, infinite or NaN."""
    result = k.select(k.compare("oeq", x, k.c(INFINITY)), x, result)
    result = k.select(k.compare("oeq", x, k.c(0.0)), k.c(-INFINITY), result)
    return k.select(k.compare("ult", x, k.c(0.0)), k.c(NAN), result)


def log(k: Floats[V], x: V) -> V:
    """The natural logarithm."""
    scaled, extra = _normal(k, x)
    m, e, _ = _split_exponent(k, scaled)
    return _log_special(k, x, _log_core(k, k.sub(m, k.c(1.0)), k.add(e, extra)))


def log1p(k: Floats[V], x: V) -> V:
    """log(1 + x): the exponent of 1 + x, and f = 2^-e x + (2^-e - 1) in one rounding."""
    u = k.add(k.c(1.0), x)
    m, e, biased = _split_exponent(k, u)
    inverse = k.from_bits(k.integer("shl", k.integer("sub", k.i(2 * k.bias), biased), k.mantissa))
    f = k.fma(inverse, x, k.sub(inverse, k.c(1.0)))
    f = k.select(k.compare("ogt", x, k.c(2.0**60)), k.sub(m, k.c(1.0)), f)
    result = _log_special(k, u, _log_core(k, f, e))
    small = k.compare("olt", k.abs(x), k.c(2.0 ** (-k.mantissa - 2)))
    return k.select(small, x, result)


# ---- trigonometry --------------------------------------------------------------------------------


def _sin_cos(k: Floats[V], r: V, tail: V | None) -> tuple[V, V]:
    """sin and cos of r + tail, |r| <= pi/4."""
    z = k.mul(r, r)
    cube = k.mul(r, z)
    half = k.mul(k.c(0.5), z)
    one = k.sub(k.c(1.0), half)
    k.note(z=z, cube=cube, half=half, one=one)
    if tail is None:
        sine = k.fma(cube, k.polynomial(z, table.SIN_F32), r)
        lost = k.sub(k.sub(k.c(1.0), one), half)
        cosine = k.add(one, k.fma(k.mul(z, z), k.polynomial(z, table.COS_F32), lost))
        k.note(sine=sine, cosine=cosine, lost=lost)
        return sine, cosine
    inner = k.fma(cube, k.polynomial(z, table.SIN_F64), k.mul(tail, one))
    sine = k.add(r, inner)
    lost = k.sub(k.sub(k.c(1.0), one), half)
    small = k.fma(k.mul(z, z), k.polynomial(z, table.COS_F64), k.sub(lost, k.mul(r, tail)))
    cosine = k.add(one, small)
    k.note(sine=sine, cosine=cosine, lost=lost, small=small)
    return sine, cosine


def _flip(k: Floats[V], x: V, bits: V, number: int) -> V:
    """x with its sign changed where a bit of ``bits`` is set."""
    top = 63 if k.double else 31
    sign = k.integer("and", k.integer("shl", bits, top - number), 1 << top)
    return k.from_bits(k.integer("xor", k.to_bits(x), sign))


def _sine(k: Floats[V], angle: Angle[V]) -> V:
    sine, cosine = _sin_cos(k, angle.r, angle.tail)
    return _flip(k, k.select(k.has_bit(angle.turns, 0), cosine, sine), angle.turns, 1)


def _cosine(k: Floats[V], angle: Angle[V]) -> V:
    sine, cosine = _sin_cos(k, angle.r, angle.tail)
    turned = k.integer("add", angle.turns, 1)
    return _flip(k, k.select(k.has_bit(angle.turns, 0), sine, cosine), turned, 1)


def _tangent(k: Floats[V], angle: Angle[V]) -> V:
    sine, cosine = _sin_cos(k, angle.r, angle.tail)
    odd = k.has_bit(angle.turns, 0)
    quotient = k.div(k.select(odd, cosine, sine), k.select(odd, sine, cosine))
    return _flip(k, quotient, angle.turns, 0)


def sin_far(k: Floats[V], x: V) -> V:
    """The sine of any x beyond ``TRIG_LIMIT``; NaN of an infinite one."""
    return _sine(k, reduce_far(k, x))


def cos_far(k: Floats[V], x: V) -> V:
    """The cosine of any x beyond ``TRIG_LIMIT``; NaN of an infinite one."""
    return _cosine(k, reduce_far(k, x))


def tan_far(k: Floats[V], x: V) -> V:
    """The tangent of any x beyond ``TRIG_LIMIT``; NaN of an infinite one."""
    return _tangent(k, reduce_far(k, x))


def _is_far(k: Floats[V], x: V) -> V:
    return k.compare("ogt", k.abs(x), k.c(TRIG_LIMIT))


def sin(k: Floats[V], x: V) -> V:
    """The sine."""
    result = _sine(k, reduce_near(k, x))
    # sin(-0) is -0, which the reduction's differences lose.
    result = k.select(k.compare("oeq", x, k.c(0.0)), x, result)
    return k.rarely(_is_far(k, x), sin_far, x, result)


def cos(k: Floats[V], x: V) -> V:
    """The cosine."""
    result = _cosine(k, reduce_near(k, x))
    return k.rarely(_is_far(k, x), cos_far, x, result)


def tan(k: Floats[V], x: V) -> V:
    """The tangent."""
    result = _tangent(k, reduce_near(k, x))
    result = k.select(k.compare("oeq", x, k.c(0.0)), x, result)
    return k.rarely(_is_far(k, x), tan_far, x, result)


# ---- erf ----------------------------------------------------------------------------------------


def erf(k: Floats[V], x: V) -> V:
    """x + x P(x^2) below a split, 1 - exp(-x^2) Q above, Q Mills' ratio.

    Q is a polynomial of |x| in f32, in f64 z times one of z = 1/(1 + c|x|). The exponential is
    that of ``-(x x)`` as a derivative of erf writes it, so value and derivative share it.
    """
    square, size = k.mul(x, x), k.abs(x)
    power = k.call(exp, k.neg(square))
    if k.double:
        z = k.div(k.c(1.0), k.fma(k.c(ERFC_SCALE_F64), size, k.c(1.0)))
        near, far = k.polynomials((square, table.ERF_F64), (z, table.ERFC_F64))
        mills = k.mul(z, far)
        tail = k.mul(mills, power)
        above = k.sub(k.c(1.0), tail)
        k.note(z=z, mills=mills, tail=tail)
    else:
        short = k.at_most(size, ERF_END_F32)
        near, mills = k.polynomials((square, table.ERF_F32), (short, table.ERFC_F32))
        above = k.fma(k.neg(mills), power, k.c(1.0))
        k.note(short=short, mills=mills)
    small, large = k.fma(x, near, x), k.copysign(above, x)
    k.note(square=square, size=size, small=small, above=above, large=large)
    split = ERF_SPLIT_F64 if k.double else ERF_SPLIT_F32
    return k.select(k.compare("olt", size, k.c(split)), small, large)


# ---- pow ----------------------------------------------------------------------------------------


def pow(k: Floats[V], x: V, y: V) -> V:
    """x^y. In f32 through f64; in f64 with the logarithm in two parts."""
    size = k.abs(x)
    result = _pow_f64(k, size, y) if k.double else _pow_f32(k, size, y)
    one, infinity = k.c(1.0), k.c(INFINITY)
    whole = k.compare("oeq", k.rint(y), y)
    half = k.mul(y, k.c(0.5))
    uneven = k.compare("une", k.rint(half), half)
    k.note(size=size, whole=whole, half=half)
    odd = k.both(whole, uneven)
    result = k.select(odd, k.copysign(result, x), result)
    negative = k.compare("olt", x, k.c(0.0))
    finite = k.compare("olt", size, infinity)
    broken = k.both(negative, k.both(finite, k.compare("une", k.rint(y), y)))
    result = k.select(broken, k.c(NAN), result)
    unit = k.both(k.compare("oeq", size, one), k.compare("oeq", k.abs(y), infinity))
    k.note(negative=negative, finite=finite, broken=broken, unit=unit)
    always = k.either(k.compare("oeq", x, one), k.compare("oeq", y, k.c(0.0)))
    return k.select(k.either(unit, always), one, result)


def _pow_f32(k: Floats[V], size: V, y: V) -> V:
    wide = k.wide()
    base, power = (k.to_wide(v) for v in (size, y))
    t = wide.mul(power, _log_positive(wide, base))
    k.note(base=base, t=t)
    clamped = wide.at_most(wide.at_least(t, -200.0), 200.0)
    r, _, shifted = _reduce_exp(wide, clamped)
    tail = wide.polynomial(r, table.EXP_MIDDLE)
    mantissa = wide.add(wide.c(1.0), wide.fma(wide.mul(r, r), tail, r))
    k.note(mantissa=mantissa)
    return k.from_wide(wide.mul(mantissa, wide.power_of_two(shifted)))


def _log_positive(k: Floats[V], x: V) -> V:
    """log of a normal f64 >= 0 or infinity or NaN, to about 2^-45: enough for a power rounded to
    f32.
    """
    m, e, _ = _split_exponent(k, x)
    f = k.sub(m, k.c(1.0))
    s = k.div(f, k.add(f, k.c(2.0)))
    z = k.mul(s, s)
    tail = k.mul(k.mul(s, z), k.polynomial(z, table.ATANH_MIDDLE))
    k.note(f=f, s=s, z=z, tail=tail)
    result = k.fma(e, k.c(LN2), k.fma(k.c(2.0), s, tail))
    result = k.select(k.compare("oeq", x, k.c(0.0)), k.c(-INFINITY), result)
    return k.select(k.compare("olt", x, k.c(INFINITY)), result, x)


def _pow_f64(k: Floats[V], size: V, y: V) -> V:
    high, low = _log_pair(k, size)
    # Beyond 2^70 every power but that of 1 is 0 or infinite, and splitting y must not overflow.
    y = k.at_most(k.at_least(y, -(2.0**70)), 2.0**70)
    t, rest = k.two_product(y, high)
    rest = k.fma(y, low, rest)
    rest = k.select(k.compare("olt", k.abs(t), k.c(800.0)), rest, k.c(0.0))
    clamped = k.at_most(k.at_least(t, -800.0), 800.0)
    r, n, shifted = _reduce_exp(k, clamped)
    reduced = k.add(r, rest)
    k.note(t=t, reduced=reduced)
    return k.scale_one_and(_expm1_reduced(k, reduced), n, shifted)


def _log_pair(k: Floats[V], x: V) -> tuple[V, V]:
    """log x for x >= 0 as a sum of two f64, to about 2^-65; -inf at 0, x itself at infinity and
    NaN.
    """
    scaled, extra = _normal(k, x)
    m, e, _ = _split_exponent(k, scaled)
    e = k.add(e, extra)
    f = k.sub(m, k.c(1.0))
    s, s_low = _quotient_pair(k, f)
    z, z_low = k.two_product(s, s)
    z_low = k.fma(k.mul(k.c(2.0), s), s_low, z_low)
    two_thirds, two_thirds_low = table.TWO_THIRDS
    u, u_low = k.two_product(z, k.c(two_thirds))
    u_low = k.add(u_low, k.fma(z, k.c(two_thirds_low), k.mul(z_low, k.c(two_thirds))))
    v, v_low = k.fast_two_sum(u, k.mul(k.mul(z, z), k.polynomial(z, table.ATANH2_F64)))
    v_low = k.add(v_low, u_low)
    p, p_low = k.two_product(s, v)
    p_low = k.add(p_low, k.fma(s, v_low, k.mul(s_low, v)))
    a, a_low = k.fast_two_sum(k.add(s, s), p)
    a_low = k.add(a_low, k.add(k.add(s_low, s_low), p_low))
    ln2_high, ln2_low = table.LN2_F64
    b, b_low = k.two_sum(k.mul(e, k.c(ln2_high)), a)
    b_low = k.add(b_low, k.fma(e, k.c(ln2_low), a_low))
    high, low = k.fast_two_sum(b, b_low)
    k.note(f=f, s=s, s_low=s_low, z=z, z_low=z_low, u=u, u_low=u_low, v=v, v_low=v_low)
    k.note(p=p, p_low=p_low, a=a, a_low=a_low, b=b, b_low=b_low, high=high, low=low)
    usual = k.both(k.compare("ogt", x, k.c(0.0)), k.compare("olt", x, k.c(INFINITY)))
    at_end = k.select(k.compare("oeq", x, k.c(0.0)), k.c(-INFINITY), x)
    return k.select(usual, high, at_end), k.select(usual, low, k.c(0.0))


def _quotient_pair(k: Floats[V], f: V) -> tuple[V, V]:
    """f / (2 + f) as a sum of two."""
    d, d_low = k.fast_two_sum(k.c(2.0), f)
    s = k.div(f, d)
    product, error = k.two_product(s, d)
    rest = k.sub(k.sub(k.sub(f, product), error), k.mul(s, d_low))
    return s, k.div(rest, d)


UNARY: dict[str, Callable[[Floats[Any], Any], Any]] = {
    f.__name__: f for f in (exp, expm1, log, log1p, tanh, sin, cos, tan, erf)
}
FUNCTIONS: dict[str, Callable[..., Any]] = {**UNARY, "pow": pow}


def call(k: Floats[V], name: str, operands: Sequence[V]) -> V:
    """The function ``name``."""
    result: V = FUNCTIONS[name](k, *operands)
    return result
