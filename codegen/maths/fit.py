"""Where the coefficients of ``elementary`` come from: fits with mpmath, printed as
``coefficients.py``.

``python -m gradc.codegen.maths.fit`` writes the file; a test fits again and compares. Each row
of ``FITS`` is a function, an interval, a degree and a precision. The fit interpolates at Chebyshev
nodes in 50 digits, which is within a few per cent of the minimax polynomial for these analytic
functions, and rounds each coefficient once; of a row with a weight, whose rounded coefficients
would show, each is rounded before those behind it are fitted. The leading terms that must be exact
(the 1 and 1/2 of exp, the 1 of sin) are divided out of the function first.

Non-goals: rational fits (one of tanh, x P(x^2) / Q(x^2) of degrees 3 and 4, is off by 4 ulp).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradc.codegen.maths.floats import round_f32

Real = Any  # an mpmath number
ERFC_SCALE_F64 = 0.28  # c of z = 1/(1 + c t): the tail of erfc is a polynomial in z


@dataclass(frozen=True, slots=True)
class Fit:
    """``function`` on [low, high] by a polynomial of ``degree``, coefficients rounded to ``bits``
    (24 or 53). Where ``weight`` says how much an error weighs in the result, the fit is by least
    squares of weighted errors, and coefficients make up for how those before them were rounded.
    """

    function: Callable[[Real], Real]
    low: float
    high: float
    degree: int
    bits: int
    weight: Callable[[Real], Real] | None = None


def _mp() -> Any:
    mpmath: Any = importlib.import_module("mpmath")  # it ships no types

    mpmath.mp.dps = 50
    return mpmath


def _exp_tail(r: Real) -> Real:
    """(exp r - 1 - r) / r^2."""
    mp = _mp()
    return mp.mpf(1) / 2 + r / 6 if abs(r) < 1e-20 else (mp.expm1(r) - r) / r**2


def _log_tail(f: Real) -> Real:
    """(log(1+f) - f + f^2/2) / f^3."""
    mp = _mp()
    return mp.mpf(1) / 3 if abs(f) < 1e-14 else (mp.log1p(f) - f + f * f / 2) / f**3


def _atanh_tail(z: Real) -> Real:
    """(log((1+s)/(1-s)) - 2 s) / s^3 at z = s^2."""
    mp = _mp()
    if z < 1e-14:
        return mp.mpf(2) / 3
    s = mp.sqrt(z)
    return (mp.log((1 + s) / (1 - s)) - 2 * s) / s**3


def _atanh_tail2(z: Real) -> Real:
    """(log((1+s)/(1-s)) - 2 s - 2 s^3/3) / s^5 at z = s^2."""
    mp = _mp()
    if z < 1e-10:
        return mp.mpf(2) / 5 + 2 * z / 7
    s = mp.sqrt(z)
    return (mp.log((1 + s) / (1 - s)) - 2 * s - 2 * s**3 / 3) / s**5


def _sin_tail(z: Real) -> Real:
    """(sin r - r) / r^3 at z = r^2."""
    mp = _mp()
    if z < 1e-14:
        return -mp.mpf(1) / 6
    r = mp.sqrt(z)
    return (mp.sin(r) - r) / r**3


def _cos_tail(z: Real) -> Real:
    """(cos r - 1 + r^2/2) / r^4 at z = r^2."""
    mp = _mp()
    return mp.mpf(1) / 24 if z < 1e-12 else (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z**2


def _erf_ratio(z: Real) -> Real:
    """erf(x)/x - 1 at z = x^2, so that erf(x) = x + x P(x^2)."""
    mp = _mp()
    if z < 1e-30:
        return 2 / mp.sqrt(mp.pi) - 1
    x = mp.sqrt(z)
    return mp.erf(x) / x - 1


def _alike(_z: Real) -> Real:
    """1: all errors weigh the same."""
    return _mp().mpf(1)


def _mills_ratio(t: Real) -> Real:
    """exp(t^2) erfc(t)."""
    mp = _mp()
    return mp.exp(t * t) * mp.erfc(t)


def _gauss(t: Real) -> Real:
    """exp(-t^2), by which erf multiplies Mills' ratio."""
    return _mp().exp(-t * t)


