"""What ops mean on complex values: programs over real and imaginary parts.

Importing this module adds to ``trace.PROTOCOLS``. A rule has the name of the op of the IR and gets
its operands, at least one of them a pair, and its attributes; an op without a rule here is refused,
so that no imaginary part is lost. Derivatives are those of the real programs, so they are exact at
both parts. Branch cuts are those of C99 and NumPy, the sign of zero included; a derivative there is
that of the side that the value belongs to.

Sources: W. Kahan, Branch cuts for complex elementary functions, 1987; R. L. Smith, Algorithm 116,
1962 (division).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from gradc.ir.tensor.core import DType, Value
from gradc.runtime.tracing.pairs import ComplexType, Pair, pair, zeros
from gradc.runtime.tracing.trace import PROTOCOLS, WITH_COMPLEX, Trace, refuse

Rule = Callable[..., Value]
R = TypeVar("R", bound=Rule)
OPS: dict[str, Rule] = {}
SPECIAL: dict[str, Rule] = {}

_LOST = "take numpy.real(x), numpy.imag(x) or abs(x) first: the imaginary part would be lost"


def _op(t: Trace, name: str, operands: Sequence[Value], attributes: Mapping[str, Any]) -> Value:
    rule = OPS.get(name)
    if rule is None:
        raise refuse("GC0560", f"complex numbers cannot be traced through `{name}`", _LOST)
    return rule(t, *operands, **attributes)


def _special(t: Trace, name: str, operands: Sequence[Value]) -> Value:
    rule = SPECIAL.get(name)
    if rule is None:
        raise refuse("GC0560", f"complex numbers cannot be traced through `{name}`", _LOST)
    return rule(t, *operands)


def _ufunc(ufunc: np.ufunc, rule: Rule) -> Rule:
    """The rule for complex operands. Raises DiagnosticError GC0560 where NumPy has none either."""
    if not any(kind in form.split("->")[0] for form in ufunc.types for kind in "FD"):
        raise refuse("GC0560", f"{ufunc.__name__} takes no complex numbers", _LOST)
    return cast("Rule", WITH_COMPLEX.get(f"ufunc.{ufunc.__name__}") or rule)


def _function(name: str, rule: Callable[..., object]) -> Callable[..., object]:
    if name not in WITH_COMPLEX:
        message = f"numpy.{name} of complex numbers cannot be traced"
        raise refuse("GC0560", message, "docs/functions.md lists what can; " + _LOST)
    return WITH_COMPLEX[name] or rule


PROTOCOLS.update(
    {
        "complex op": _op,
        "complex special": _special,
        "complex ufunc": _ufunc,
        "complex function": _function,
    }
)


def op(*names: str) -> Callable[[R], R]:
    """Registers the meaning of ops on pairs."""

    def add(rule: R) -> R:
        OPS.update(dict.fromkeys(names, rule))
        return rule

    return add


def special(*names: str) -> Callable[[R], R]:
    """The same for rows of the table of special functions."""

    def add(rule: R) -> R:
        SPECIAL.update(dict.fromkeys(names, rule))
        return rule

    return add


# --- parts: None is a zero


def as_pair(value: Value) -> Pair:
    """A value as a complex one."""
    return value if isinstance(value, Pair) else pair(value, None)


def whole(t: Trace, value: Value) -> tuple[Value, Value]:
    """Both parts, zeros written out."""
    z = as_pair(value)
    return z.re, zeros(t.builder, z.re) if z.im is None else z.im


def _number(t: Trace, value: float, like: Value) -> Value:
    return t.constant(value, like.type.dtype, like.type.shape)


def _plus(t: Trace, a: Value | None, b: Value | None) -> Value | None:
    if a is None or b is None:
        return b if a is None else a
    return t.emit("add", a, b)


def _minus(t: Trace, a: Value | None, b: Value | None) -> Value | None:
    if b is None:
        return a
    return t.emit("neg", b) if a is None else t.emit("sub", a, b)


def _times(t: Trace, a: Value | None, b: Value | None) -> Value | None:
    return None if a is None or b is None else t.emit("mul", a, b)


def _product(t: Trace, x: Pair, y: Pair, times: Callable[..., Value | None]) -> Pair:
    """(a + ib)(c + id) by any bilinear ``times``."""
    re = _minus(t, times(t, x.re, y.re), times(t, x.im, y.im))
    assert re is not None, "real parts are there"
    return pair(re, _plus(t, times(t, x.re, y.im), times(t, x.im, y.re)))


def conjugate(t: Trace, z: Pair) -> Pair:
    return pair(z.re, None if z.im is None else t.emit("neg", z.im))


def times_i(t: Trace, z: Value) -> Pair:
    """``i z``."""
    re, im = whole(t, z)
    return pair(t.emit("neg", im), re)


def times_minus_i(t: Trace, z: Value) -> Pair:
    """``-i z``."""
    re, im = whole(t, z)
    return pair(im, t.emit("neg", re))


# --- what only moves or adds elements


def _both(name: str) -> Rule:
    """An op that is linear over the reals in all its operands, or in those that are pairs."""

    def rule(t: Trace, *operands: Value, **attributes: Any) -> Value:
        pairs = [as_pair(v) for v in operands]
        re = t.emit(name, *(z.re for z in pairs), **attributes)
        if all(z.im is None for z in pairs):
            return pair(re, None)
        ims = [whole(t, z)[1] for z in pairs]
        return pair(re, t.emit(name, *ims, **attributes))

    return rule


for _name in (
    *("broadcast", "reshape", "transpose", "slice", "pad", "concat", "reverse", "sum", "cumsum"),
    *("stop_gradient", "round"),
):
    OPS[_name] = _both(_name)


@op("take")
def _take(t: Trace, table: Value, ids: Value, **attributes: Any) -> Value:
    z = as_pair(table)
    im = None if z.im is None else t.emit("take", z.im, ids, **attributes)
    return pair(t.emit("take", z.re, ids, **attributes), im)


@op("scatter_add")
def _scatter_add(t: Trace, ids: Value, updates: Value, **attributes: Any) -> Value:
    re, im = (t.emit("scatter_add", ids, part, **attributes) for part in whole(t, updates))
    return pair(re, im)


@op("select")
def _select(t: Trace, condition: Value, a: Value, b: Value) -> Value:
    x, y = as_pair(a), as_pair(b)
    re = t.emit("select", condition, x.re, y.re)
    if x.im is None and y.im is None:
        return pair(re, None)
    return pair(re, t.emit("select", condition, whole(t, x)[1], whole(t, y)[1]))


@op("constant")
def _constant(t: Trace, value: complex, dtype: Any, shape: Any) -> Value:
    number = complex(value)
    re = t.constant(number.real, dtype.part, shape)
    is_real = number.imag == 0 and math.copysign(1.0, number.imag) > 0
    return pair(re, None if is_real else t.constant(number.imag, dtype.part, shape))


@op("cast")
def _cast(t: Trace, value: Value, dtype: Any) -> Value:
    z = as_pair(value)
    if isinstance(dtype, ComplexType):
        im = None if z.im is None else t.cast(z.im, dtype.part)
        return pair(t.cast(z.re, dtype.part), im)
    if dtype is DType.BOOL:
        return t.emit("ne", value, t.constant(0, value.type.dtype, value.type.shape))
    raise refuse("GC0560", f"a complex array cannot become one of {dtype}", _LOST)


# --- arithmetic


@op("add")
def _add(t: Trace, a: Value, b: Value) -> Pair:
    x, y = as_pair(a), as_pair(b)
    return pair(t.emit("add", x.re, y.re), _plus(t, x.im, y.im))


@op("sub")
def _sub(t: Trace, a: Value, b: Value) -> Value:
    x, y = as_pair(a), as_pair(b)
    return pair(t.emit("sub", x.re, y.re), _minus(t, x.im, y.im))


@op("neg")
def _neg(t: Trace, a: Value) -> Value:
    z = as_pair(a)
    return pair(t.emit("neg", z.re), None if z.im is None else t.emit("neg", z.im))


@op("mul")
def _mul(t: Trace, a: Value, b: Value) -> Pair:
    return _product(t, as_pair(a), as_pair(b), _times)


@op("contract")
def _contract(t: Trace, a: Value, b: Value, **attributes: Any) -> Value:
    def times(t: Trace, x: Value | None, y: Value | None) -> Value | None:
        return None if x is None or y is None else t.emit("contract", x, y, **attributes)

    return _product(t, as_pair(a), as_pair(b), times)


@op("div")
def _div(t: Trace, a: Value, b: Value) -> Pair:
    """Smith's quotient: scaled by the larger part of the divisor, as NumPy's is."""
    x, y = as_pair(a), as_pair(b)
    if y.im is None:
        im = None if x.im is None else t.emit("div", x.im, y.re)
        return pair(t.emit("div", x.re, y.re), im)
    (re, im), (c, d) = whole(t, x), whole(t, y)
    e = t.emit
    is_first = e("ge", e("abs", c), e("abs", d))
    large, small = e("select", is_first, c, d), e("select", is_first, d, c)
    ratio = e("div", small, large)
    scale = e("div", _number(t, 1.0, c), e("add", large, e("mul", small, ratio)))
    first, second = e("select", is_first, re, im), e("select", is_first, im, re)
    turned = e("sub", second, e("mul", first, ratio))
    turned = e("select", is_first, turned, e("neg", turned))
    return pair(e("mul", e("add", first, e("mul", second, ratio)), scale), e("mul", turned, scale))


@op("prod")
def _prod(t: Trace, a: Value, axes: tuple[int, ...]) -> Value:
    """Halves times halves."""
    shape = a.type.static_shape
    kept = [i for i in range(len(shape)) if i not in axes]
    count = math.prod(shape[i] for i in axes)
    turned = t.emit("transpose", a, perm=(*axes, *kept))
    rest = tuple(shape[i] for i in kept)
    found = t.emit("reshape", turned, shape=(count, *rest))
    if not count:
        return t.constant(1.0, a.type.dtype, rest)

    def part(value: Value, low: int, high: int) -> Value:
        low_, high_ = (low, *(0 for _ in rest)), (high, *rest)
        return t.emit("slice", value, start=low_, limit=high_, stride=(1,) * (len(rest) + 1))

    while count > 1:
        half = count // 2
        made = t.emit("mul", part(found, 0, half), part(found, half, 2 * half))
        found = t.emit("concat", made, part(found, 2 * half, count), axis=0) if count % 2 else made
        count -= half
    return t.emit("reshape", found, shape=rest)


# --- size, order


@op("abs")
def absolute(t: Trace, a: Value) -> Value:
    z = as_pair(a)
    return t.emit("abs", z.re) if z.im is None else t.special("hypot", z.re, z.im)


@op("sign")
def _sign(t: Trace, a: Value) -> Value:
    """z / |z|, and 0 at 0."""
    size = absolute(t, a)
    zero = _number(t, 0.0, size)
    safe = t.emit("select", t.emit("eq", size, zero), _number(t, 1.0, size), size)
    return _div(t, a, pair(safe, None))


def _equal(is_equal: bool) -> Rule:
    verb, both = ("eq", "logical_and") if is_equal else ("ne", "logical_or")

    def rule(t: Trace, a: Value, b: Value) -> Value:
        x, y = as_pair(a), as_pair(b)
        re = t.emit(verb, x.re, y.re)
        if x.im is None and y.im is None:
            return re
        return t.emit(both, re, t.emit(verb, whole(t, x)[1], whole(t, y)[1]))

    return rule


OPS["eq"], OPS["ne"] = _equal(True), _equal(False)


def _ordered(strict: str, verb: str) -> Rule:
    """NumPy's order: real parts first, imaginary parts where they are equal."""

    def rule(t: Trace, a: Value, b: Value) -> Value:
        (re, im), (c, d) = whole(t, a), whole(t, b)
        tied = t.emit("logical_and", t.emit("eq", re, c), t.emit(verb, im, d))
        return t.emit("logical_or", t.emit(strict, re, c), tied)

    return rule


