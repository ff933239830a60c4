"""Scalars as exact fractions of polynomials: a decision procedure for identities of single
elements.

A scalar is a quotient of polynomials with rational coefficients in generators: the operands, and
one atom per value of a function that is not rational (exp, log, tanh, erf, ...). Two scalars are
equal exactly if cross products are, so an identity that holds here holds over the reals wherever
both sides are defined. Laws beyond arithmetic:

* exp(a + b log q) = exp(a) q^b for whole b, exp(-x) exp(x) = 1, expm1, log1p, tan by their
  definitions;
* sqrt(x^2) = x: roots are taken of operands that are squares of generators (``square``), so x > 0
  is assumed;
* x^(p + n) = x^p x^n for whole n; tanh, sin, erf are odd, cos is even;
* literals mean what ``prove_field`` says, with the square roots of primes and pi as generators.

Guards are decided by ``Cells``: a comparison is asked once per run, answered from a list of bits,
and ``cells`` runs a test for every list, so all regions off kinks are covered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

from gradc.ir.tensor.core import DType
from gradc.passes.prove.domains.literals import Meaning, meaning, prime_factors

Monomial: TypeAlias = tuple[tuple[int, int], ...]
Poly: TypeAlias = dict[Monomial, Fraction]
# More terms than this are given up on.
MOST_TERMS = 20_000


class TooLarge(Exception):
    """An expression grew beyond what is worth expanding."""


def _times(a: Poly, b: Poly) -> Poly:
    if len(a) * len(b) > MOST_TERMS:
        raise TooLarge
    found: Poly = {}
    for m, c in a.items():
        for n, d in b.items():
            powers = dict(m)
            for g, e in n:
                powers[g] = powers.get(g, 0) + e
            key = tuple(sorted(powers.items()))
            found[key] = found.get(key, Fraction(0)) + c * d
    return {m: c for m, c in found.items() if c}


def _plus(a: Poly, b: Poly, sign: int = 1) -> Poly:
    found = dict(a)
    for m, c in b.items():
        found[m] = found.get(m, Fraction(0)) + sign * c
    return {m: c for m, c in found.items() if c}


ONE: Poly = {(): Fraction(1)}


@dataclass(frozen=True, slots=True, eq=False)
class Quotient:
    """num / den; den is not the zero polynomial."""

    num: Poly
    den: Poly

    def __add__(self, other: Quotient | int) -> Quotient:
        other = _lifted(other)
        if self.den == other.den:
            return Quotient(_plus(self.num, other.num), self.den)
        left, right = _times(self.num, other.den), _times(other.num, self.den)
        return Quotient(_plus(left, right), _times(self.den, other.den))

    __radd__ = __add__

    def __neg__(self) -> Quotient:
        return Quotient({m: -c for m, c in self.num.items()}, self.den)

    def __sub__(self, other: Quotient | int) -> Quotient:
        return self + (-_lifted(other))

    def __rsub__(self, other: int) -> Quotient:
        return _lifted(other) - self

    def __mul__(self, other: Quotient | int) -> Quotient:
        other = _lifted(other)
        return Quotient(_times(self.num, other.num), _times(self.den, other.den))

    __rmul__ = __mul__

    def __truediv__(self, other: Quotient | int) -> Quotient:
        other = _lifted(other)
        if not other.num:
            raise ZeroDivisionError("division by the zero polynomial")
        return Quotient(_times(self.num, other.den), _times(self.den, other.num))

    def __rtruediv__(self, other: int) -> Quotient:
        return _lifted(other) / self

    def is_equal(self, other: Quotient | int) -> bool:
        other = _lifted(other)
        return _times(self.num, other.den) == _times(other.num, self.den)

    @property
    def number(self) -> Fraction | None:
        """The rational number this is, if it is one."""
        if not self.num:
            return Fraction(0)
        if set(self.num) == {()} and set(self.den) == {()}:
            return self.num[()] / self.den[()]
        return None


def _lifted(value: Quotient | int) -> Quotient:
    """NumPy's sums of objects start at the integer 0, and empty masks are Python's integers."""
    return value if isinstance(value, Quotient) else rational(value)


def rational(value: Fraction | int) -> Quotient:
    """A number."""
    exact = Fraction(value)
    return Quotient({(): exact} if exact else {}, ONE)


@dataclass
class Cells:
    """Answers to comparisons: ``bits`` first, then True; ``asked`` counts them."""

    bits: list[bool] = field(default_factory=list)
    asked: int = 0

    def answer(self) -> bool:
        if self.asked == len(self.bits):
            self.bits.append(True)
        self.asked += 1
        return self.bits[self.asked - 1]


def cells(test: Callable[[ExactScalars], bool], most: int = 64) -> Iterator[bool]:
    """``test`` in every cell of its guards. Raises TooLarge beyond ``most`` cells."""
    bits: list[bool] = []
    for _ in range(most):
        scalars = ExactScalars(Cells(bits))
        yield test(scalars)
        while bits and not bits[-1]:
            bits.pop()
        if not bits:
            return
        bits[-1] = False
    raise TooLarge


class ExactScalars:
    """The scalar verbs over quotients."""

    def __init__(self, guards: Cells | None = None) -> None:
        self.guards = guards or Cells()
        self.count = 0
        self.functions: dict[str, list[tuple[tuple[Quotient, ...], Quotient]]] = {}
        self.logs: dict[int, Quotient] = {}
        self.signs: list[tuple[Quotient, bool]] = []

    # ---- generators

    def fresh(self) -> Quotient:
        """A new generator: an operand."""
        self.count += 1
        return Quotient({((self.count, 1),): Fraction(1)}, ONE)

    def square(self) -> Quotient:
        """An operand that is the square of a generator, and so has a root."""
        root = self.fresh()
        found = root * root
        self.functions.setdefault("sqrt", []).append(((found,), root))
        return found

    def atom(self, name: str, *arguments: Quotient) -> Quotient:
        """The function ``name`` at ``arguments``: the same generator for equal ones."""
        known = self.functions.setdefault(name, [])
        for given, value in known:
            if all(a.is_equal(b) for a, b in zip(given, arguments, strict=True)):
                return value
        value = self.fresh()
        known.append((arguments, value))
        return value

    def const(self, value: float | bool, dtype: DType | None = None) -> Any:
        if isinstance(value, bool):
            return value
        number = float(value)
        if not math.isfinite(number):
            return self.atom(f"number {number}")
        meant = meaning(number, dtype or DType.F64) or Meaning(Fraction(number))
        found = rational(meant.multiple) * self._whole(self.atom("root of pi"), meant.pis)
        for q in prime_factors(meant.root):
            found = found * self.atom(f"root of {q}")
        return found

    def _whole(self, x: Quotient, exponent: int) -> Quotient:
        base, found = (x if exponent >= 0 else rational(1) / x), rational(1)
        for _ in range(abs(exponent)):
            found = found * base
        return found

    # ---- arithmetic

    def add(self, a: Any, b: Any) -> Any:
        return a + b

    def sub(self, a: Any, b: Any) -> Any:
        return a - b

    def mul(self, a: Any, b: Any) -> Any:
        return a * b

    gate = mul

    def div(self, a: Any, b: Any) -> Any:
        return a / b

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return a * b + c

    def neg(self, x: Any) -> Any:
        return -x

    def stop_gradient(self, x: Any) -> Any:
        return x

    def pow(self, a: Any, b: Any) -> Any:
        whole = b.number
        if whole is not None and whole.denominator == 1:
            return self._whole(a, int(whole))
        shift = b.num.get((), Fraction(0)) if b.den == ONE else Fraction(0)
        if shift.denominator == 1 and shift:
            return self.atom("pow", a, b - rational(shift)) * self._whole(a, int(shift))
        return self.atom("pow", a, b)

    # ---- functions

    def _signed(self, name: str, x: Any, is_odd: bool) -> Any:
        for (given,), value in self.functions.get(name, []):
            if given.is_equal(-x):
                return -value if is_odd else value
        return self.atom(name, x)

    def sin(self, x: Any) -> Any:
        return self._signed("sin", x, True)

    def cos(self, x: Any) -> Any:
        return self._signed("cos", x, False)

    def tan(self, x: Any) -> Any:
        """sin/cos with sin^2 = 1 - cos^2 left to ``reduced``."""
        return self.sin(x) / self.cos(x)

    def tanh(self, x: Any) -> Any:
        return self._signed("tanh", x, True)

    def erf(self, x: Any) -> Any:
        return self._signed("erf", x, True)

    def sqrt(self, x: Any) -> Any:
        return self.atom("sqrt", x)

    def rsqrt(self, x: Any) -> Any:
        return rational(1) / self.sqrt(x)

    def log(self, x: Any) -> Any:
        if x.number == 1:
            return rational(0)
        value = self.atom("log", x)
        ((generator, _),) = next(iter(value.num))
        self.logs[generator] = x
        return value

    def log1p(self, x: Any) -> Any:
        return self.log(x + rational(1))

    def exp(self, x: Any) -> Any:
        """With whole multiples of logarithms taken out."""
        rest, outside = x, rational(1)
        if x.den == ONE:
            for monomial, c in x.num.items():
                if len(monomial) == 1 and monomial[0][1] == 1 and c.denominator == 1:
                    argument = self.logs.get(monomial[0][0])
                    if argument is not None:
                        outside = outside * self._whole(argument, int(c))
                        rest = rest - Quotient({monomial: c}, ONE)
        if rest.number == 0:
            return outside
        for (given,), value in self.functions.get("exp", []):
            if given.is_equal(-rest):
                return outside / value
        return outside * self.atom("exp", rest)

    def expm1(self, x: Any) -> Any:
        return self.exp(x) - rational(1)

    def floor(self, x: Any) -> Any:
        return self.atom("floor", x)

    def round(self, x: Any) -> Any:
        return self.atom("round", x)

    # ---- guards

    def is_positive(self, x: Quotient) -> bool:
        """In the cell at hand; x is not identically zero."""
        number = x.number
        if number is not None:
            return number > 0
        for known, sign in self.signs:
            if x.is_equal(known):
                return sign
            if x.is_equal(-known):
                return not sign
        sign = self.guards.answer()
        self.signs.append((x, sign))
        return sign

    def gt(self, a: Any, b: Any) -> bool:
        return False if a.is_equal(b) else self.is_positive(a - b)

    def lt(self, a: Any, b: Any) -> bool:
        return self.gt(b, a)

    def ge(self, a: Any, b: Any) -> bool:
        return not self.gt(b, a)

    def le(self, a: Any, b: Any) -> bool:
        return not self.gt(a, b)

    def eq(self, a: Any, b: Any) -> bool:
        """Off kinks, only what is identically equal is equal."""
        return bool(a.is_equal(b))

    def ne(self, a: Any, b: Any) -> bool:
        return not self.eq(a, b)

    def max(self, a: Any, b: Any) -> Any:
        return a if self.ge(a, b) else b

    def min(self, a: Any, b: Any) -> Any:
        return b if self.ge(a, b) else a

    def sign(self, x: Any) -> Any:
        if x.number == 0:
            return x
        return rational(1 if self.is_positive(x) else -1)

    def abs(self, x: Any) -> Any:
        return self.sign(x) * x

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        return a if condition else b

    # ---- relations between generators

    def is_zero(self, x: Quotient) -> bool:
        """Whether ``x`` vanishes, with sin^2 + cos^2 = 1 and (root of 2)^2 = 2 taken into
        account.
        """
        num = x.num
        for (given,), sine in self.functions.get("sin", []):
            for (other,), cosine in self.functions.get("cos", []):
                if given.is_equal(other):
                    num = _replaced(num, sine, _plus(ONE, _times(cosine.num, cosine.num), -1))
        for name in [f for f in self.functions if f.startswith("root of ") and f != "root of pi"]:
            for _, root in self.functions[name]:
                num = _replaced(num, root, {(): Fraction(int(name.removeprefix("root of ")))})
        return not num


def _replaced(poly: Poly, generator: Quotient, square: Poly) -> Poly:
    """``poly`` with every square of ``generator`` replaced."""
    (((number, _),),) = generator.num
    found: Poly = {}
    for monomial, c in poly.items():
        powers = dict(monomial)
        exponent = powers.pop(number, 0)
        if exponent % 2:
            powers[number] = 1
        term: Poly = {tuple(sorted(powers.items())): c}
        for _ in range(exponent // 2):
            term = _times(term, square)
        found = _plus(found, term)
    return found