def _mills(scale: float) -> Callable[[Real], Real]:
    """exp(t^2) erfc(t) / z at z = 1/(1 + scale t)."""

    def ratio(z: Real) -> Real:
        mp = _mp()
        t = (1 / mp.mpf(z) - 1) / mp.mpf(scale)
        return mp.exp(t * t) * mp.erfc(t) / z

    return ratio


def _inner(scale: float, t: float) -> float:
    return 1 / (1 + scale * t)


HALF_LN2 = 0.3466
QUARTER_PI_SQUARED = 0.617
LOG_LOW, LOG_HIGH = -0.2929, 0.4143
ATANH_SQUARED = 0.02945  # ((sqrt 2 - 1)/(sqrt 2 + 1))^2
ERF_SPLIT_F32, ERF_SPLIT_F64 = 0.9, 1.0  # erf is a polynomial below, 1 - erfc above
ERF_END_F32, ERF_END_F64 = 4.0, 6.0
TWO_OVER_PI_WORDS = 37

FITS: dict[str, Fit] = {
    "EXP_F32": Fit(_exp_tail, -HALF_LN2, HALF_LN2, 4, 24),
    "EXP_F64": Fit(_exp_tail, -HALF_LN2, HALF_LN2, 10, 53),
    "EXP_MIDDLE": Fit(_exp_tail, -HALF_LN2, HALF_LN2, 6, 53),
    "ATANH_MIDDLE": Fit(_atanh_tail, 0.0, ATANH_SQUARED, 4, 53),
    "LOG_F32": Fit(_log_tail, LOG_LOW, LOG_HIGH, 8, 24),
    "ATANH_F64": Fit(_atanh_tail, 0.0, ATANH_SQUARED, 6, 53),
    "ATANH2_F64": Fit(_atanh_tail2, 0.0, ATANH_SQUARED, 7, 53),
    "SIN_F32": Fit(_sin_tail, 0.0, QUARTER_PI_SQUARED, 3, 24),
    "SIN_F64": Fit(_sin_tail, 0.0, QUARTER_PI_SQUARED, 6, 53),
    "COS_F32": Fit(_cos_tail, 0.0, QUARTER_PI_SQUARED, 3, 24),
    "COS_F64": Fit(_cos_tail, 0.0, QUARTER_PI_SQUARED, 6, 53),
    "ERF_F32": Fit(_erf_ratio, 0.0, ERF_SPLIT_F32**2, 5, 24, _alike),
    "ERF_F64": Fit(_erf_ratio, 0.0, ERF_SPLIT_F64**2, 13, 53),
    "ERFC_F32": Fit(_mills_ratio, ERF_SPLIT_F32, ERF_END_F32, 8, 24, _gauss),
    "ERFC_F64": Fit(
        _mills(ERFC_SCALE_F64),
        _inner(ERFC_SCALE_F64, ERF_END_F64),
        _inner(ERFC_SCALE_F64, ERF_SPLIT_F64),
        14,
        53,
    ),
}


def fit(row: Fit) -> tuple[float, ...]:
    """The coefficients, constant term first, rounded to the row's precision."""
    if row.weight is not None:
        return _fit_weighted(row, row.weight)
    mp = _mp()
    count = row.degree + 1
    middle, half = (mp.mpf(row.low) + row.high) / 2, (mp.mpf(row.high) - row.low) / 2
    nodes = _nodes(row, count)
    # Solved in the centred variable, then expanded: the Vandermonde matrix stays tame.
    matrix = mp.matrix([[((x - middle) / half) ** j for j in range(count)] for x in nodes])
    values = mp.matrix([row.function(x) for x in nodes])
    centred = mp.lu_solve(matrix, values)
    powers = [mp.mpf(0)] * count
    for j in range(count):
        for i in range(j + 1):
            binomial = mp.binomial(j, i) * (-middle) ** (j - i) / half**j
            powers[i] += centred[j] * binomial
    return tuple(_rounded(p, row.bits) for p in powers)


def _nodes(row: Fit, count: int) -> list[Real]:
    """Chebyshev's."""
    mp = _mp()
    middle, half = (mp.mpf(row.low) + row.high) / 2, (mp.mpf(row.high) - row.low) / 2
    return [middle + half * mp.cos(mp.pi * (2 * i + 1) / (2 * count)) for i in range(count)]