OPS.update({v: _ordered(f"{v[0]}t", v) for v in ("lt", "le", "gt", "ge")})


# --- elementary functions


@op("exp")
def exp(t: Trace, a: Value) -> Value:
    z = as_pair(a)
    size = t.emit("exp", z.re)
    if z.im is None:
        return pair(size, None)
    cosine, sine = t.emit("cos", z.im), t.emit("sin", z.im)
    return pair(t.emit("mul", size, cosine), t.emit("mul", size, sine))


@op("expm1")
def _expm1(t: Trace, a: Value) -> Value:
    re, im = whole(t, a)
    half = t.emit("sin", t.emit("mul", im, _number(t, 0.5, im)))
    less = t.emit("mul", _number(t, 2.0, half), t.emit("mul", half, half))  # 1 - cos
    grown = t.emit("mul", t.emit("expm1", re), t.emit("cos", im))
    return pair(t.emit("sub", grown, less), t.emit("mul", t.emit("exp", re), t.emit("sin", im)))


@op("log")
def log(t: Trace, a: Value) -> Pair:
    re, im = whole(t, a)
    size = t.emit("log", t.special("hypot", re, im))
    return pair(size, t.special("arctan2", im, re))


@op("log1p")
def _log1p(t: Trace, a: Value) -> Value:
    """For small numbers from |1 + z|^2 - 1, which loses nothing."""
    e = t.emit
    re, im = whole(t, a)
    one, half = _number(t, 1.0, re), _number(t, 0.5, re)
    far = e("log", t.special("hypot", e("add", re, one), im))
    is_near = e("lt", e("add", e("abs", re), e("abs", im)), half)
    small = [e("select", is_near, part, _number(t, 0.0, part)) for part in (re, im)]
    grown = e(
        "add",
        e("mul", small[0], e("add", small[0], _number(t, 2.0, re))),
        e("mul", small[1], small[1]),
    )
    near = e("mul", half, e("log1p", grown))
    return pair(e("select", is_near, near, far), t.special("arctan2", im, e("add", re, one)))


