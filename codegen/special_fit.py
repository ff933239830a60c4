"""Where the coefficients of ``ir/special/gamma.py`` and ``ir/special/bessel.py`` come from: fits
with mpmath.

``python -m gradc.codegen.special_fit`` writes ``ir/special/coefficients.py``; a test fits again and
compares. Each row of ``FITS`` is a function of t in [-1, 1], interpolated at Chebyshev nodes in 50
digits, in powers of t, highest first.

Non-goals: minimax polynomials, coefficients tuned after rounding.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Real = Any  # an mpmath number
TARGET = Path(__file__).parent.parent / "ir" / "special" / "coefficients.py"


def _mp() -> Any:
    mpmath: Any = importlib.import_module("mpmath")  # it ships no types

    mpmath.mp.dps = 50
    return mpmath


def _log_gamma(t: Real) -> Real:
    mp, x = _mp(), t + 2
    near = min((abs(x - root), root) for root in (1, 2))
    if near[0] < mp.mpf("1e-30"):
        return mp.psi(0, near[1]) / (1 if near[1] == 2 else -1)
    return mp.loggamma(x) / ((x - 1) * (x - 2))


def _erfcx(t: Real) -> Real:
    """(1 + 2x) exp(x^2) erfc(x) with t = (x - 3.75)/(x + 3.75)."""
    mp = _mp()
    if 1 - t < mp.mpf("1e-12"):
        return 2 / mp.sqrt(mp.pi)
    x = mp.mpf("3.75") * (1 + t) / (1 - t)
    if x < 50:
        return (1 + 2 * x) * mp.exp(x * x) * mp.erfc(x)
    terms = (mp.fac2(2 * n - 1) * (-1) ** n / (2 * x * x) ** n for n in range(9))
    return (1 + 2 * x) / (x * mp.sqrt(mp.pi)) * sum(terms)


def _square(t: Real) -> Real:
    """x on [0, 8] whose square is 32 (1 + t)."""
    mp = _mp()
    return mp.sqrt(32 * (1 + t)) + mp.mpf("1e-25")


def _far(t: Real) -> Real:
    """x beyond 8, (8/x)^2 = (1 + t)/2."""
    mp = _mp()
    return 8 / mp.sqrt((1 + t) / 2)


def _amplitude(order: int, is_sine: bool) -> Callable[[Real], Real]:
    """P and Q of J = sqrt(2/(pi x)) (P cos c - Q sin c), c = x - (2 order + 1) pi/4; Q times
    x/8.
    """

    def at(t: Real) -> Real:
        mp, x = _mp(), _far(t)
        c = x - (2 * order + 1) * mp.pi / 4
        scale = mp.sqrt(mp.pi * x / 2)
        j, y = mp.besselj(order, x), mp.bessely(order, x)
        if is_sine:
            return scale * (y * mp.cos(c) - j * mp.sin(c)) * x / 8
        return scale * (j * mp.cos(c) + y * mp.sin(c))

    return at


def _y0_rest(t: Real) -> Real:
    mp, x = _mp(), _square(t)
    return mp.bessely(0, x) - 2 / mp.pi * mp.log(x) * mp.besselj(0, x)


def _y1_rest(t: Real) -> Real:
    mp, x = _mp(), _square(t)
    return (mp.bessely(1, x) - 2 / mp.pi * (mp.log(x) * mp.besselj(1, x) - 1 / x)) / x


def _near_i(order: int) -> Callable[[Real], Real]:
    def at(t: Real) -> Real:
        mp = _mp()
        x = 4 * (1 + t) + mp.mpf("1e-30")
        return mp.exp(-x) * mp.besseli(order, x) / x**order

    return at


def _far_i(order: int) -> Callable[[Real], Real]:
    def at(t: Real) -> Real:
        mp = _mp()
        x = 16 / (1 + t)
        return mp.exp(-x) * mp.besseli(order, x) * mp.sqrt(x)

    return at


FITS: dict[str, tuple[Callable[[Real], Real], int]] = {
    "LOG_GAMMA": (_log_gamma, 30),
    "ERFCX": (_erfcx, 30),
    "J0": (lambda t: _mp().besselj(0, _square(t)), 22),
    "J1": (lambda t: _mp().besselj(1, _square(t)) / _square(t), 22),
    "Y0": (_y0_rest, 22),
    "Y1": (_y1_rest, 22),
    "P0": (_amplitude(0, False), 16),
    "Q0": (_amplitude(0, True), 16),
    "P1": (_amplitude(1, False), 16),
    "Q1": (_amplitude(1, True), 16),
    "I0_NEAR": (_near_i(0), 30),
    "I1_NEAR": (_near_i(1), 30),
    "I0_FAR": (_far_i(0), 26),
    "I1_FAR": (_far_i(1), 26),
}


def fitted(name: str) -> tuple[float, ...]:
    """The coefficients of row ``name``, highest power first."""
    mp = _mp()
    function, degree = FITS[name]
    count = degree + 1
    nodes = [mp.cos(mp.pi * (2 * i + 1) / (2 * count)) for i in range(count)]
    values = [function(x) for x in nodes]
    powers = [mp.mpf(0)] * count
    before, current = [mp.mpf(1)], [mp.mpf(0), mp.mpf(1)]  # T_0 and T_1 in powers
    for order in range(count):
        terms = (v * mp.cos(order * mp.acos(x)) for v, x in zip(values, nodes, strict=True))
        weight = mp.fsum(terms) * (1 if order == 0 else 2) / count
        line = before if order == 0 else current
        for power, coefficient in enumerate(line):
            powers[power] += weight * coefficient
        if order:
            following = [mp.mpf(0), *(2 * c for c in current)]
            for power, coefficient in enumerate(before):
                following[power] -= coefficient
            before, current = current, following
    return tuple(float(c) for c in reversed(powers))


def render() -> str:
    """The module of coefficients."""
    lines = [
        (
            '"""Coefficients of special functions. Written by ``python -m '
            'gradc.codegen.special_fit``."""'
        )
    ]
    for name in FITS:
        lines += ["", f"{name} = ("]
        lines += [f"    {c!r}," for c in fitted(name)]
        lines.append(")")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
