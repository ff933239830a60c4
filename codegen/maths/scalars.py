"""Verbs of the algebra that are several operations on floats, and the 16-bit types, in the
vocabulary of ``floats``.

bf16 and f16 are numbers of f32; their bits lie in the low half of 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradc.codegen.maths.floats import Floats, V

INFINITY = float("inf")


def larger(k: Floats[V], a: V, b: V) -> V:
    """The larger, of equals the second; NaN if either is."""
    chosen = k.select(k.compare("ogt", a, b), a, b)
    return k.select(k.compare("uno", a, a), a, chosen)


def smaller(k: Floats[V], a: V, b: V) -> V:
    """The smaller, of equals the second; NaN if either is."""
    chosen = k.select(k.compare("olt", a, b), a, b)
    return k.select(k.compare("uno", a, a), a, chosen)


def rsqrt(k: Floats[V], x: V) -> V:
    """1 / sqrt(x), rounded twice."""
    return k.div(k.c(1.0), k.sqrt(x))


def gate(k: Floats[V], ct: V, partial: V) -> V:
    """ct times partial, 0 where ct is 0."""
    return k.select(k.compare("oeq", ct, k.c(0.0)), k.c(0.0), k.mul(ct, partial))


def sign(k: Floats[V], x: V) -> V:
    """-1, 0 or 1; 0 for both zeros, NaN for NaN."""
    one = k.copysign(k.c(1.0), x)
    result = k.select(k.compare("oeq", x, k.c(0.0)), k.c(0.0), one)
    return k.select(k.compare("uno", x, x), x, result)


def floordiv(k: Floats[V], a: V, b: V) -> V:
    """The floor of the rounded quotient."""
    return k.floor(k.div(a, b))


def mod(k: Floats[V], a: V, b: V) -> V:
    """a - floordiv(a, b) b."""
    return k.sub(a, k.mul(floordiv(k, a, b), b))


def root(k: Floats[V], x: V) -> V:
    """pow(x, 1/2): sqrt, but +0 for -0 and infinity for -infinity."""
    infinite = k.compare("oeq", x, k.c(-INFINITY))
    return k.select(infinite, k.c(INFINITY), k.sqrt(k.add(x, k.c(0.0))))


# Verbs of the algebra by their names there.
VERBS: dict[str, Callable[..., Any]] = {
    "max": larger,
    "min": smaller,
    **{f.__name__: f for f in (rsqrt, gate, sign, floordiv, mod)},
}
# Literal powers of which products or one square root are right in every case.
POWERS: dict[float, Callable[[Floats[Any], Any], Any]] = {
    1.0: lambda k, x: x,
    2.0: lambda k, x: k.mul(x, x),
    3.0: lambda k, x: k.mul(k.mul(x, x), x),
    -1.0: lambda k, x: k.div(k.c(1.0), x),
    0.5: root,
}


# ---- 16-bit types --------------------------------------------------------------------------------


def round_to_odd(k: Floats[V], x: V) -> V:
    """f64 to f32 such that rounding once more, to fewer bits, rounds as if directly (Boldo,
    Melquiond).
    """
    wide = k.wide()
    near = k.from_wide(x)
    back = k.to_wide(near)
    beyond = wide.compare("ogt", wide.abs(back), wide.abs(x))
    bits = k.to_bits(near)
    down = k.select(beyond, k.integer("sub", bits, 1), bits)
    inexact = wide.compare("one", back, x)
    return k.from_bits(k.select(inexact, k.integer("or", down, 1), down))


def bf16_bits(k: Floats[V], x: V, plain: bool = False) -> V:
    """The bf16 nearest to x in the high half of 32 bits; what is below is left over.

    ``plain`` says that x was computed from values of that type: its NaN is quiet and its lower half
    zero. (Processors' own instructions flush denormals.)
    """
    bits = k.to_bits(x)
    tie = k.integer("and", k.integer("lshr", bits, 16), 1)
    rounded = k.integer("add", k.integer("add", bits, 0x7FFF), tie)
    if plain:
        return rounded
    # NaN is not counted up, or it would leave the NaNs; a payload in the lower half alone would be
    # lost.
    quiet = k.integer("or", bits, 0x400000)
    return k.select(k.compare("ord", x, x), rounded, quiet)


def bf16_rounded(k: Floats[V], x: V, plain: bool = False) -> V:
    """x rounded to bf16."""
    return k.from_bits(k.integer("and", bf16_bits(k, x, plain), -0x10000))


def bf16_value(k: Floats[V], bits: V) -> V:
    """The number of the bf16 in the low half."""
    return k.from_bits(k.integer("shl", bits, 16))


def f16_bits(k: Floats[V], x: V) -> V:
    """The f16 nearest to x in the low half of 32 bits."""
    bits = k.to_bits(x)
    sign = k.integer("and", k.integer("lshr", bits, 16), 0x8000)
    size = k.integer("and", bits, 0x7FFFFFFF)
    # Normal: rebias the exponent, add half a unit (less one for ties to even), drop 13 bits.
    tie = k.integer("and", k.integer("lshr", size, 13), 1)
    normal = k.integer("add", k.integer("add", size, 0xFFF - ((127 - 15) << 23)), tie)
    normal = k.integer("lshr", normal, 13)
    # Denormal: adding 1/2 puts the 10 bits at the bottom, rounded by the addition.
    half = k.c(0.5)
    small = k.integer("sub", k.to_bits(k.add(k.from_bits(size), half)), k.to_bits(half))
    tiny = k.compare_bits("ult", size, k.i(113 << 23))
    over = k.compare_bits("ugt", size, k.i(0x477FEFFF))
    payload = k.integer("or", k.integer("and", k.integer("lshr", size, 13), 0x3FF), 0x7E00)
    is_nan = k.compare_bits("ugt", size, k.i(0x7F800000))
    large = k.select(is_nan, payload, k.i(0x7C00))
    value = k.select(over, large, k.select(tiny, small, normal))
    return k.integer("or", value, sign)


def f16_value(k: Floats[V], bits: V) -> V:
    """The number of the f16 in the low half."""
    sign = k.integer("shl", k.integer("and", bits, 0x8000), 16)
    size = k.integer("shl", k.integer("and", bits, 0x7FFF), 13)
    # 2^112 corrects the bias, denormals included; infinities and NaN get the top exponent.
    scaled = k.to_bits(k.mul(k.from_bits(size), k.c(2.0**112)))
    top = k.compare_bits("uge", size, k.i(0x7C00 << 13))
    value = k.select(top, k.integer("or", size, 0x7F800000), scaled)
    return k.from_bits(k.integer("or", value, sign))