def _of_log(base: float) -> Rule:
    def rule(t: Trace, a: Value) -> Value:
        z = log(t, a)
        factor = _number(t, 1 / math.log(base), z.re)
        return _mul(t, z, pair(factor, None))

    return rule


SPECIAL.update({"log2": _of_log(2.0), "log10": _of_log(10.0)})


@special("exp2")
def _exp2(t: Trace, a: Value) -> Value:
    z = as_pair(a)
    return exp(t, _mul(t, z, pair(_number(t, math.log(2.0), z.re), None)))


def _negative(t: Trace, x: Value) -> Value:
    """Whether a real value has a minus sign; -0 has one."""
    zero = _number(t, 0.0, x)
    under = t.emit("lt", t.emit("div", _number(t, 1.0, x), x), zero)
    return t.emit(
        "logical_or", t.emit("lt", x, zero), t.emit("logical_and", t.emit("eq", x, zero), under)
    )


@op("sqrt")
def sqrt(t: Trace, a: Value) -> Pair:
    """The root with a real part of at least 0, on the side of the cut that the sign says."""
    e = t.emit
    re, im = whole(t, a)
    zero, half = _number(t, 0.0, re), _number(t, 0.5, re)
    is_left = e("lt", re, zero)
    size = e("mul", half, e("select", is_left, e("neg", re), re))
    t_ = e("sqrt", e("add", size, e("mul", half, t.special("hypot", re, im))))
    is_zero = e("eq", t_, zero)
    safe = e("select", is_zero, _number(t, 1.0, re), t_)
    other = e("mul", half, e("div", im, safe))
    one = _number(t, 1.0, re)
    side = e("select", _negative(t, t.emit("stop_gradient", im)), e("neg", one), one)
    return pair(
        e("select", is_left, e("mul", side, other), t_),
        e("select", is_left, e("mul", side, t_), other),
    )


