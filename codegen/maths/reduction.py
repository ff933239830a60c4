"""Arguments of sin, cos and tan as n pi/2 and a rest: by Cody and Waite's method near 0, by Payne
and Hanek's anywhere.

M. Payne, R. Hanek: Radian reduction for trigonometric functions, SIGNUM Newsletter 18 (1983).
"""

from __future__ import annotations

import itertools
from typing import Generic, NamedTuple

from gradc.codegen.maths import coefficients as table
from gradc.codegen.maths.floats import Floats, V

TRIG_LIMIT = 2.0**19  # n * (33 bits of pi/2) stays exact below
_LOW = (1 << 32) - 1


class Angle(NamedTuple, Generic[V]):
    """``n pi/2 + r + tail`` with |r| <= pi/4; the tail in f64 only."""

    r: V
    tail: V | None
    turns: V  # bits whose last two are those of n


def reduce_near(k: Floats[V], x: V) -> Angle[V]:
    """x near enough to 0 that n times the first 33 bits of pi/2 is exact."""
    wide = k.wide()
    value = x if k.double else k.to_wide(x)
    n, shifted = wide.nearest_multiple(value, 0.6366197723675814)
    bits = wide.to_bits(shifted)
    k.note(value=value, n=n, shifted=shifted, bits=bits)
    first, second, third, last = table.HALF_PI
    r = wide.sub(value, wide.mul(n, wide.c(first)))
    if not k.double:
        r = wide.fma(n, wide.c(-second), r)
        r = wide.fma(n, wide.c(-third), r)
        return Angle(k.from_wide(r), None, k.low_bits(bits))
    r, e1 = k.two_sum(r, k.mul(n, k.c(-second)))
    r, e2 = k.two_sum(r, k.mul(n, k.c(-third)))
    rest = k.add(k.fma(n, k.c(-last), e2), e1)
    r, tail = k.two_sum(r, rest)
    return Angle(r, tail, bits)


def reduce_far(k: Floats[V], x: V) -> Angle[V]:
    """Any x beyond ``TRIG_LIMIT``; r is NaN where x is infinite or NaN.

    ``|x| = m 2^e`` with a whole m. Bits of 2/pi that are worth 4 or more when multiplied by 2^e
    are left out, and the next 96 (f64: 192) multiplied by m: the result's upper two bits are the
    quadrant, the rest the fraction of it. No f32 comes nearer than 2^-31 to a multiple of pi/2, no
    f64 nearer than 2^-62, so at least 32 and 75 bits of the fraction are known.
    """
    wide = k.wide()
    bits = k.to_bits(k.abs(x)) if k.double else wide.to_bits(k.to_wide(k.abs(x)))
    # An f32 has 29 zeros at its end as f64.
    spare = 0 if k.double else 29
    field = wide.integer("lshr", bits, 52)
    whole = wide.integer("or", wide.integer("and", bits, (1 << 52) - 1), 1 << 52)
    whole = wide.integer("lshr", whole, spare) if spare else whole
    halves = [whole]
    if k.double:
        halves = [wide.integer("and", whole, _LOW), wide.integer("lshr", whole, 32)]
    zeros, words, count = (2, 37, 6) if k.double else (1, 7, 3)
    table_words = (0,) * zeros + table.TWO_OVER_PI[:words]
    start = wide.integer("add", field, 32 * zeros - 2 - 1075 + spare)
    k.note(bits=bits, whole=whole, start=start)
    window = _window(wide, start, [wide.i(w) for w in table_words], count)
    return _angle(k, wide, x, _product(wide, halves, window))


