"""Balls at 50 digits as a domain of the interpreter: what decides that something is wrong.

A ball (python-flint's ``arb``) contains the real number it stands for, whatever was rounded on the
way. Two balls that do not overlap are therefore two different numbers, which no mismatch in a prime
field can show on its own: there the functions are oracles that know only some of the laws of exp
and log.

Literals mean what ``prove_field`` says they mean: 0.1 is a tenth, a literal within an ulp of
sqrt(2/pi) is that number. What is no such number is a ball of two ulps, since passes fold constants
in floats. Comparisons that the balls do not decide raise ``Undecided``: the point is too near a
kink.
Non-goals: speed. Use it at small shapes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import flint
import numpy as np

from gradc.ir.domains.arrays import ObjectArrays
from gradc.ir.tensor.core import DType
from gradc.passes.prove.domains.literals import ULP, meaning

DIGITS = 50
_BITS = 256  # 50 digits and ample room for cancellation


class Undecided(Exception):
    """A comparison of overlapping balls, or a function outside its domain."""


def _is_same(a: Any, b: Any) -> bool:
    return bool(a is b or (a.is_exact() and b.is_exact() and a == b))


def _rational(value: Fraction) -> Any:
    return flint.arb(flint.fmpq(value.numerator, value.denominator))


def _rounded(value: float, dtype: DType) -> Any:
    """A literal that means no simple number may be a folded one: it stands for every number within
    two ulps.
    """
    return flint.arb(value, 2 * abs(value) * ULP[dtype])


def lifted(x: Any) -> Any:
    """A ball: out of an array without axes, or of the integer 0 at which NumPy's sums of objects
    start.
    """
    if isinstance(x, np.ndarray):
        x = x.item()
    return flint.arb(x) if isinstance(x, int) else x


def exact_literal(value: float, dtype: DType = DType.F64) -> Any:
    """The number that a literal means."""
    if not math.isfinite(value):
        return flint.arb(value)
    meant = meaning(value, dtype)
    if meant is None:
        return _rounded(value, dtype)
    return (
        _rational(meant.multiple)
        * flint.arb(meant.root).sqrt()
        * flint.arb.pi().sqrt() ** meant.pis
    )


def _order(test: Callable[[Any, Any], bool], ties: bool) -> Callable[[Any, Any, Any], bool]:
    def compare(self: BallScalars, a: Any, b: Any) -> bool:
        a, b = lifted(a), lifted(b)
        if _is_same(a, b):
            return ties
        if a.is_nan() or b.is_nan():
            return False
        if a.overlaps(b):
            raise Undecided
        return bool(test(a, b))

    return compare


def _unary(name: str) -> Callable[[Any, Any], Any]:
    def apply(self: BallScalars, x: Any) -> Any:
        x = lifted(x)
        found = getattr(x, name)()
        if found.is_nan() and not x.is_nan():
            raise Undecided
        return found

    return apply


def _over_zero(a: Any, b: Any) -> Any:
    """What floating point makes of a division by 0, if it is 0 for certain. Zeros have no sign
    here, and floating point gives the negative one to products and negations only."""
    if not b.is_exact():
        raise Undecided
    if a > 0 or a < 0:
        return flint.arb("inf" if a > 0 else "-inf")
    if not a.is_exact():
        raise Undecided
    return flint.arb("nan")


class BallScalars:
    """The scalar verbs over ``arb``."""

    def const(self, value: float | bool, dtype: DType | None = None) -> Any:
        if isinstance(value, bool):
            return value
        return exact_literal(float(value), dtype or DType.F64)

    def truncate(self, x: Any, dtype: DType) -> int:
        x = lifted(x)
        found = (x.floor() if x > 0 else x.ceil()).unique_fmpz()
        if found is None:
            raise Undecided
        return int(found)

    def add(self, a: Any, b: Any) -> Any:
        return a + b

    def sub(self, a: Any, b: Any) -> Any:
        return a - b

    def mul(self, a: Any, b: Any) -> Any:
        return a * b

    def gate(self, ct: Any, p: Any) -> Any:
        return flint.arb(0) if ct == 0 else ct * p

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return a * b + c

    def div(self, a: Any, b: Any) -> Any:
        a, b = lifted(a), lifted(b)
        if b.contains(0):
            if a.is_nan() or b.is_nan():
                return flint.arb("nan")
            return _over_zero(a, b)
        return a / b

    def pow(self, a: Any, b: Any) -> Any:
        a, b = lifted(a), lifted(b)
        whole = b.unique_fmpz() if b.is_exact() else None
        if whole is not None and abs(int(whole)) < 1 << 16:
            if whole < 0 and a.contains(0):
                raise Undecided
            return a ** int(whole)
        if not a > 0:
            raise Undecided
        return a**b

    def neg(self, x: Any) -> Any:
        return -x

    def sign(self, x: Any) -> Any:
        x = lifted(x)
        if x == 0:
            return flint.arb(0)
        if x.contains(0):
            raise Undecided
        return flint.arb(1 if x > 0 else -1)

    def abs(self, x: Any) -> Any:
        return self.sign(x) * x if x != 0 else x

    def floor(self, x: Any) -> Any:
        x = lifted(x)
        found = x.floor().unique_fmpz()
        if found is None:
            raise Undecided
        return flint.arb(found)

    def round(self, x: Any) -> Any:
        return self.floor(x + flint.arb(0.5))

    def floordiv(self, a: Any, b: Any) -> Any:
        return self.floor(self.div(a, b))

    def mod(self, a: Any, b: Any) -> Any:
        return a - self.floordiv(a, b) * b

    def max(self, a: Any, b: Any) -> Any:
        return a if self.ge(a, b) else b

    def min(self, a: Any, b: Any) -> Any:
        return b if self.ge(a, b) else a

    def rsqrt(self, x: Any) -> Any:
        return self.div(flint.arb(1), self.sqrt(x))

    sqrt = _unary("sqrt")
    exp = _unary("exp")
    expm1 = _unary("expm1")
    log = _unary("log")
    log1p = _unary("log1p")
    sin = _unary("sin")
    cos = _unary("cos")
    tan = _unary("tan")
    tanh = _unary("tanh")
    erf = _unary("erf")
    lt = _order(lambda a, b: a < b, False)
    le = _order(lambda a, b: a < b, True)
    gt = _order(lambda a, b: a > b, False)
    ge = _order(lambda a, b: a > b, True)

    def eq(self, a: Any, b: Any) -> bool:
        a, b = lifted(a), lifted(b)
        if _is_same(a, b):
            return True
        if a.overlaps(b):
            raise Undecided
        return False

    def ne(self, a: Any, b: Any) -> bool:
        return not self.eq(a, b)

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        return a if condition else b

    def stop_gradient(self, x: Any) -> Any:
        return x


class LenientScalars(BallScalars):
    """Balls of another algebra's literals that are NaN where a function is not defined, as machine
    numbers are.
    """

    def __init__(self, base: BallScalars) -> None:
        self._base = base

    def const(self, value: float | bool, dtype: DType | None = None) -> Any:
        return self._base.const(value, dtype)


def _lenient(name: str) -> Callable[..., Any]:
    def apply(self: LenientScalars, *operands: Any) -> Any:
        try:
            return getattr(BallScalars, name)(self, *operands)
        except Undecided:
            return flint.arb("nan")

    return apply


for _name in ("div", "pow", "sqrt", "rsqrt", "exp", "log", "log1p", "tan", "floordiv", "mod"):
    setattr(LenientScalars, _name, _lenient(_name))


class BallArrays(ObjectArrays):
    """Arrays of balls."""

    def __init__(self, scalars: BallScalars | None = None) -> None:
        super().__init__(scalars or BallScalars())

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """With enough bits for the digits promised."""
        known = flint.ctx.prec
        flint.ctx.prec = _BITS
        try:
            with super().quiet():
                yield
        finally:
            flint.ctx.prec = known

    def full(self, value: float | bool, shape: Sequence[int], dtype: DType) -> Any:
        if not dtype.is_float:
            return super().full(value, shape, dtype)
        ball = self.scalars.const(float(value), dtype)
        return self.objects([ball] * math.prod(shape), tuple(shape))

    # A single element taken out of an object array is a bare ball, which has no shape.

    def reduce(self, verb: str, x: Any, axes: Sequence[int], dtype: DType) -> Any:
        return np.asarray(super().reduce(verb, self._lifted(x), axes, dtype))

    def row(self, x: Any, position: int) -> Any:
        return np.asarray(super().row(x, position))

    def argmax(self, x: Any, axis: int) -> Any:
        if x.ndim > 1 or x.dtype != object:
            return np.asarray(super().argmax(x, axis))
        return np.asarray(super().argmax(x[:, None], 0)).reshape(())

    def like(self, value: float, x: Any) -> Any:
        return super().like(value, self._lifted(x))

    def zeros_like(self, x: Any) -> Any:
        return super().zeros_like(self._lifted(x))

    def point(self, x: np.ndarray[Any, np.dtype[Any]]) -> Any:
        """Exact balls at the numbers of ``x``."""
        return self.objects([flint.arb(float(v)) for v in x.reshape(-1)], x.shape)


class _Nudged(BallScalars):
    """Every literal moved by a few ulps, up or down."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def const(self, value: float | bool, dtype: DType | None = None) -> Any:
        if isinstance(value, bool):
            return value
        sign = self.rng.choice((-1, 1))
        return super().const(value, dtype) * (1 + flint.arb(4 * sign * ULP[dtype or DType.F64]))