@op("sin")
def _sin(t: Trace, a: Value) -> Value:
    re, im = whole(t, a)
    first = t.emit("mul", t.emit("sin", re), t.special("cosh", im))
    return pair(first, t.emit("mul", t.emit("cos", re), t.special("sinh", im)))


@op("cos")
def _cos(t: Trace, a: Value) -> Value:
    re, im = whole(t, a)
    first = t.emit("mul", t.emit("cos", re), t.special("cosh", im))
    second = t.emit("mul", t.emit("sin", re), t.special("sinh", im))
    return pair(first, t.emit("neg", second))


@special("sinh")
def _sinh(t: Trace, a: Value) -> Value:
    re, im = whole(t, a)
    first = t.emit("mul", t.special("sinh", re), t.emit("cos", im))
    return pair(first, t.emit("mul", t.special("cosh", re), t.emit("sin", im)))


@special("cosh")
def _cosh(t: Trace, a: Value) -> Value:
    re, im = whole(t, a)
    first = t.emit("mul", t.special("cosh", re), t.emit("cos", im))
    return pair(first, t.emit("mul", t.special("sinh", re), t.emit("sin", im)))


@op("tanh")
def _tanh(t: Trace, a: Value) -> Pair:
    """tanh(a) / D + i sin(b) cos(b) sech(a)^2 / D with D = cos(b)^2 + tanh(a)^2 sin(b)^2."""
    e = t.emit
    re, im = whole(t, a)
    th, cosine, sine = e("tanh", re), e("cos", im), e("sin", im)
    turned = e("mul", th, sine)
    divisor = e("add", e("mul", cosine, cosine), e("mul", turned, turned))
    two = e("add", re, re)
    narrow = e("mul", e("sigmoid", two), e("sigmoid", e("neg", two)))
    narrow = e("mul", _number(t, 4.0, narrow), narrow)
    return pair(e("div", th, divisor), e("div", e("mul", e("mul", sine, cosine), narrow), divisor))


