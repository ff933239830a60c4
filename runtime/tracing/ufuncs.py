"""The rest of NumPy's ufuncs: remainders, rounding, tests, signs, bits, and those of scipy.special.

Importing this module adds to ``trace.UFUNCS``. Remainders of floats are exact while the quotient is
below 2**53; their slope in the divisor is minus the quotient. Integers follow NumPy: division by
zero gives 0.

Non-goals: ufuncs of several results other than ``divmod`` and ``modf``; bit patterns of floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gradc.ir.tensor.core import DType, Value
from gradc.runtime.tracing.functions import truth
from gradc.runtime.tracing.trace import UFUNCS, Trace

# Rows of the table of special functions, by the names of NumPy's and SciPy's ufuncs.
ROWS = {
    name: name
    for name in (
        *("logaddexp", "exp2", "log2", "log10", "sinh", "cosh", "arcsinh", "arccosh", "arctanh"),
        *("arctan", "arctan2", "arcsin", "arccos", "hypot", "cbrt"),
        *("expit", "logit", "log_expit", "xlogy", "xlog1py", "gammaln", "erfc", "erfcx"),
        *(
            "erfinv",
            "erfcinv",
            "rgamma",
            "gammasgn",
            "ndtr",
            "log_ndtr",
            "ndtri",
            "j0",
            "j1",
            "y0",
            "y1",
            "i0",
            "i1",
            "i0e",
            "i1e",
        ),
        *("entr", "rel_entr", "kl_div", "betaln", "beta", "gamma"),
    )
} | {"psi": "digamma"}


def special(name: str) -> Callable[..., Value]:
    """A row of ``ir/special/table.py`` on operands in their common floating type."""

    def rule(t: Trace, *operands: Any) -> Value:
        return t.special(name, *(t.as_float(v) for v in t.promote(operands)))

    return rule


def _constant(t: Trace, like: Value, value: float) -> Value:
    if not like.type.dtype.is_float:
        return t.constant(int(value), like.type.dtype, like.type.shape)
    return t.constant(value, like.type.dtype, like.type.shape)


def _remainder(name: str) -> Callable[..., Value]:
    def rule(t: Trace, a: Any, b: Any) -> Value:
        x, y = t.promote([a, b])
        if x.type.dtype.is_float:
            return t.special(name, x, y)
        x, y = _whole(t, x), _whole(t, y)
        found = t.emit("mod", x, y)
        if name == "remainder":
            return found
        # C's remainder has the sign of the dividend.
        zero = _constant(t, x, 0)
        differ = t.emit("ne", t.emit("lt", x, zero), t.emit("lt", y, zero))
        off = t.emit("logical_and", differ, t.emit("ne", found, zero))
        return t.emit("select", off, t.emit("sub", found, y), found)

    return rule


def _whole(t: Trace, value: Value) -> Value:
    return t.cast(value, DType.I64) if value.type.dtype is DType.BOOL else value


def _floor_divide(t: Trace, a: Any, b: Any) -> Value:
    x, y = t.promote([a, b])
    if not x.type.dtype.is_float:
        return t.emit("floordiv", _whole(t, x), _whole(t, y))
    exact = t.emit("div", t.emit("sub", x, t.special("remainder", x, y)), y)
    finite = t.emit("eq", t.emit("sub", exact, exact), _constant(t, x, 0.0))
    whole = t.emit("round", t.emit("select", finite, exact, _constant(t, x, 0.0)))
    return t.emit("select", finite, whole, t.emit("floor", t.emit("div", x, y)))


def _trunc(t: Trace, x: Any) -> Value:
    value = t.lift(x)
    if not value.type.dtype.is_float:
        return value
    return t.emit("mul", t.emit("sign", value), t.emit("floor", t.emit("abs", value)))


def _ceil(t: Trace, x: Any) -> Value:
    value = t.lift(x)
    if not value.type.dtype.is_float:
        return value
    return t.emit("neg", t.emit("floor", t.emit("neg", value)))


def _extreme(verb: str) -> Callable[..., Value]:
    """fmax and fmin: the number where the other is NaN."""

    def rule(t: Trace, a: Any, b: Any) -> Value:
        x, y = t.promote([a, b])
        if not x.type.dtype.is_float:
            return t.emit(verb, x, y)
        first = t.emit("select", t.emit("ne", x, x), y, x)
        second = t.emit("select", t.emit("ne", y, y), x, y)
        return t.emit(verb, first, second)

    return rule


def _is_nan(t: Trace, x: Any) -> Value:
    value = t.lift(x)
    return t.emit("ne", value, value)


def _is_inf(t: Trace, x: Any) -> Value:
    value = t.as_float(t.lift(x))
    return t.emit("eq", t.emit("abs", value), _constant(t, value, math.inf))


def _is_finite(t: Trace, x: Any) -> Value:
    value = t.as_float(t.lift(x))
    return t.emit("lt", t.emit("abs", value), _constant(t, value, math.inf))


def _signbit(t: Trace, x: Any) -> Value:
    value = t.as_float(t.lift(x))
    zero = _constant(t, value, 0.0)
    flipped = t.emit("lt", t.emit("div", _constant(t, value, 1.0), value), zero)
    at_zero = t.emit("logical_and", t.emit("eq", value, zero), flipped)
    return t.emit("logical_or", t.emit("lt", value, zero), at_zero)


def _copysign(t: Trace, a: Any, b: Any) -> Value:
    x, y = (t.as_float(v) for v in t.promote([a, b]))
    size = t.emit("abs", x)
    return t.emit("select", _signbit(t, t.wrap(y)), t.emit("neg", size), size)


def _heaviside(t: Trace, a: Any, b: Any) -> Value:
    x, y = (t.as_float(v) for v in t.promote([a, b]))
    zero = _constant(t, x, 0.0)
    step = t.emit("select", t.emit("gt", x, zero), _constant(t, x, 1.0), zero)
    step = t.emit("select", t.emit("eq", x, zero), y, step)
    return t.emit("select", t.emit("ne", x, x), x, step)


def _scaled(factor: float) -> Callable[..., Value]:
    def rule(t: Trace, x: Any) -> Value:
        value = t.as_float(t.lift(x))
        return t.emit("mul", value, _constant(t, value, factor))

    return rule


def _logaddexp2(t: Trace, a: Any, b: Any) -> Value:
    x, y = (t.as_float(v) for v in t.promote([a, b]))
    ln2 = math.log(2)
    wide = [t.emit("mul", v, _constant(t, v, ln2)) for v in (x, y)]
    return t.emit("mul", t.special("logaddexp", *wide), _constant(t, x, 1 / ln2))


def _logical_xor(t: Trace, a: Any, b: Any) -> Value:
    x, y = (truth(t, v) for v in t.promote([a, b]))
    return t.emit("ne", x, y)


def _bits(verb: str) -> Callable[..., Value]:
    of_truths = {"bitand": "logical_and", "bitor": "logical_or", "bitxor": "ne"}

    def rule(t: Trace, a: Any, b: Any) -> Value:
        x, y = t.promote([a, b])
        return t.emit(of_truths[verb] if x.type.dtype is DType.BOOL else verb, x, y)

    return rule


def _invert(t: Trace, x: Any) -> Value:
    value = t.lift(x)
    if value.type.dtype is DType.BOOL:
        return t.emit("logical_not", value)
    return t.emit("bitxor", value, _constant(t, value, -1))


def _clip(t: Trace, a: Any, low: Any, high: Any) -> Value:
    x, y, z = t.promote([a, low, high])
    return t.emit("min", t.emit("max", x, y), z)


def _two(first: str, second: str) -> Callable[..., Any]:
    def rule(t: Trace, *operands: Any) -> Any:
        return UFUNCS[first](t, *operands), UFUNCS[second](t, *operands)

    return rule


def _modf(t: Trace, x: Any) -> Any:
    value = t.as_float(t.lift(x))
    whole = _trunc(t, t.wrap(value))
    return t.emit("sub", value, whole), whole


def _conjugate(t: Trace, x: Any) -> Value:
    return t.lift(x)


def _huber(t: Trace, delta: Any, r: Any) -> Value:
    d, x = (t.wrap(v) for v in t.promote([delta, r]))
    size = np.abs(x)
    found = np.where(size <= d, 0.5 * x * x, d * (size - 0.5 * d))
    return t.lift(np.where(d < 0, np.inf, found))


def _pseudo_huber(t: Trace, delta: Any, r: Any) -> Value:
    d, x = (t.wrap(t.as_float(v)) for v in t.promote([delta, r]))
    flat = np.logical_or(d == 0, x == 0)
    ratio = x / np.where(d == 0, 1.0, d)
    found = x * x / (1 + np.sqrt(1 + ratio * ratio))
    found = np.where(flat, 0.5 * x * x * np.where(d == 0, 0.0, 1.0), found)
    return t.lift(np.where(d < 0, np.inf, found))


def _log_gamma(t: Trace, x: Any) -> Value:
    """Of real numbers, whose logarithm is real from 0 on."""
    value = t.wrap(t.as_float(t.lift(x)))
    found = t.wrap(t.special("gammaln", value.value))
    return t.lift(np.where(value < 0, np.nan, found))


def _composed(rule: Callable[[Any], Any]) -> Callable[..., Value]:
    return lambda t, x: t.lift(rule(t.wrap(t.as_float(t.lift(x)))))


def _vectors(rule: Callable[[Any, Any], Any]) -> Callable[..., Value]:
    def apply(t: Trace, a: Any, b: Any) -> Value:
        return t.lift(rule(t.wrap(t.lift(a)), t.wrap(t.lift(b))))

    return apply


UFUNCS.update({name: special(row) for name, row in ROWS.items()})
UFUNCS.update(
    {
        "remainder": _remainder("remainder"),
        "fmod": _remainder("fmod"),
        "floor_divide": _floor_divide,
        "divmod": _two("floor_divide", "remainder"),
        "modf": _modf,
        "trunc": _trunc,
        "ceil": _ceil,
        "fmax": _extreme("max"),
        "fmin": _extreme("min"),
        "isnan": _is_nan,
        "isinf": _is_inf,
        "isfinite": _is_finite,
        "signbit": _signbit,
        "copysign": _copysign,
        "heaviside": _heaviside,
        "degrees": _scaled(180 / math.pi),
        "rad2deg": _scaled(180 / math.pi),
        "radians": _scaled(math.pi / 180),
        "deg2rad": _scaled(math.pi / 180),
        "logaddexp2": _logaddexp2,
        "logical_xor": _logical_xor,
        "bitwise_and": _bits("bitand"),
        "bitwise_or": _bits("bitor"),
        "bitwise_xor": _bits("bitxor"),
        "left_shift": _bits("shl"),
        "right_shift": _bits("shr"),
        "invert": _invert,
        "clip": _clip,
        "conjugate": _conjugate,
        "erf": lambda t, x: t.emit("erf", t.as_float(t.lift(x))),
        "huber": _huber,
        "pseudo_huber": _pseudo_huber,
        "loggamma": _log_gamma,
        "exp10": _composed(lambda x: 10.0**x),
        "cosm1": _composed(lambda x: -2 * np.sin(0.5 * x) ** 2),
        "round": lambda t, x: UFUNCS["rint"](t, x),
        "vecdot": _vectors(lambda a, b: np.sum(a * b, axis=-1)),
        "matvec": _vectors(lambda a, b: np.matmul(a, b[..., None])[..., 0]),
        "vecmat": _vectors(lambda a, b: np.matmul(a[..., None, :], b)[..., 0, :]),
    }
)
