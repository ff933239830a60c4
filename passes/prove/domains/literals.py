"""What the literals of a program mean: simple numbers, of which a type holds what is nearest.

A short decimal means itself (0.1 is 1/10). Else a literal that equals ``r * sqrt(n) * pi^(b/2)`` or
a small fraction to an ulp means that number: an ulp of its type, or, if it is written with more
digits than its type has, of the next type that has them all, and only then of its own. (In bf16
about every number is near some root: 10/7 written in full is 10/7.)

Non-goals: what a domain makes of the number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

from gradc.ir.tensor.bf16 import round_to_bf16
from gradc.ir.tensor.core import DType

# Relative distance of neighbouring numbers: a folded constant may be off by as much.
ULP = {DType.F64: 2.0**-52, DType.F32: 2.0**-23, DType.BF16: 2.0**-7, DType.F16: 2.0**-10}


@dataclass(frozen=True, slots=True)
class Meaning:
    """``multiple * sqrt(root) * pi^(pis / 2)``; ``root`` is one of ``ROOTS``."""

    multiple: Fraction
    root: int = 1
    pis: int = 0

    @property
    def is_rational(self) -> bool:
        return self.root == 1 and self.pis == 0


@cache
def meaning(value: float, dtype: DType = DType.F64) -> Meaning | None:
    """The simple number that a finite literal of ``dtype`` means; None if it is near none."""
    decimal = _short_decimal(value)
    if decimal is not None:
        return Meaning(decimal)
    for tolerance in dict.fromkeys((ULP[_written_in(value, dtype)], ULP[dtype])):
        form = _closed_form(value, tolerance)
        if form is not None:
            return form
        near = _small_fraction(value, tolerance)
        if near is not None:
            return Meaning(near)
    return None


def _written_in(value: float, dtype: DType) -> DType:
    """The narrowest type that holds ``value``, from ``dtype`` on."""
    with np.errstate(over="ignore"):
        found = {
            DType.F16: float(np.float16(value)),
            DType.BF16: float(round_to_bf16(np.array(value))),
            DType.F32: float(np.float32(value)),
            DType.F64: value,
        }
    wider = [dtype, *(t for t in (DType.F32, DType.F64) if t.itemsize > dtype.itemsize)]
    return next(t for t in wider if found[t] == value or t is DType.F64)


_MULTIPLES = tuple(
    Fraction(n, d) for d in (1, 3, 5, 7) for n in (1, 3, 5, 7, 9) if n == 1 or n != d
)
# Square roots of these are recognised in literals, as in a scale of 1/sqrt(d), which is rounded
# twice; in short types, where chance would find one too often, the first two only.
ROOTS = tuple(n for n in range(1, 128) if all(n % (q * q) for q in (2, 3, 5, 7, 11)))
_SHORT = 2.0**-20


def prime_factors(n: int) -> tuple[int, ...]:
    """The prime factors of a number of ``ROOTS``."""
    return tuple(q for q in range(2, n + 1) if n % q == 0 and all(q % r for r in range(2, q)))


@cache
def _forms(is_short: bool) -> tuple[tuple[float, Fraction, int, int], ...]:
    """(x, r, n, b) with x = r * sqrt(n) * pi^(b/2), of which literals may be x * 2^k."""
    forms = [(m, n, b) for b in (0, 1, -1, 2, -2) for m in _MULTIPLES for n in (1, 2)]
    if not is_short:
        few = [Fraction(f) for f in ("1", "3", "5", "1/3", "1/5")]
        forms += [(m / d, n, 0) for n in ROOTS[2:] for d in (1, n) for m in few]
    plain = dict.fromkeys(form for form in forms if form[1:] != (1, 0))
    return tuple((float(m) * math.sqrt(n) * math.pi ** (b / 2), m, n, b) for m, n, b in plain)


def _closed_form(value: float, tolerance: float) -> Meaning | None:
    """``value`` with a root or pi in it, up to a relative ``tolerance``; else None."""
    size = abs(value)
    if size == 0 or not math.isfinite(value):
        return None
    for base, multiple, n, b in _forms(tolerance > _SHORT):
        twos = round(math.log2(size / base))
        near = size * (tolerance if n <= 2 else 2 * tolerance)
        if abs(twos) <= 20 and abs(math.ldexp(base, twos) - size) <= near:
            return Meaning(multiple * Fraction(2) ** twos * (1 if value > 0 else -1), n, b)
    return None


def _short_decimal(value: float) -> Fraction | None:
    """The decimal of at most seven digits that ``value`` is written as; else None."""
    decimal = Fraction(repr(value))
    is_short = decimal.denominator <= 10**9 and abs(decimal.numerator) <= 10**7
    return decimal if is_short else None


def _small_fraction(value: float, tolerance: float) -> Fraction | None:
    """The fraction n/d * 2^k that ``value`` is up to a relative ``tolerance``, if far simpler than
    chance would give.

    What is left of n/d in [1, 2) has n <= 15 or d <= 15 and n * d at most a two-thousandth of the
    numbers of the type.
    """
    most = min(1 << 30, int(0.0005 / tolerance))
    mantissa, exponent = math.frexp(abs(value))
    scale = Fraction(2) ** exponent * (1 if value > 0 else -1)
    for small in range(1, 16, 2):
        for size in range(31):
            up, down = small * 2.0**size / mantissa, mantissa * small * 2.0**size
            for large, is_up in ((round(up), True), (round(down), False)):
                if large < 1 or large * small > most:
                    continue
                near = Fraction(small << size, large) if is_up else Fraction(large, small << size)
                if abs(float(near) - mantissa) <= tolerance * mantissa:
                    return near * scale
    return None
