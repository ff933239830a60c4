"""Programs over a large prime with guards left open: one evaluation, with an error bound, for every
region at once.

A floating value is an element of F_p, p = 2^k - 1 a Mersenne prime as large as the bound asks for,
and with it a bound on the degrees of the numerator and the denominator of the rational function it
stands for. Its variables are the operands and one *atom* per value of a function that is not
rational: equal arguments give the same random element. The laws are those of ``prove_field``;
guards are atoms too, so that no pattern of them is chosen:

* ``a > b`` is an atom g of a - b, with 1 - g for b - a (off kinks), and ``select(g, a, b)`` is g a
  + (1 - g) b;
* ``max`` is the atom of the *set* of what it is taken of: order and repetition do not matter, and
  ``min(a, b)`` is -max(-a, -b); ``sign`` and ``abs`` are odd and even in an atom;
* ``a = b`` is an atom of a - b up to sign.

Two programs that are the same function of inputs and atoms are equal over the reals in every
region, wherever both are defined. The converse fails (g^2 = g is not known), so a mismatch says
nothing.

The bound. Let D bound all degrees, N the number of arguments of atoms and M that of divisions and
of questions whether an element is zero. A point misleads only if a function that is not zero
vanishes there: the difference of two results, or of two arguments up to sign and inversion, a
denominator, or what was asked; by Schwartz and Zippel (J. ACM 27, 1980) together with probability
at most (4 N^2 + M + 2) 2 D / p. Atoms are SHAKE-128 of their arguments and are taken for random.

Raises ``Open`` where a program needs to know an atom: an integer made of it, an address, a loop's
guard.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from gradc.ir.domains.arrays import ObjectArrays
from gradc.ir.domains.interpret import run
from gradc.ir.tensor.core import DType, Function, Role
from gradc.passes.prove.domains.literals import Meaning, meaning, prime_factors
from gradc.passes.prove.domains.point import element_of, index_limit

# 2^k - 1 is prime for these k.
EXPONENTS = (127, 521, 1279, 2203, 4423, 9689, 19937)
# The error that is asked for, as a power of two.
WANTED = -60
# Integer exponents up to this are products.
_MOST_POWER = 64


class Open(Exception):
    """What a program does depends on a guard that is left open."""


class Free:
    """An element, and bounds on the degrees of its numerator and denominator."""

    __slots__ = ("den", "num", "value")

    def __init__(self, value: int, num: int = 0, den: int = 0) -> None:
        self.value = value
        self.num = num
        self.den = den

    def __bool__(self) -> bool:
        raise Open("a choice between programs")

    def __and__(self, other: object) -> Free:
        raise Open("a loop's guard")

    __rand__ = __and__

    def __int__(self) -> int:
        raise Open("an integer")

    __index__ = __int__


class FreeScalars:
    """The scalar verbs (``ir/tensor/algebra.py``) over free elements modulo 2^exponent - 1."""

    def __init__(self, exponent: int, key: int) -> None:
        self.exponent = exponent
        self.prime = (1 << exponent) - 1
        self._half = self.prime >> 1
        self._key = key
        self._atoms: dict[tuple[Any, ...], Free] = {}
        self._inverses: dict[int, int] = {}
        self._sets: dict[int, frozenset[int]] = {}
        self._elements: dict[int, Free] = {}
        self._literals: dict[tuple[float, DType], Free] = {}
        self._asked = 0
        self.degree = 1
        self.one = Free(1)
        self.top = self.atom("infinity")
        self._low = self.neg(self.top)
        self._has_infinity = False  # whether a program has asked for it

    # ---- elements

    def fresh(self, value: int) -> Free:
        """A variable that has drawn ``value``."""
        return Free(value % self.prime, 1)

    def of(self, x: Any) -> Free:
        """``x``, or what a bare number or decided guard among objects stands for."""
        return x if type(x) is Free else Free(int(x) % self.prime)

    def _made(self, value: int, num: int, den: int) -> Free:
        if num > self.degree or den > self.degree:
            self.degree = max(num, den)
        return Free(value, num, den)

    def atom(self, name: str, *arguments: Free) -> Free:
        """The function ``name`` at ``arguments``: never zero, the same element for the same
        arguments.
        """
        place = (name, *(x.value for x in arguments))
        found = self._atoms.get(place)
        if found is None:
            size = self.exponent // 8 + 9
            text = f"{self._key}/{name}/" + "/".join(f"{x.value:x}" for x in arguments)
            digest = hashlib.shake_128(text.encode()).digest(size)
            found = Free(1 + int.from_bytes(digest, "little") % (self.prime - 1), 1)
            self._atoms[place] = found
        return found

    def _is_zero(self, x: Free) -> bool:
        """Whether ``x`` vanishes: everywhere, unless the point misleads."""
        self._asked += 1
        return not x.value

    @property
    def error(self) -> float:
        """The base-two logarithm of the bound."""
        arguments = len(self._atoms) + len(self._elements)
        count = 4 * arguments**2 + len(self._inverses) + self._asked + 2
        # log2 of integers of any size, rounded upwards.
        return math.log2(count) + self.degree.bit_length() + 1 - self.exponent

    def const(self, value: float | bool, dtype: DType | None = None) -> Any:
        if isinstance(value, (bool, np.bool_)):
            return bool(value)
        place = (float(value), dtype or DType.F64)
        found = self._literals.get(place)
        if found is None:
            found = self._literals[place] = self._literal(*place)
        return found

    def _literal(self, value: float, dtype: DType) -> Free:
        if math.isinf(value):
            self._has_infinity = True
            return self.top if value > 0 else self._low
        if math.isnan(value):
            return self.atom("nan")
        meant = meaning(value, dtype) or Meaning(Fraction(value))
        found = self._rational(meant.multiple)
        for q in prime_factors(meant.root):
            # (2^((k+1)/2))^2 = 2^(k+1) = 2, as k is odd. Other roots are any element.
            two = Free(pow(2, (self.exponent + 1) // 2, self.prime))
            found = self.mul(found, two if q == 2 else self.atom(f"root of {q}"))
        return self.mul(found, self._whole(self.atom("root of pi"), meant.pis))

    def _rational(self, value: Fraction) -> Free:
        return Free(value.numerator * pow(value.denominator, -1, self.prime) % self.prime)

    # ---- arithmetic

    def add(self, left: Any, right: Any) -> Free:
        a, b = self.of(left), self.of(right)
        if not a.value and not a.num:
            return b
        if not b.value and not b.num:
            return a
        if self._has_infinity and (found := self._infinite(a, b)) is not None:
            return found
        num = max(a.num + b.den, b.num + a.den)
        return self._made((a.value + b.value) % self.prime, num, a.den + b.den)

    def _infinite(self, a: Free, b: Free) -> Free | None:
        """Infinity takes over what it is added to."""
        self._asked += 4
        infinite = {x.value for x in (a, b)} & {self.top.value, self._low.value}
        if not infinite:
            return None
        if len(infinite) > 1:
            return self.atom("nan")
        return self.top if self.top.value in infinite else self._low

    def sub(self, a: Any, b: Any) -> Free:
        return self.add(a, self.neg(b))

    def mul(self, left: Any, right: Any) -> Free:
        a, b = self.of(left), self.of(right)
        if not a.value and not a.num:
            return a
        if not b.value and not b.num:
            return b
        return self._made(a.value * b.value % self.prime, a.num + b.num, a.den + b.den)

    gate = mul

    def fma(self, a: Any, b: Any, c: Any) -> Free:
        return self.add(self.mul(a, b), c)

    def neg(self, x: Any) -> Free:
        x = self.of(x)
        return Free(-x.value % self.prime, x.num, x.den)

    def inverse(self, x: Any) -> Free:
        """1/x; 1/0 is one more atom."""
        x = self.of(x)
        if self._is_zero(x):
            return self.atom("1/0")
        found = self._inverses.get(x.value)
        if found is None:
            found = self._inverses[x.value] = pow(x.value, -1, self.prime)
        return Free(found, x.den, x.num)

    def div(self, a: Any, b: Any) -> Free:
        return self.mul(a, self.inverse(b))

    def _whole(self, x: Free, exponent: int) -> Free:
        if exponent < 0:
            return self._whole(self.inverse(x), -exponent)
        value = pow(x.value, exponent, self.prime)
        return self._made(value, x.num * exponent, x.den * exponent)

    def pow(self, a: Any, b: Any) -> Free:
        a, b = self.of(a), self.of(b)
        if not b.num and not b.den:
            for whole in (b.value, b.value - self.prime):
                if abs(whole) <= _MOST_POWER:
                    return self._whole(a, whole)
            if b.value == self.const(0.5).value:
                return self.sqrt(a)
        return self.atom("pow", a, b)

    def stop_gradient(self, x: Any) -> Any:
        return x

    # ---- functions

    def _is_upper(self, x: Free) -> bool:
        return x.value > self._half

    def _odd(self, name: str, x: Any) -> Free:
        x = self.of(x)
        if self._is_zero(x):
            return Free(0)
        return self.neg(self.atom(name, self.neg(x))) if self._is_upper(x) else self.atom(name, x)

    def sin(self, x: Any) -> Free:
        return self._odd("sin", x)

    def cos(self, x: Any) -> Free:
        x = self.of(x)
        if self._is_zero(x):
            return self.one
        return self.atom("cos", self.neg(x) if self._is_upper(x) else x)

    def tan(self, x: Any) -> Free:
        return self.div(self.sin(x), self.cos(x))

    def tanh(self, x: Any) -> Free:
        return self._odd("tanh", x)

    def erf(self, x: Any) -> Free:
        return self._odd("erf", x)

    def exp(self, x: Any) -> Free:
        """exp(0) = 1, exp(-x) exp(x) = 1, exp(-infinity) = 0."""
        x = self.of(x)
        if self._is_zero(x):
            return self.one
        if self._has_infinity and x.value in (self.top.value, self._low.value):
            self._asked += 2
            return self.top if x.value == self.top.value else Free(0)
        if self._is_upper(x):
            return self.inverse(self.atom("exp", self.neg(x)))
        return self.atom("exp", x)

    def expm1(self, x: Any) -> Free:
        return self.sub(self.exp(x), self.one)

    def log(self, x: Any) -> Free:
        """log(1) = 0 and log(1/x) = -log(x)."""
        x = self.of(x)
        if self._is_zero(self.sub(x, self.one)):
            return Free(0)
        other = self.inverse(x)
        return self.atom("log", x) if x.value < other.value else self.neg(self.atom("log", other))

    def log1p(self, x: Any) -> Free:
        return self.log(self.add(x, self.one))

    def sqrt(self, x: Any) -> Free:
        return self.atom("sqrt", self.of(x))

    def rsqrt(self, x: Any) -> Free:
        return self.inverse(self.sqrt(x))

    def floor(self, x: Any) -> Free:
        return self.atom("floor", self.of(x))

    def round(self, x: Any) -> Free:
        return self._odd("round", x)

    def mod(self, a: Any, b: Any) -> Free:
        return self.atom("mod", self.of(a), self.of(b))

    def floordiv(self, a: Any, b: Any) -> Free:
        return self.atom("floordiv", self.of(a), self.of(b))

    def truncate(self, x: Any, dtype: DType) -> int:
        raise Open(f"a number cast to {dtype.value}")

    # ---- guards

    def gt(self, a: Any, b: Any) -> Any:
        difference = self.sub(a, b)
        if self._is_zero(difference):
            return False
        if self._is_upper(difference):
            return self.sub(self.one, self.atom("positive", self.neg(difference)))
        return self.atom("positive", difference)

    def lt(self, a: Any, b: Any) -> Any:
        return self.gt(b, a)

    def ge(self, a: Any, b: Any) -> Any:
        return self.logical_not(self.gt(b, a))

    def le(self, a: Any, b: Any) -> Any:
        return self.logical_not(self.gt(a, b))

    def eq(self, a: Any, b: Any) -> Any:
        difference = self.sub(a, b)
        if self._is_zero(difference):
            return True
        is_upper = self._is_upper(difference)
        return self.atom("zero", self.neg(difference) if is_upper else difference)

    def ne(self, a: Any, b: Any) -> Any:
        return self.logical_not(self.eq(a, b))

    def logical_not(self, a: Any) -> Any:
        return (not a) if isinstance(a, (bool, np.bool_)) else self.sub(self.one, a)

    def logical_and(self, a: Any, b: Any) -> Any:
        for one, other in ((a, b), (b, a)):
            if isinstance(one, (bool, np.bool_)):
                return other if one else False
        return a if self._is_zero(self.sub(a, b)) else self.mul(a, b)

    def logical_or(self, a: Any, b: Any) -> Any:
        return self.logical_not(self.logical_and(self.logical_not(a), self.logical_not(b)))

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        if isinstance(condition, (bool, np.bool_)):
            return a if condition else b
        a, b = self.of(a), self.of(b)
        return b if a.value == b.value else self.fma(condition, self.sub(a, b), b)

    def sign(self, x: Any) -> Free:
        return self._odd("sign", x)

    def abs(self, x: Any) -> Free:
        return self.mul(self.sign(x), x)

    def max(self, a: Any, b: Any) -> Free:
        members = self._members(self.of(a)) | self._members(self.of(b))
        if len(members) > 1:
            members -= {self.prime - self.top.value}
        if len(members) == 1:
            return self._elements[next(iter(members))]
        found = self.atom("max", *(self._elements[m] for m in sorted(members)))
        self._sets[found.value] = members
        return found

    def _members(self, x: Free) -> frozenset[int]:
        """What ``x`` is the maximum of."""
        self._elements.setdefault(x.value, x)
        return self._sets.get(x.value) or frozenset((x.value,))

    def min(self, a: Any, b: Any) -> Free:
        return self.neg(self.max(self.neg(a), self.neg(b)))


class FreeArrays(ObjectArrays):
    """The domain of the reference interpreter."""

    scalars: FreeScalars

    def full(self, value: float | bool, shape: Sequence[int], dtype: DType) -> Any:
        if not dtype.is_float:
            return super().full(value, shape, dtype)
        return np.full(tuple(shape), self.scalars.const(value, dtype), dtype=object)

    def argmax(self, x: Any, axis: int) -> Any:
        if x.dtype == object:
            raise Open("the place of a maximum")
        return super().argmax(x, axis)

    def argsort(self, x: Any, axis: int) -> Any:
        if x.dtype == object:
            raise Open("an order")
        return super().argsort(x, axis)

    def random(self, shape: Sequence[int], rng: np.random.Generator) -> Any:
        """Fresh variables."""
        size = self.scalars.exponent // 8 + 9
        count = math.prod(shape)
        drawn = (int.from_bytes(rng.bytes(size), "little") for _ in range(count))
        return self.objects([self.scalars.fresh(n) for n in drawn], shape)


def values(x: Any) -> Any:
    """The elements of an array without their degrees, to be compared."""
    array = np.asarray(x)
    if array.dtype != object:
        return array
    flat = [int(e) if isinstance(e, (bool, np.bool_)) else _value(e) for e in array.reshape(-1)]
    return ObjectArrays.objects(flat, array.shape)


def _value(x: Any) -> int:
    return x.value if type(x) is Free else int(x)


@dataclass(frozen=True, slots=True)
class Bound:
    """An identity holds with an error of at most 2^``error``, seen modulo 2^``exponent`` - 1; or
    why it is not known.
    """

    error: int = 0
    exponent: int = 0
    reason: str = ""

    @property
    def holds(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        return (
            f"error at most 2^{self.error}; one point modulo 2^{self.exponent} - 1, guards left "
            f"open"
        )


@dataclass(frozen=True)
class FreePoint:
    """A point for the parameters of a program."""

    domain: FreeArrays
    values: tuple[Any, ...]
    rng: np.random.Generator


def draw(function: Function, seed: int, exponent: int) -> FreePoint:
    """Fresh variables for the floating parameters of ``function``; integers as ``prove_point``
    draws them.
    """
    key = int(np.random.SeedSequence([seed, exponent]).generate_state(2, np.uint64)[0])
    domain, rng = FreeArrays(FreeScalars(exponent, key)), np.random.default_rng([seed, exponent])
    limit = index_limit(function)
    found = []
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        most = 1 << 16 if slot.role is Role.STATE else limit
        found.append(element_of(domain, value.type, rng, most, True))
    return FreePoint(domain, tuple(found), rng)


def bound(function: Function, seed: int, test: Callable[[FreePoint], Sequence[str]]) -> Bound:
    """The error with which ``test`` (names of what differs at a point of ``function``) could be
    misled.
    """
    exponent = EXPONENTS[0]
    while True:
        at = draw(function, seed, exponent)
        try:
            with np.errstate(all="ignore"):
                different = test(at)
        except Open as what:
            return Bound(reason=f"no bound: {what} is left open")
        if different:
            return Bound(reason="no bound: it takes more laws than those of a field")
        scalars = at.domain.scalars
        if scalars.error <= WANTED:
            return Bound(math.ceil(scalars.error), exponent)
        needed = exponent + scalars.error - WANTED
        larger = [k for k in EXPONENTS if k >= needed]
        if not larger:
            return Bound(reason=f"no bound: degrees of 2^{scalars.degree.bit_length()}")
        exponent = larger[0]


def bounded_equal(before: Function, after: Function, seed: int, names: Sequence[str]) -> Bound:
    """Whether two programs with the same parameters agree in the results ``names`` (role and
    name).
    """

    def test(at: FreePoint) -> list[str]:
        sides = []
        for function in (before, after):
            found = run(at.domain, function, at.values)
            slots = (f"{slot.role.value} {slot.name}" for slot in function.results)
            sides.append(dict(zip(slots, found, strict=True)))
        left, right = sides
        return [n for n in names if not np.array_equal(values(left[n]), values(right[n]))]

    return bound(before, seed, test)