def _window(k: Floats[V], start: V, words: list[V], count: int) -> list[V]:
    """``count`` words of 32 bits from bit ``start`` of ``words`` on, the last one first."""
    level = (len(words) - count - 1).bit_length()
    while level:
        level -= 1
        step = 1 << level
        odd = k.has_bit(start, 5 + level)
        words = [
            k.select(odd, words[n + step], word) if n + step < len(words) else word
            for n, word in enumerate(words[: count + step])
        ]
    shift = k.integer("and", start, 31)
    k.note(shift=shift)
    pairs = [
        k.integer("or", k.integer("shl", upper, 32), lower)
        for upper, lower in itertools.pairwise(words)
    ]
    moved = [k.integer("lshr", k.integer("shl", pair, shift), 32) for pair in pairs]
    return moved[::-1]


def _product(k: Floats[V], halves: list[V], words: list[V]) -> list[V]:
    """The product of two numbers in words of 32 bits, the last one first, as long as the second."""
    columns: list[list[V]] = [[] for _ in words]
    for place, half in enumerate(halves):
        for n in range(len(words) - place):
            part = k.integer("mul", half, words[n])
            columns[n + place].append(k.integer("and", part, _LOW))
            if n + place + 1 < len(words):
                columns[n + place + 1].append(k.integer("lshr", part, 32))
    result: list[V] = []
    for n, column in enumerate(columns):
        total = column[0]
        for part in column[1:]:
            total = k.integer("add", total, part)
        result.append(k.integer("and", total, _LOW))
        if len(column) > 1 and n + 1 < len(columns):
            columns[n + 1].append(k.integer("lshr", total, 32))
    return result


def _angle(k: Floats[V], wide: Floats[V], x: V, product: list[V]) -> Angle[V]:
    """The angle of the product of ``reduce_far``: quarter turns in its upper two bits."""
    tail: V | None
    top = wide.integer("or", wide.integer("shl", product[-1], 32), product[-2])
    # Half a quarter turn more makes the fraction, from -1/2 to 1/2, a number without sign.
    raised = wide.integer("add", top, 1 << 61)
    turns = wide.integer("lshr", raised, 62)
    fraction = wide.integer("and", raised, (1 << 62) - 1)
    k.note(raised=raised, turns=turns, fraction=fraction)
    upper = _small(wide, wide.integer("lshr", fraction, 32), 30)
    upper = wide.sub(upper, wide.c(0.5))
    lower = _small(wide, wide.integer("and", fraction, _LOW), 62)
    negative = k.compare("olt", x, k.c(0.0))
    k.note(negative=negative, upper=upper, lower=lower)
    # 0, but NaN of what is not finite.
    finite = k.sub(x, x)
    if not k.double:
        r = k.from_wide(wide.mul(wide.add(upper, lower), wide.c(table.HALF_PI_PAIR[0])))
        turns = k.low_bits(turns)
        tail = None
    else:
        r, tail = _quarter_turns(
            k, upper, lower, _small(k, product[-3], 94), _small(k, product[-4], 126)
        )
        tail = k.select(negative, k.neg(tail), tail)
    r = k.add(k.select(negative, k.neg(r), r), finite)
    return Angle(r, tail, k.select(negative, k.integer("sub", k.i(0), turns), turns))


def _quarter_turns(k: Floats[V], *parts: V) -> tuple[V, V]:
    """The sum of four parts, each below the last place of the one before, times pi/2 in two f64."""
    upper, lower, third, fourth = parts
    r, rest = k.fast_two_sum(upper, lower)
    low, low_rest = k.fast_two_sum(third, fourth)
    r, r_rest = k.two_sum(r, low)
    rest = k.add(r_rest, k.add(rest, low_rest))
    half_pi, half_pi_low = table.HALF_PI_PAIR
    product, error = k.two_product(r, k.c(half_pi))
    error = k.add(error, k.fma(r, k.c(half_pi_low), k.mul(rest, k.c(half_pi))))
    return k.fast_two_sum(product, error)


def _small(k: Floats[V], bits: V, scale: int) -> V:
    """A number below 2^32 times 2^-scale, as f64, exactly."""
    unit = k.c(2.0 ** (52 - scale))
    return k.sub(k.from_bits(k.integer("or", bits, k.to_bits(unit))), unit)
