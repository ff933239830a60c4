"""Numbers of formulas as notation: roots of small fractions by name, others as decimals.

Non-goals: fractions and dimensions (``print``).
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

from gradc.codegen.symbolic.formulas.notation import Notation, Num, Root

_LARGEST_ROOT = 4096


def root_of(value: Fraction) -> tuple[list[Notation], list[Notation]] | None:
    """``value`` as roots above and below a fraction bar, if it is the root of a small fraction to
    the last digits of its type: a scale of 1/sqrt(d).
    """
    try:
        square = float(value) ** 2
        short = Fraction(square).limit_denominator(_LARGEST_ROOT)
    except (OverflowError, ValueError):
        return None
    if not 0 < short.numerator <= _LARGEST_ROOT or abs(float(short) / square - 1) > 1e-15:
        return None
    above, below = (_rooted(n) for n in (short.numerator, short.denominator))
    return above, below


def _rooted(n: int) -> list[Notation]:
    whole = isqrt(n)
    if whole * whole != n:
        return [Root(Num(str(n)))]
    return [] if n == 1 else [Num(str(whole))]


def decimal(value: Fraction) -> str:
    """Six digits if they are all that there are, else as many as make no difference."""
    text = f"{float(value):.6g}"
    if abs(float(text) - float(value)) > 1e-10 * abs(float(value)):
        text = f"{float(value):.12g}"
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else text
