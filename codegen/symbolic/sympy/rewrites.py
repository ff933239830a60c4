"""Proves that the rewrites offered for hazards change nothing where both sides are defined.

Each rewrite is stated twice over symbols, before and after, with the domain of its argument; SymPy
decides the difference there, and limits say what the rewritten form gives at the edge. Array
functions are proved for vectors of three, in which nothing is special about three.

Non-goals: finding hazards (``passes/hazards``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import sympy as sp

_COUNT = 3
_EXPONENT = sp.Symbol("a", real=True)


@dataclass(frozen=True, slots=True)
class Claim:
    """``before`` equals ``after`` on the domain; ``edge`` is the point it guards and ``limit`` the
    value given there.
    """

    before: Callable[..., Any]
    after: Callable[..., Any]
    is_positive: bool = False
    is_vector: bool = False
    edge: Any = None
    limit: Any = None


def _where(condition: Any, a: Any, b: Any) -> Any:
    return sp.Piecewise((a, condition), (b, True))


def _softmax(xs: tuple[Any, ...]) -> list[Any]:
    top = sp.Symbol("m", real=True)  # any shift: the greatest entry is one
    total = sum(sp.exp(x - top) for x in xs)
    return [sp.exp(x - top) / total for x in xs]


def _log_softmax(xs: tuple[Any, ...]) -> list[Any]:
    top = sp.Symbol("m", real=True)
    total = sum(sp.exp(x - top) for x in xs)
    return [x - top - sp.log(total) for x in xs]


def _naive_softmax(xs: tuple[Any, ...]) -> list[Any]:
    return [sp.exp(x) / sum(sp.exp(y) for y in xs) for x in xs]


def _shifted_logsumexp(xs: tuple[Any, ...]) -> list[Any]:
    top = sp.Symbol("m", real=True)
    return [sp.log(sum(sp.exp(x - top) for x in xs)) + top]


CLAIMS: Mapping[str, Claim] = {
    "sqrt": Claim(sp.sqrt, lambda x: _where(x > 0, sp.sqrt(x), 0), True, edge=0, limit=0),
    "log": Claim(sp.log, lambda x: _where(x > 0, sp.log(x), -69), True),
    "xlogx": Claim(
        lambda x: x * sp.log(x), lambda x: _where(x > 0, x * sp.log(x), 0), True, edge=0, limit=0
    ),
    "power": Claim(lambda x: x**_EXPONENT, lambda x: _where(x > 0, x**_EXPONENT, 0), True),
    "divide": Claim(lambda x: 1 / x, lambda x: _where(sp.Ne(x, 0), 1 / x, 0), True),
    "sigmoid": Claim(lambda x: 1 / (1 + sp.exp(-x)), lambda x: sp.exp(x) / (1 + sp.exp(x))),
    "softplus": Claim(lambda x: sp.log(1 + sp.exp(x)), lambda x: x + sp.log(1 + sp.exp(-x))),
    "softmax": Claim(_naive_softmax, _softmax, is_vector=True),
    "log_softmax": Claim(
        lambda xs: [sp.log(p) for p in _naive_softmax(xs)], _log_softmax, is_vector=True
    ),
    "logsumexp": Claim(
        lambda xs: [sp.log(sum(sp.exp(x) for x in xs))], _shifted_logsumexp, is_vector=True
    ),
}


@cache
def is_proved(name: str) -> bool:
    """Whether SymPy finds both sides of the rewrite equal on its domain (and at its edge, in the
    limit).
    """
    claim = CLAIMS.get(name)
    if claim is None:
        return False
    if claim.is_vector:
        xs = tuple(sp.Symbol(f"x{i}", real=True) for i in range(_COUNT))
        pairs = zip(claim.before(xs), claim.after(xs), strict=True)
        return all(_is_equal(a, b) for a, b in pairs)
    x = sp.Symbol("x", real=True, positive=True if claim.is_positive else None)
    if not _is_equal(claim.before(x), claim.after(x)):
        return False
    if claim.edge is None:
        return True
    edge = sp.limit(claim.before(x), x, claim.edge, "+")
    return bool(sp.simplify(edge - claim.limit) == 0)


def _is_equal(a: Any, b: Any) -> bool:
    """Equality of real expressions: of the difference, or of the exponentials where logarithms hide
    it.
    """
    if sp.simplify(a - b) == 0:
        return True
    return bool(sp.simplify(sp.expand(sp.exp(a)) / sp.expand(sp.exp(b))) == 1)