@op("tan")
def _tan(t: Trace, a: Value) -> Value:
    return times_minus_i(t, _tanh(t, times_i(t, a)))


def _roots(t: Trace, a: Value) -> tuple[Pair, Pair]:
    """The roots of 1 - z and of 1 + z."""
    one = pair(_number(t, 1.0, as_pair(a).re), None)
    re, im = whole(t, a)
    z = pair(re, im)
    minus = pair(t.emit("sub", one.re, re), t.emit("neg", im))
    return sqrt(t, minus), sqrt(t, _add(t, one, z))


@special("arcsin")
def _arcsin(t: Trace, a: Value) -> Value:
    minus, plus = _roots(t, a)
    re = t.special("arctan2", as_pair(a).re, _mul(t, minus, plus).re)
    size = whole(t, _mul(t, conjugate(t, minus), plus))[1]
    return pair(re, t.special("arcsinh", size))


@special("arccos")
def _arccos(t: Trace, a: Value) -> Value:
    minus, plus = _roots(t, a)
    half = t.special("arctan2", minus.re, plus.re)
    size = whole(t, _mul(t, conjugate(t, plus), minus))[1]
    return pair(t.emit("add", half, half), t.special("arcsinh", size))


@special("arcsinh")
def _arcsinh(t: Trace, a: Value) -> Value:
    return times_minus_i(t, _arcsin(t, times_i(t, a)))


@special("arccosh")
def _arccosh(t: Trace, a: Value) -> Value:
    re, im = whole(t, a)
    one = _number(t, 1.0, re)
    minus, plus = (sqrt(t, pair(t.emit(verb, re, one), im)) for verb in ("sub", "add"))
    size = _mul(t, conjugate(t, minus), plus).re
    half = t.special("arctan2", whole(t, minus)[1], plus.re)
    return pair(t.special("arcsinh", size), t.emit("add", half, half))


@special("arctanh")
def _arctanh(t: Trace, a: Value) -> Value:
    e = t.emit
    re, im = whole(t, a)
    one = _number(t, 1.0, re)
    gap = e("sub", one, re)
    near = e("add", e("mul", gap, gap), e("mul", im, im))
    grown = e("log1p", e("div", e("mul", _number(t, 4.0, re), re), near))
    below = e("sub", e("mul", gap, e("add", one, re)), e("mul", im, im))
    angle = t.special("arctan2", e("add", im, im), below)
    return pair(e("mul", _number(t, 0.25, re), grown), e("mul", _number(t, 0.5, re), angle))


@special("arctan")
def _arctan(t: Trace, a: Value) -> Value:
    return times_minus_i(t, _arctanh(t, times_i(t, a)))


@op("pow")
def power(t: Trace, a: Value, b: Value) -> Value:
    """exp(b log a); 0 to any power is 0, to the power of 0 it is 1."""
    x, y = as_pair(a), as_pair(b)
    one = pair(_number(t, 1.0, x.re), None)
    nothing = t.constant(0.0, x.type.dtype, x.type.shape)
    is_zero = OPS["eq"](t, x, nothing)
    found = exp(t, _mul(t, log(t, _select(t, is_zero, one, x)), y))
    ended = _select(t, OPS["eq"](t, y, nothing), one, pair(_number(t, 0.0, x.re), None))
    return _select(t, is_zero, ended, found)


def whole_power(t: Trace, a: Value, exponent: int) -> Value:
    """``a`` times itself, in logarithmically many products."""
    found: Value | None = None
    base, left = a, abs(exponent)
    while left:
        if left % 2:
            found = base if found is None else _mul(t, found, base)
        left //= 2
        base = _mul(t, base, base) if left else base
    one = t.constant(1.0, a.type.dtype, a.type.shape)
    if found is None:
        return one
    return found if exponent > 0 else _div(t, one, found)
