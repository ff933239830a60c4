"""A prime field as a domain of the reference interpreter: exact, fast, and without rounding to hide
behind.

Floating values become elements of F_p, p = 2^31 - 1, held in uint64 arrays. Rational identities
hold exactly. What is not rational becomes a *keyed oracle*: the same argument always gives the same
pseudo-random element, different arguments give unrelated ones, so two programs agree only if they
feed equal arguments to equal functions. Laws that programs rely on are built into the oracles:

* exp(-x) = 1/exp(x), expm1 = exp - 1, log1p(x) = log(1 + x), tan = sin/cos; sin, tan, tanh, erf are
  odd, cos is even;
* order: sign(-x) = -sign(x) with sign(x) an oracle in {1, -1}, and a total order of oracle ranks
  that fits it, with infinity on top; comparisons, abs, max and min follow from them, so one
  evaluation decides a random pattern of guards, not one the reals can necessarily produce;
* infinity: as a summand it takes over whatever is added, exp(-infinity) = 0;
* constants: literals mean what ``literals`` says (sqrt 2 is a root in F_p, sqrt pi an oracle, other
  roots the one or the other); one that means nothing simple is its binary value.

Division by zero gives a fixed element, as if it were one more oracle.

By Schwartz and Zippel two different rational functions of degree d agree at a random point with
probability at most d/p; ``prove`` repeats points. Non-goals: floats' own behaviour (rounding,
overflow): identities over the reals only.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradc.ir.domains.arrays import EMPTY, NumpyArrays, Pairs, matrix_form
from gradc.ir.tensor.core import DType
from gradc.passes.prove.domains.literals import meaning, prime_factors

PRIME = (1 << 31) - 1
Field = NDArray[np.uint64]
_P = np.uint64(PRIME)
_HALF = np.uint64(PRIME // 2)
_BITS = np.uint64(31)
_FAR = 1 << 40
INFINITE = 0x5F3759DF  # what 1/0 is

# So many are inverted one by one.
_FEW = 64
# float64 products of halves and of their sums stay exact up to this many terms.
_EXACT_TERMS = 1 << 18


def is_field(x: Any) -> bool:
    """Whether ``x`` holds field elements; no type of programs is held as uint64."""
    return bool(np.asarray(x).dtype == np.uint64)


# --- arithmetic


def _scalar(value: int) -> Field:
    return np.asarray(value, np.uint64)


def _reduced(x: Field) -> Field:
    """``x`` < 2p brought below p: where x < p, x - p wraps around to something huge."""
    with np.errstate(over="ignore"):
        found: Field = np.minimum(x, x - _P)
    return found


def fold(x: Field) -> Field:
    """Any number below 2^62 modulo p: 2^31 = 1, so the upper bits are added to the lower."""
    return _reduced((x & _P) + (x >> _BITS))


def add(a: Field, b: Field) -> Field:
    return _reduced(a + b)


def sub(a: Field, b: Field) -> Field:
    return _reduced(a + (_P - b))


def mul(a: Field, b: Field) -> Field:
    return fold(a * b)


def neg(a: Field) -> Field:
    return _reduced(_P - a)


def power(a: Field, exponent: int) -> Field:
    """``a ** exponent``"""
    if exponent < 0:
        return power(inverse(a), -exponent)
    result = np.ones_like(a)
    base = a
    while exponent:
        if exponent & 1:
            result = mul(result, base)
        base = mul(base, base)
        exponent >>= 1
    return result


def inverse(a: Field) -> Field:
    """1/a: few by Python's own integers, which is quickest, the others from products of pairs. 1/0
    is the element ``INFINITE``.

    A point at which a denominator vanishes by chance (about 1/p per division) makes equal programs
    look different, never different ones equal; drawing again instead would hide denominators that
    guards make zero.
    """
    is_zero = a == 0
    if np.any(is_zero):
        return np.where(is_zero, np.uint64(INFINITE), inverse(np.where(is_zero, np.uint64(1), a)))
    flat = np.ascontiguousarray(a).reshape(-1)
    if flat.size <= _FEW:
        few = [pow(x, -1, PRIME) for x in flat.tolist()]
        return np.array(few, np.uint64).reshape(a.shape)
    half = flat.size // 2
    left, right = flat[:half], flat[half : 2 * half]
    both = inverse(mul(left, right))
    odd = inverse(flat[2 * half :]) if flat.size % 2 else flat[:0]
    return np.concatenate([mul(both, right), mul(both, left), odd]).reshape(a.shape)


def matmul(a: Field, b: Field) -> Field:
    """Batched matrix products, exact: 16-bit halves through float64, in pieces short enough for 53
    bits.
    """
    total = np.zeros((*a.shape[:-1], b.shape[-1]), np.uint64)
    for start in range(0, a.shape[-1], _EXACT_TERMS):
        left, right = a[..., start : start + _EXACT_TERMS], b[..., start : start + _EXACT_TERMS, :]
        total = add(total, _matmul_piece(left, right))
    return total


def _matmul_piece(a: Field, b: Field) -> Field:
    a0, a1 = _halves(a)
    b0, b1 = _halves(b)
    low, high = np.matmul(a0, b0), np.matmul(a1, b1)
    # a0 b1 + a1 b0, by Karatsuba; products of sums of halves lie below 2^34.
    middle = np.matmul(a0 + a1, b0 + b1) - low - high
    return fold(
        fold(low.astype(np.uint64))
        + mul(fold(middle.astype(np.uint64)), _scalar(1 << 16))
        + (fold(high.astype(np.uint64)) << np.uint64(1))
    )


def _halves(x: Field) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lower 16 bits and the others."""
    return (x & np.uint64(0xFFFF)).astype(np.float64), (x >> np.uint64(16)).astype(np.float64)