class NudgedArrays(BallArrays):
    """Arrays of balls in which literals are a few ulps off: what folding constants in a type may do
    to a program.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(_Nudged(seed))


def largest_gap(a: Any, b: Any) -> float:
    """The largest difference of the middles of two arrays of balls; infinite numbers are left
    out.
    """
    pairs = zip(np.ravel(np.asarray(a, object)), np.ravel(np.asarray(b, object)), strict=True)
    gaps = ((lifted(x) - lifted(y)).mid() for x, y in pairs)
    return max((abs(float(gap)) for gap in gaps if gap.is_finite()), default=0.0)


def first_difference(
    a: Any, b: Any, tolerance: float = 0.0
) -> tuple[tuple[int, ...], str, str] | None:
    """Where two arrays of balls certainly differ by more than ``tolerance`` of the largest entry.

    Gives the index and both values. Raises Undecided if anything is no finite number, unless it is
    the same infinity on both sides.
    """
    left, right = np.asarray(a, object), np.asarray(b, object)
    pairs = [(p, lifted(left[p]), lifted(right[p])) for p in np.ndindex(left.shape)]
    for _, x, y in pairs:
        if not (x.is_finite() and y.is_finite()) and not (x.is_exact() and x == y):
            raise Undecided
    finite = [(p, x, y) for p, x, y in pairs if x.is_finite()]
    scale = max((abs(float(x.mid())) for _, x, _ in finite), default=0.0)
    for place, x, y in finite:
        if not x.overlaps(y) and float(abs(x - y).lower()) > tolerance * scale:
            return place, shown(x), shown(y)
    return None


def are_finite(x: Any) -> bool:
    """Whether every ball of ``x`` is a finite number; integers and booleans are."""
    array = np.asarray(x)
    return array.dtype != object or all(lifted(e).is_finite() for e in array.reshape(-1))


def require_finite(x: Any) -> None:
    """Raises Undecided unless ``x`` holds finite numbers."""
    if not are_finite(x):
        raise Undecided


def shown(x: Any, digits: int = 15) -> str:
    """A ball's middle in decimal."""
    return str(lifted(x).mid().str(digits, radius=False))


def shared_digits(a: Any, b: Any) -> int:
    """Decimal digits that two arrays of overlapping balls share, of the largest entry (of 1, where
    all are near 0); infinite numbers are left out.
    """
    pairs = [(lifted(x), lifted(y)) for x, y in zip(np.ravel(a), np.ravel(b), strict=True)]
    known = [(x, y) for x, y in pairs if x.is_finite() and y.is_finite()]
    scale = max((float(abs(x).upper()) for x, _ in known), default=1.0)
    gap = max((float(abs(x - y).upper()) for x, y in known), default=0.0)
    error = gap / (scale if scale > 1e-30 else 1.0)
    return DIGITS if error == 0 else max(0, min(DIGITS, int(-math.log10(error))))