def _rounded(value: Real, bits: int) -> float:
    return round_f32(float(value)) if bits == 24 else float(value)


def _fit_weighted(row: Fit, weight: Callable[[Real], Real]) -> tuple[float, ...]:
    """Each coefficient is rounded before those behind it are fitted, which make up for it."""
    mp = _mp()
    nodes = _nodes(row, 4 * (row.degree + 1))
    scales = [weight(x) for x in nodes]
    left = mp.matrix([row.function(x) * w for x, w in zip(nodes, scales, strict=True)])
    found: list[float] = []
    for first in range(row.degree + 1):
        exponents = range(first, row.degree + 1)
        matrix = mp.matrix(
            [[w * x**j for j in exponents] for x, w in zip(nodes, scales, strict=True)]
        )
        best = mp.lu_solve(matrix.T * matrix, matrix.T * left)
        found.append(_rounded(best[0], row.bits))
        left -= matrix[:, 0] * found[-1]
    return tuple(found)


def error(row: Fit, coefficients: tuple[float, ...], samples: int = 400) -> float:
    """The largest error of the polynomial (exact arithmetic) as a share of the function's largest
    value, both weighted.
    """
    mp = _mp()
    worst = scale = mp.mpf(0)
    for i in range(samples + 1):
        x = mp.mpf(row.low) + (mp.mpf(row.high) - row.low) * i / samples
        truth = row.function(x)
        weight = 1 if row.weight is None else row.weight(x)
        scale = max(scale, abs(truth) * weight)
        found = mp.polyval(list(reversed(coefficients)), x)
        worst = max(worst, abs(found - truth) * weight)
    return float(worst / scale)


def split(value: Real, bits: tuple[int, ...], last: int = 53) -> tuple[float, ...]:
    """``value`` as a sum of parts with so many bits each (products with small integers are exact),
    and a rest.
    """
    mp = _mp()
    parts, rest = [], mp.mpf(value)
    for size in bits:
        exponent = int(mp.floor(mp.log(abs(rest), 2)))
        unit = mp.mpf(2) ** (exponent + 1 - size)
        part = mp.floor(rest / unit) * unit
        parts.append(float(part))
        rest -= part
    return (*parts, round_f32(float(rest)) if last == 24 else float(rest))


def constants() -> dict[str, tuple[float, ...]]:
    """Parts of ln 2 and pi/2 for exact argument reduction (Cody and Waite)."""
    mp = _mp()
    return {
        "LN2_F32": split(mp.log(2), (15,), 24),
        "LN2_F64": split(mp.log(2), (32,)),
        "HALF_PI": split(mp.pi / 2, (33, 33, 33)),
        "HALF_PI_PAIR": split(mp.pi / 2, (53,)),
        "INV_LN2": split(1 / mp.log(2), (53,)),
        "TWO_THIRDS": split(mp.mpf(2) / 3, (53,)),
    }


def two_over_pi() -> tuple[int, ...]:
    """Words of 32 bits of 2/pi after the point: as many as an argument near 2^1024 needs."""
    mp = _mp()
    with mp.workdps(400):
        digits = int(mp.floor(mp.ldexp(2 / mp.pi, 32 * TWO_OVER_PI_WORDS)))
    return tuple(digits >> 32 * n & 0xFFFFFFFF for n in reversed(range(TWO_OVER_PI_WORDS)))


def render() -> str:
    """The text of ``coefficients.py``."""
    rows = {**constants(), **{name: fit(row) for name, row in FITS.items()}}
    out = [
        '"""Coefficients of the vector mathematics.',
        "",
        "Written by ``python -m gradc.codegen.maths.fit``; do not edit.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "_hex = float.fromhex",
    ]
    for name, values in rows.items():
        out.append(f"{name}: tuple[float, ...] = (")
        out += [f'    _hex("{value.hex()}"),' for value in values]
        out.append(")")
    out.append("TWO_OVER_PI: tuple[int, ...] = (")
    out += [f"    0x{word:08X}," for word in two_over_pi()]
    out.append(")")
    return "\n".join(out) + "\n"


def main() -> None:
    """Writes ``coefficients.py`` beside this file."""
    Path(__file__).with_name("coefficients.py").write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