# --- constants


def root_of(n: int, prime: int, other: Callable[[str], int]) -> int:
    """The product of roots of the prime factors of ``n`` modulo ``prime`` = 3 mod 4: q^((p+1)/4)
    where q is a square, which 2 is where p = 7 mod 8; else what ``other`` gives under a name.
    """
    found = 1
    for q in prime_factors(n):
        root = pow(q, (prime + 1) // 4, prime)
        is_root = root * root % prime == q
        found = found * (root if is_root else other(f"root of {q}")) % prime
    return found


@cache
def literal(value: float, key: int, dtype: DType = DType.F64) -> int:
    """The element that a literal of a program means, rounded as literals of ``dtype`` are."""
    if math.isinf(value):
        found = 2 + _digest(key, "infinity") % (PRIME - 3)
        return found if value > 0 else PRIME - found
    if math.isnan(value):
        return 2 + _digest(key, "nan") % (PRIME - 3)
    meant = meaning(value, dtype)
    if meant is None:
        return _rational(Fraction(value))

    def other(name: str) -> int:
        return 2 + _digest(key, name) % (PRIME - 3)

    element = _rational(meant.multiple) * root_of(meant.root, PRIME, other) % PRIME
    return element * pow(other("root of pi"), meant.pis, PRIME) % PRIME


def _rational(value: Fraction) -> int:
    return value.numerator % PRIME * pow(value.denominator, -1, PRIME) % PRIME


def _digest(key: int, name: str) -> int:
    data = hashlib.blake2b(f"{key}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(data, "little")


# --- oracles


def scramble(x: Field, salt: int) -> Field:
    """A pseudo-random function of 64 bits (splitmix64, Steele et al. 2014), keyed by ``salt``."""
    with np.errstate(over="ignore"):
        z = x + np.uint64(salt)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def is_upper(x: Field) -> NDArray[np.bool_]:
    """Which of x and -x is the larger representative; picks one of each pair."""
    return x > _HALF


class FieldArrays(NumpyArrays):
    """The domain. ``key`` chooses the oracles; the same key gives the same functions in every
    program.
    """

    def __init__(self, key: int) -> None:
        super().__init__()
        self.key = key
        self._salts: dict[str, int] = {}
        self._has_infinity = False  # whether a program has asked for it

    def storage(self, dtype: DType) -> np.dtype[Any]:
        return np.dtype(np.uint64) if dtype.is_float else self.dtype(dtype)

    def element(self, value: float, dtype: DType = DType.F64) -> Field:
        """The element of a literal."""
        self._has_infinity |= math.isinf(value)
        return np.asarray(literal(float(value), self.key, dtype), np.uint64)

    @property
    def _top(self) -> Field:
        return np.asarray(literal(math.inf, self.key), np.uint64)

    def _is_infinite(self, x: Field) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (x == self._top) | (x == neg(self._top))
        return found

    def add(self, a: Field, b: Field) -> Field:
        """a + b; infinity where one of them is."""
        found = add(a, b)
        if not self._has_infinity:
            return found
        top = self._top
        low = neg(top)
        is_top, is_low = (a == top) | (b == top), (a == low) | (b == low)
        if not (is_top.any() or is_low.any()):
            return found
        found = np.where(is_top, top, np.where(is_low, low, found))
        return np.where(is_top & is_low, self.element(math.nan), found)

    def random(self, shape: Sequence[int], rng: np.random.Generator) -> Field:
        """Uniform elements: a random point."""
        return rng.integers(0, PRIME, tuple(shape), np.uint64)

    # oracles

    def oracle(self, name: str, x: Field) -> Field:
        """The function ``name`` at ``x``: a fresh element per argument, never zero."""
        salt = self._salts.get(name)
        if salt is None:
            salt = self._salts[name] = _digest(self.key, name)
        return np.uint64(1) + scramble(x, salt) % np.uint64(PRIME - 1)

    def sign(self, x: Field) -> Field:
        """1, 0 or -1: an odd oracle."""
        upper = is_upper(x)
        bit = (self.oracle("sign", np.where(upper, neg(x), x)) & np.uint64(1)).astype(bool)
        plus = np.where(bit ^ upper, np.uint64(1), np.uint64(PRIME - 1))
        return np.where(x == 0, np.uint64(0), plus).astype(np.uint64)

    def is_positive(self, x: Field) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.sign(x) == 1
        return found

    def rank(self, x: Field) -> NDArray[np.int64]:
        """Where ``x`` stands in the order: an odd function, infinity above all, so folds of max
        have no order.
        """
        upper = is_upper(x)
        size = (self.oracle("rank", np.where(upper, neg(x), x)) >> np.uint64(1)).astype(
            np.int64
        ) + 1
        found = np.where(self.is_positive(x), size, -size)
        top = self._top
        far = np.where(x == top, _FAR, np.where(x == neg(top), -_FAR, found))
        return np.where(x == 0, 0, far)

    def greater(self, a: Field, b: Field) -> NDArray[np.bool_]:
        """Whether a > b."""
        found: NDArray[np.bool_] = self.rank(a) > self.rank(b)
        return found

    def _folded(self, name: str, x: Field, is_odd: bool) -> Field:
        upper = is_upper(x)
        value = self.oracle(name, np.where(upper, neg(x), x))
        if not is_odd:
            return np.where(x == 0, np.uint64(1), value).astype(np.uint64)
        signed = np.where(upper, neg(value), value)
        return np.where(x == 0, np.uint64(0), signed).astype(np.uint64)

    def exp(self, x: Field) -> Field:
        """exp(0) = 1, exp(-x) exp(x) = 1, exp(-infinity) = 0."""
        upper = is_upper(x)
        value = self.oracle("exp", np.where(upper, neg(x), x))
        found = np.where(upper, inverse(value), value)
        if self._has_infinity:
            top = self._top
            found = np.where(x == neg(top), np.uint64(0), np.where(x == top, top, found))
        return np.where(x == 0, np.uint64(1), found).astype(np.uint64)

    def log(self, x: Field) -> Field:
        """log(1) = 0 and log(1/x) = -log(x)."""
        other = inverse(x)
        first = np.minimum(x, other)
        value = self.oracle("log", first)
        found = np.where(x == first, value, neg(value))
        return np.where(x == 1, np.uint64(0), found).astype(np.uint64)

    def pow(self, x: Field, y: Field) -> Field:
        """Small integer exponents are powers, one half is the square root, others an oracle of both
        arguments.
        """
        x, y = np.broadcast_arrays(x, y)
        exponents = np.unique(y)
        if len(exponents) == 1:
            exponent = int(exponents[0])
            exponent = exponent - PRIME if exponent > PRIME // 2 else exponent
            if abs(exponent) <= 64:
                return power(x, exponent)
            if exponents[0] == self.element(0.5):
                return self.oracle("sqrt", x)
        return self.oracle("pow", add(mul(x, _scalar(1 << 16)), scramble(y, 7) % _P))

    # the domain's verbs

    def verb(self, name: str, *operands: Any) -> Any:
        if not any(is_field(x) for x in operands):
            return super().verb(name, *operands)
        if name in ("select", "eq", "ne", "stop_gradient"):
            return super().verb(name, *operands)
        rule = _VERBS.get(name)
        if rule is None:
            return self.oracle(name, _combined(operands))
        return rule(self, *(np.asarray(x) for x in operands))

    def settle(self, x: Any, dtype: DType) -> Any:
        return np.asarray(x)

    def cast(self, x: Any, dtype: DType) -> Any:
        array = np.asarray(x)
        if is_field(array):
            if dtype.is_float:
                return array
            if dtype is DType.BOOL:
                return array != 0
            return (self.oracle("truncate", array) % np.uint64(1 << 16)).astype(self.dtype(dtype))
        if dtype.is_float:
            return (array.astype(np.int64) % PRIME).astype(np.uint64)
        return super().cast(array, dtype)

    def full(self, value: float | bool, shape: Sequence[int], dtype: DType) -> Any:
        if dtype.is_float:
            return np.full(tuple(shape), self.element(value, dtype), np.uint64)
        return super().full(value, shape, dtype)

    def like(self, value: float, x: Any) -> Any:
        return self.element(value) if is_field(x) else super().like(value, x)

    def iota(self, axis: int, shape: Sequence[int], dtype: DType) -> Any:
        found = super().iota(axis, shape, DType.I64 if dtype.is_float else dtype)
        return self.cast(found, dtype) if dtype.is_float else found

    def reduce(self, verb: str, x: Any, axes: Sequence[int], dtype: DType) -> Any:
        if not is_field(x):
            return super().reduce(verb, x, axes, dtype)
        if verb == "add" and not (self._has_infinity and self._is_infinite(x).any()):
            return np.sum(x, tuple(axes), dtype=np.uint64) % _P
        step: Callable[[Any, Any], Any] = {
            "add": self.add,
            "mul": mul,
            "max": lambda a, b: np.where(self.greater(b, a), b, a),
            "min": lambda a, b: np.where(self.greater(a, b), b, a),
        }[verb]
        kept = [axis for axis in range(x.ndim) if axis not in axes]
        # With no elements at all, -1 would be ambiguous.
        count = math.prod(x.shape[axis] for axis in axes)
        rows = x.transpose([*axes, *kept]).reshape(count, *(x.shape[axis] for axis in kept))
        if not len(rows):
            return np.full(rows.shape[1:], self.element(EMPTY[verb]), np.uint64)
        total = rows[0]
        for row in rows[1:]:
            total = step(total, row)
        return np.asarray(total, np.uint64)

    def argmax(self, x: Any, axis: int) -> Any:
        if not is_field(x):
            return super().argmax(x, axis)
        rows = np.moveaxis(x, axis, 0)
        best, place = rows[0], np.zeros(rows.shape[1:], np.int32)
        for number, row in enumerate(rows[1:], 1):
            wins = self.greater(row, best)
            best, place = np.where(wins, row, best), np.where(wins, np.int32(number), place)
        return place

    def argsort(self, x: Any, axis: int) -> Any:
        return super().argsort(self.rank(x) if is_field(x) else x, axis)

    def cumsum(self, x: Any, axis: int, reverse: bool) -> Any:
        found = super().cumsum(x, axis, reverse)
        return found % _P if is_field(x) else found

    def contract(self, a: Any, b: Any, batch: Pairs, contract: Pairs, dtype: DType) -> Any:
        if not is_field(a):
            return super().contract(a, b, batch, contract, dtype)
        left, right, shape = matrix_form(a, b, batch, contract)
        return matmul(left, right).reshape(shape)


def _combined(operands: Sequence[Any]) -> Field:
    """One argument out of several, for oracles of more than one."""
    total = _scalar(0)
    for number, x in enumerate(operands, 1):
        value = np.asarray(x).astype(np.uint64)
        total = (scramble(value, number) + total * np.uint64(3)) & np.uint64((1 << 62) - 1)
    return np.asarray(total)


_VERBS: dict[str, Callable[..., Any]] = {
    "add": lambda d, a, b: d.add(a, b),
    "sub": lambda d, a, b: d.add(a, neg(b)),
    "mul": lambda d, a, b: mul(a, b),
    "gate": lambda d, a, b: mul(a, b),
    "fma": lambda d, a, b, c: d.add(mul(a, b), c),
    "div": lambda d, a, b: mul(a, inverse(b)),
    "neg": lambda d, x: neg(x),
    "abs": lambda d, x: mul(d.sign(x), x),
    "sign": lambda d, x: d.sign(x),
    "pow": lambda d, a, b: d.pow(a, b),
    "max": lambda d, a, b: np.where(d.greater(a, b), a, b),
    "min": lambda d, a, b: np.where(d.greater(a, b), b, a),
    "sqrt": lambda d, x: d.oracle("sqrt", x),
    "rsqrt": lambda d, x: inverse(d.oracle("sqrt", x)),
    "exp": lambda d, x: d.exp(x),
    "expm1": lambda d, x: d.add(d.exp(x), neg(_scalar(1))),
    "log": lambda d, x: d.log(x),
    "log1p": lambda d, x: d.log(add(x, _scalar(1))),
    "sin": lambda d, x: d._folded("sin", x, True),
    "cos": lambda d, x: d._folded("cos", x, False),
    "tan": lambda d, x: mul(d._folded("sin", x, True), inverse(d._folded("cos", x, False))),
    "tanh": lambda d, x: d._folded("tanh", x, True),
    "erf": lambda d, x: d._folded("erf", x, True),
    "lt": lambda d, a, b: d.greater(b, a),
    "le": lambda d, a, b: ~d.greater(a, b),
    "gt": lambda d, a, b: d.greater(a, b),
    "ge": lambda d, a, b: ~d.greater(b, a),
}
